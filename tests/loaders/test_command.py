"""How every command ends."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loaders.command import run_command
from loaders.errors import FastvitError, MissingPackageError, reason_of


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


# A command that prints more than a pipe holds, then does what it is for. The file's number says what else is open.
WORK = """
import sys
from loaders.command import run_command

def work():
    for _ in range(3000):
        print("x" * 99)
    print("a warning", file=sys.stderr)
    with open("done", "w") as file:
        file.write(str(file.fileno()))
{end}

sys.exit(run_command(work, interrupted=""))
"""


def run_script(folder: Path, end: str = "", *, flags: tuple[str, ...] = (), script: str = WORK, **options: object):
    arguments = [sys.executable, *flags, "-c", script.format(end=f"    {end}")]
    return subprocess.run(arguments, cwd=folder, env=ENVIRONMENT, text=True, timeout=50, **options)


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def closed_pipe():
    """The end of a pipe to write to; nobody reads from it."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("flags", [(), ("-u",)])
@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("return 2", 2), ("sys.exit(0)", 0), ("sys.exit(75)", 75), ("raise KeyboardInterrupt", 130)],
)
def test_a_closed_pipe_is_no_error(tmp_path: Path, closed_pipe: int, end: str, code: int, flags: tuple[str, ...]):
    done = run_script(tmp_path, end, flags=flags, stdout=closed_pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.strip()) == (code, "a warning")
    assert (tmp_path / "done").exists()


def test_closed_pipes_for_output_and_messages(tmp_path: Path, closed_pipe: int):
    assert run_script(tmp_path, stdout=closed_pipe, stderr=closed_pipe).returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(("end", "code"), [("", 1), ("sys.exit(0)", 1), ("return 2", 2), ("sys.exit(75)", 75)])
def test_output_that_a_full_disk_loses_is_an_error_at_the_end(tmp_path: Path, end: str, code: int):
    with open("/dev/full", "w") as full:
        done = run_script(tmp_path, end, stdout=full, stderr=subprocess.PIPE)
    message = "error: not all output could be written: No space left on device" if code == 1 else ""
    assert (done.returncode, done.stderr.strip()) == (code, f"a warning\n{message}".strip())
    assert (tmp_path / "done").exists()


def test_messages_that_a_full_disk_loses_are_an_error_too(tmp_path: Path):
    with open("/dev/full", "w") as full:
        assert run_script(tmp_path, stdout=subprocess.DEVNULL, stderr=full).returncode == 1
    assert (tmp_path / "done").exists()


def test_a_command_without_standard_files(tmp_path: Path):
    """What it opens must not get their numbers, for libraries print to these."""
    code = f'{sys.executable} -c "$0" <&- >&- 2>&-'
    done = subprocess.run(["bash", "-c", code, WORK.format(end="")], cwd=tmp_path, env=ENVIRONMENT, timeout=50)
    assert done.returncode == 0
    assert int((tmp_path / "done").read_text()) > 2


def test_a_pipe_that_does_not_block_gets_all_output(tmp_path: Path):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    arguments = [sys.executable, "-c", WORK.format(end="")]
    with subprocess.Popen(arguments, cwd=tmp_path, env=ENVIRONMENT, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        time.sleep(0.3)  # until it is full
        with open(reader, "rb") as file:
            assert len(file.read()) == 300_000
        assert process.communicate()[1] == b"a warning\n"
    assert process.returncode == 0


def test_names_of_any_bytes_can_be_printed(tmp_path: Path):
    script = "import os\nfrom loaders.command import run_command\n"
    script += r"run_command(lambda: print(os.fsdecode(b'\xe9.jpg'), '\u732b'), interrupted='')"
    for encoding, text in (("utf-8", "\\udce9.jpg \u732b\n"), ("ascii", "\\udce9.jpg \\u732b\n")):
        environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=50)
        assert (done.returncode, done.stdout.decode(), done.stderr) == (0, text, b"")


COMMANDS = {
    "fastvit-train": ["-m", "fastvit_train.cli"],
    "fastvit-train eval": ["-m", "fastvit_train.cli", "eval"],
    "fastvit-data": ["-c", "import sys; from tools.cli import main; sys.exit(main())"],
    "fastvit-data merge": ["-c", "import sys; from tools.cli import main; sys.exit(main())", "merge"],
    "fastvit-bench": ["-c", "import sys; from benchmarks.cli import main; sys.exit(main())"],
    "a tool": ["tools/verify.py"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_command_ends_quietly_when_nobody_reads_its_help(command: list[str], closed_pipe: int):
    arguments = [sys.executable, *command, "--help"]
    root = Path(__file__).parents[2]
    done = subprocess.run(arguments, cwd=root, env=ENVIRONMENT, stdout=closed_pipe, stderr=subprocess.PIPE, timeout=50)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (RuntimeError("\n"), "RuntimeError"),
        (OSError("\nfirst\n"), "first"),
    ],
)
def test_reasons(error: Exception, reason: str):
    assert reason_of(error) == reason
