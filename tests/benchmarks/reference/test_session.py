"""Sessions: what is done is not repeated, what was stopped is continued, what fails does not hold the others up."""

import json
import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from benchmarks.reference import runs, session
from benchmarks.reference.experiments import SCALES
from benchmarks.reference.session import Session, Stop
from benchmarks.row_files import read_rows

FOREVER = float("inf")


@pytest.fixture
def pages(monkeypatch):
    """The rows of each page that is made."""
    found = []
    monkeypatch.setattr(session, "bench_report", lambda options: found.append(read_rows(options.inputs[0])))
    return found


@pytest.fixture
def experiments(make_experiment, monkeypatch):
    found = (
        make_experiment("first"),
        make_experiment("tuned", starts_from="first"),
        make_experiment("last", part="fractions"),
    )
    monkeypatch.setitem(SCALES, "cpu", found)
    return found


def work(programs, experiments, *, deadline=FOREVER, with_inference=True):
    found = Session(scale="cpu", out=programs.out, deadline=deadline)
    return found.work(programs.planned(*experiments), with_inference=with_inference)


def names_of_rows(rows):
    return [row.get("experiment") or f"inference of {row['run']}" for row in rows]


def test_everything_once(programs, experiments, pages):
    assert work(programs, experiments) is None
    assert programs.started_runs == ["first", "tuned", "last", "inference"]
    # Both models of the table are the same network at the same resolution: one of them is measured.
    all_rows = ["first", "tuned", "last", "inference of first"]
    assert [names_of_rows(rows) for rows in pages] == [["first"], ["first", "tuned"], all_rows[:3], all_rows]
    assert work(programs, experiments) is None
    assert len(programs.started) == 4
    assert read_rows(programs.out / "rows.jsonl") == pages[3]
    assert sorted(path.name for path in programs.out.iterdir()) == [
        *("first", "inference.log", "last", "rows.jsonl", "tuned")
    ]


def test_a_lost_row_is_made_of_the_run_folder(programs, experiments, pages):
    work(programs, experiments, with_inference=False)
    (programs.out / "rows.jsonl").unlink()
    work(programs, experiments, with_inference=False)
    assert len(programs.started) == 3
    assert sorted(names_of_rows(pages[-1])) == ["first", "last", "tuned"]


def test_a_run_that_is_made_again_replaces_its_row_and_its_inference(programs, experiments, pages):
    work(programs, experiments)
    (programs.out / "first" / "result.json").unlink()
    result = json.loads((programs.folder / "result.json").read_text())
    (programs.folder / "result.json").write_text(json.dumps(result | {"top1": 0.75}))
    work(programs, experiments)
    assert programs.started_runs[4:] == ["first", "inference"]
    assert sorted(names_of_rows(pages[-1])) == ["first", "inference of first", "last", "tuned"]
    assert {row["experiment"]: row["top1"] for row in pages[-1] if "experiment" in row} == {
        "first": 0.75,
        "tuned": 0.5,
        "last": 0.5,
    }


@pytest.mark.parametrize(("failing", "done"), [("first", ["last"]), ("tuned", ["first", "last"])])
def test_what_fails_does_not_hold_the_others_up(programs, experiments, pages, capsys, failing, done):
    programs.end(failing, 3)
    with pytest.raises(ValueError, match=rf"{failing} failed with exit code 3: see .*out/{failing}/log\.txt") as error:
        work(programs, experiments, with_inference=False)
    assert ("tuned was left out, as it starts from first" in str(error.value)) == (failing == "first")
    assert names_of_rows(pages[-1]) == done
    assert f"{failing} failed with exit code 3" in capsys.readouterr().err  # already when it did
    programs.end(failing, 0)
    assert work(programs, experiments, with_inference=False) is None
    assert sorted(names_of_rows(pages[-1])) == ["first", "last", "tuned"]


def test_inference_that_fails_leaves_the_rows(programs, experiments, pages):
    programs.end("inference", 1)
    with pytest.raises(ValueError, match=r"^inference failed with exit code 1: see .*inference\.log$"):
        work(programs, experiments)
    assert names_of_rows(read_rows(programs.out / "rows.jsonl")) == ["first", "tuned", "last"]
    programs.end("inference", 0)
    work(programs, experiments)
    assert programs.started_runs[4:] == ["inference"]
    assert names_of_rows(pages[-1])[-1] == "inference of first"


def test_models_are_measured_together(programs, experiments, pages, make_experiment, monkeypatch):
    other = make_experiment("other", options=("--preset", "cifar10-vit-small-fast"))
    monkeypatch.setitem(SCALES, "cpu", (*experiments, other))
    work(programs, experiments)
    work(programs, [other])
    assert programs.started[-1].startswith(f"fastvit-bench inference {programs.out}/first {programs.out}/other --json ")
    measured = ["inference of first", "inference of other"]
    assert names_of_rows(pages[-1]) == ["first", "tuned", "last", "other", *measured]


def test_when_the_time_is_up(programs, experiments, pages, monkeypatch):
    log = programs.out / "tuned" / "log.txt"
    now = SimpleNamespace(monotonic=lambda: 10.0 if log.exists() and "waiting" in log.read_text() else 0.0)
    monkeypatch.setattr(session, "time", now)
    monkeypatch.setattr(runs, "time", now)
    programs.end("tuned", "wait")
    assert work(programs, experiments, deadline=5.0) == Stop("the time is up, and tuned is stopped", 0)
    assert work(programs, experiments, deadline=5.0) == Stop("the time is up, and 2 experiments are left", 0)
    assert work(programs, experiments, with_inference=False) is None
    assert programs.started_runs == ["first", "tuned", "tuned", "last"]
    assert work(programs, experiments, deadline=5.0) == Stop("the time is up, and inference is left", 0)
    assert names_of_rows(pages[-1]) == ["first", "tuned", "last"]


def when_waiting(programs, name, number):
    def watch():
        log = programs.out / name / "log.txt"
        while not (log.exists() and "waiting" in log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


def test_a_signal_stops_the_run_and_the_session(programs, experiments, pages):
    programs.end("first", "wait")
    when_waiting(programs, "first", signal.SIGTERM)
    assert work(programs, experiments) == Stop("a signal came, and first is stopped", 75)
    assert programs.started_runs == ["first"]
    assert pages == []


def test_ctrl_c_stops_the_run_and_the_session(programs, experiments, pages):
    programs.end("tuned", "wait")
    when_waiting(programs, "tuned", signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        work(programs, experiments)
    assert names_of_rows(pages[-1]) == ["first"]
    assert work(programs, experiments, with_inference=False) is None
    assert programs.started_runs == ["first", "tuned", "tuned", "last"]
