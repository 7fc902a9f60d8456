"""Pickles as plain data: nothing that they name is imported, nothing is called."""

import pickle
from collections.abc import Callable
from typing import IO, Any, ClassVar

from loaders.errors import FastvitError

__all__ = ["DamagedPickleError", "ForeignObject", "load_inert"]


class DamagedPickleError(Exception):
    """The bytes are no pickle, or a damaged one."""


class ForeignObject:
    """In place of an object whose class is not plain data: what the pickle says of it.

    The class or function that a pickle names is a subclass of this one, and what it would make is an instance.
    """

    source: ClassVar[str] = ""
    """The dotted name of the class or function."""
    args: tuple[Any, ...]
    """What it is called with."""
    state: Any
    """The attributes, as the object's class would have got them; None without any."""
    items: dict[Any, Any]
    """The entries, where it is a kind of dict."""

    def __new__(cls, *args: object, **_: object) -> "ForeignObject":
        """Take any arguments."""
        made = super().__new__(cls)
        made.args, made.state, made.items = args, None, {}
        return made

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items[key] = value

    def append(self, value: object) -> None:
        """Leave out an item of a kind of list."""

    def add(self, value: object) -> None:
        """Leave out an item of a kind of set."""


class _OrderedDict(dict[Any, Any]):
    """In place of `OrderedDict`: state dicts are of that class, with versions of the modules as their attribute."""

    def __setstate__(self, state: object) -> None:
        """Leave these out."""


# The one in Python: that in C allocates memory for whatever number a memo entry is given.
class _InertUnpickler(pickle._Unpickler):
    """Makes plain data and instances of `ForeignObject`, nothing else."""

    def __init__(self, file: IO[bytes], *, persistent: Callable[[Any], Any] | None) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self._persistent = persistent
        self._classes: dict[tuple[str, str], type] = {
            ("collections", "OrderedDict"): _OrderedDict,
            ("__builtin__", "set"): set,  # which has a name below protocol 4
            ("builtins", "set"): set,
        }

    def find_class(self, module: str, name: str) -> type:
        """The stand-in for a class or function."""
        if (module, name) not in self._classes:
            self._classes[module, name] = type("ForeignObject", (ForeignObject,), {"source": f"{module}.{name}"})
        return self._classes[module, name]

    def persistent_load(self, pid: object) -> object:
        """What stands outside the pickle."""
        if self._persistent is None:
            raise DamagedPickleError("it refers to something outside it")
        return self._persistent(pid)

    def get_extension(self, code: int) -> None:
        """Refuse what stands in a registry of this process."""
        raise DamagedPickleError(f"it refers to the extension {code}")


def load_inert(file: IO[bytes], *, persistent: Callable[[Any], Any] | None = None) -> Any:  # noqa: ANN401 - any content
    """Read one pickle; the file then stands behind it.

    Args:
        file: At the start of the pickle.
        persistent: Makes something of a persistent id; without it there must be none.

    Returns:
        None, numbers, strings, bytes, dicts, lists, tuples and sets as they are, all else as `ForeignObject`: functions
        and classes as subclasses of it.

    Raises:
        DamagedPickleError: It is none, or damaged.

    Examples:
        >>> import argparse, io, pickle
        >>> from fastvit_train.inert_pickle import load_inert
        >>> saved = pickle.dumps({"epoch": 3, "args": argparse.Namespace(lr=0.1)})
        >>> content = load_inert(io.BytesIO(saved))
        >>> content["epoch"], content["args"].source, content["args"].state
        (3, 'argparse.Namespace', {'lr': 0.1})
    """
    try:
        return _InertUnpickler(file, persistent=persistent).load()
    except (DamagedPickleError, FastvitError):  # the latter from `persistent`
        raise
    except EOFError as error:
        raise DamagedPickleError("it is cut short") from error
    except Exception as error:  # there is no end of the ways in which damaged bytes can fail
        raise DamagedPickleError(f"{type(error).__name__}: {error}") from error
