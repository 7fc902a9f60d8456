"""Runs: what is asked of `fastvit-train`, what is done already, and how a program's end is told."""

import io
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from benchmarks.reference import runs
from benchmarks.reference.runs import Ending, _copy, run_program
from fastvit_train.cli import parse

FOREVER = float("inf")


def test_the_command_can_be_typed_as_it_is(programs, make_experiment):
    (run,) = programs.planned(make_experiment("tuned", starts_from="first"), seed=3)
    assert run.command == (
        "fastvit-train --preset cifar10-quick --epochs 6 --seed 3 --data.train train.beton --data.val val.beton "
        f"--init-from {programs.out}/first/best.pt --out {programs.out}/tuned --resume auto"
    )
    assert parse(run.arguments) == run.config


def test_states(programs, make_experiment):
    (run,) = programs.planned(make_experiment("first"))
    assert run.state == "new"
    programs.end("first", 1)
    run_program("fastvit-train", run.arguments, log=run.folder / "log.txt", deadline=FOREVER)
    assert run.state == "begun"
    programs.end("first", 0)
    run_program("fastvit-train", run.arguments, log=run.folder / "log.txt", deadline=FOREVER)
    assert run.state == "done"


@pytest.mark.parametrize("how", ["0", "1"])
def test_a_run_with_other_options_is_not_taken_for_this_one(programs, make_experiment, how):
    (run,) = programs.planned(make_experiment("first"))
    programs.end("first", how)
    run_program("fastvit-train", run.arguments, log=run.folder / "log.txt", deadline=FOREVER)
    assert programs.planned(make_experiment("first"))[0].config == run.config
    with pytest.raises(ValueError, match=r"out/first has a run with other options \(seed 0 -> 1\); give those as befo"):
        programs.planned(make_experiment("first"), seed=1)


def test_output_goes_here_and_into_the_log(programs, make_experiment, capsys):
    (run,) = programs.planned(make_experiment("first"))
    log = run.folder / "log.txt"
    programs.end("first", 3)
    assert run_program("fastvit-train", run.arguments, log=log, deadline=FOREVER) == Ending(3, None)
    programs.end("first", 0)
    assert run_program("fastvit-train", run.arguments, log=log, deadline=FOREVER) == Ending(0, None)
    started = f"started {' '.join(run.arguments)}\n"
    assert capsys.readouterr().out == 2 * started
    assert log.read_text() == 2 * f"$ {run.command}\n{started}"


def test_the_real_program_has_the_name_that_is_typed(tmp_path, capsys):
    ending = run_program("fastvit-bench", ["--help"], log=tmp_path / "log.txt", deadline=FOREVER)
    assert ending == Ending(0, None)
    assert capsys.readouterr().out.startswith("usage: fastvit-bench ")


def test_at_the_deadline_a_run_is_asked_to_stop(programs, make_experiment, monkeypatch):
    (run,) = programs.planned(make_experiment("first"))
    programs.end("first", "wait")
    log = run.folder / "log.txt"
    now = SimpleNamespace(monotonic=lambda: 10.0 if log.exists() and "waiting" in log.read_text() else 0.0)
    monkeypatch.setattr(runs, "time", now)
    assert run_program("fastvit-train", run.arguments, log=log, deadline=5.0) == Ending(75, "time")


def test_a_run_that_has_not_begun_at_the_deadline_has_nothing_to_lose(programs, make_experiment):
    (run,) = programs.planned(make_experiment("first"))
    ending = run_program("fastvit-train", run.arguments, log=run.folder / "log.txt", deadline=0.0)
    assert ending in (Ending(-signal.SIGTERM, "time"), Ending(0, None))


def stop_when_waiting(log, stop):
    """Call `stop` once the program waits to be stopped."""

    def watch():
        while not (log.exists() and "waiting" in log.read_text()):
            time.sleep(0.01)
        stop()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_passed_on(programs, make_experiment, number):
    (run,) = programs.planned(make_experiment("first"))
    programs.end("first", "wait")
    log = run.folder / "log.txt"
    stop_when_waiting(log, lambda: os.kill(os.getpid(), number))
    assert run_program("fastvit-train", run.arguments, log=log, deadline=FOREVER) == Ending(75, "signal")


def test_ctrl_c_is_passed_on_and_waited_for(programs, make_experiment):
    (run,) = programs.planned(make_experiment("first"))
    programs.end("first", "wait")
    log = run.folder / "log.txt"
    stop_when_waiting(log, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_program("fastvit-train", run.arguments, log=log, deadline=FOREVER)
    assert (programs.folder / "stopped_by.txt").read_text() == "[130]"


def test_where_the_log_cannot_be_written_nothing_starts(programs, make_experiment):
    (run,) = programs.planned(make_experiment("first"))
    run.folder.mkdir(parents=True)
    (run.folder / "log.txt").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"log\.txt: cannot be written: No space"):
        run_program("fastvit-train", run.arguments, log=run.folder / "log.txt", deadline=FOREVER)
    assert programs.started == []


def test_a_disk_that_fills_up_does_not_hold_the_program_up(capsys):
    lines = [f"line {number}\n".encode() for number in range(3)]
    with open("/dev/full", "wb", buffering=0) as log:
        _copy(io.BytesIO(b"".join(lines)), log)
    assert capsys.readouterr().out.encode() == b"".join(lines)
