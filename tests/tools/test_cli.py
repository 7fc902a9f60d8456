import subprocess
import sys
from pathlib import Path

import pytest

import tools
from tools.cli import COMMANDS, main


def test_every_tool_is_a_command():
    folder = Path(tools.__file__).parent
    runnable = {path.stem.replace("_", "-") for path in folder.glob("*.py") if "\ndef main(" in path.read_text()}
    assert set(COMMANDS) == runnable - {"cli"}


def test_a_tool_gets_its_options_and_gives_the_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(sys, "argv", ["fastvit-data"])
    assert main(["verify", str(tmp_path / "missing.beton")]) == 2  # verify's own code for nothing to verify
    assert "missing.beton" in capsys.readouterr().err


def test_an_unknown_command_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["convert"])
    assert "'write-ffcv'" in capsys.readouterr().err


def test_help_lists_the_commands_without_waiting_for_their_imports():
    script = (
        "import sys, tools.cli, atexit; atexit.register(lambda: print('numpy' in sys.modules)); tools.cli.main(['-h'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.endswith("False\n")
