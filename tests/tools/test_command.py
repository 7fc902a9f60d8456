"""How every command ends."""

import pytest

from loaders.errors import FastvitError, MissingPackageError
from tools._command import run_command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (FastvitError("bad input"), 1, "error: bad input\n"),
        (OSError(28, "No space left on device", "x"), 1, "error: [Errno 28] No space left on device: 'x'\n"),
        (MissingPackageError("install it"), 1, "error: install it\n"),
        (KeyboardInterrupt(), 130, "interrupted: nothing is left\n"),
    ],
)
def test_exit_codes(error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]):
    def fail() -> None:
        raise error

    assert run_command(fail, interrupted="interrupted: nothing is left") == code
    assert capsys.readouterr() == ("", message)


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), (2, 2)])
def test_exit_codes_of_work_that_ends(result: int | None, code: int, capsys: pytest.CaptureFixture[str]):
    assert run_command(lambda: result, interrupted="") == code
    assert capsys.readouterr() == ("", "")
