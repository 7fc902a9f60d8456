"""The error whose message is for the user."""

__all__ = ["FastvitError", "MissingPackageError", "reason_of"]


class FastvitError(ValueError):
    """Something that the user gave cannot be used; the message says what, where, its value and what to do.

    Commands print the message and exit with 1. Every other error is a fault of ours and keeps its traceback.

    Examples:
        >>> from loaders.errors import FastvitError
        >>> raise FastvitError("resolution must be positive, got 0")
        Traceback (most recent call last):
        loaders.errors.FastvitError: resolution must be positive, got 0
    """


class MissingPackageError(FastvitError, ImportError):
    """A package that an option needs is not installed; the message has the command that installs it.

    Examples:
        >>> from loaders.errors import FastvitError, MissingPackageError
        >>> try:
        ...     raise MissingPackageError("needs FFCV; install it with: pip install 'fastvit[ffcv]'")
        ... except FastvitError as error:
        ...     print(error)
        needs FFCV; install it with: pip install 'fastvit[ffcv]'
    """


def reason_of(error: BaseException) -> str:
    r"""Why something failed, in one line: the first line of the error's message, or its kind where it has none.

    Examples:
        >>> from loaders.errors import reason_of
        >>> reason_of(RuntimeError("out of memory\nTracing...")), reason_of(EOFError())
        ('out of memory', 'EOFError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]
