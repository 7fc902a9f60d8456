"""How every command ends: an exit code, and for an error or Ctrl-C one message on stderr instead of a traceback."""

import sys
from collections.abc import Callable

from loaders.errors import FastvitError


def run_command(work: Callable[[], int | None], *, interrupted: str) -> int:
    """Do a command's work, and return its exit code.

    Args:
        work: Returns the exit code; none is 0.
        interrupted: What to tell whoever pressed Ctrl-C: what is left, or how to continue.

    Returns:
        The code of `work`, 1 after an error that the user can do something about, 130 after Ctrl-C.
    """
    try:
        return work() or 0
    except (FastvitError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
