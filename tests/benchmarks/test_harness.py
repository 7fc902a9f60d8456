"""What a contender costs includes what its children cost; who waits for the rounds is told how long."""

import subprocess
import sys
import time
from functools import partial

import numpy as np
import psutil
import pytest

from benchmarks.harness import Contender, Turn, cpu_seconds, started, take_turns
from loaders.errors import FastvitError

_NUM_BYTES = 300 << 20


def _nothing():
    return None


def _one(_):
    return 1


def _numbered(name, number):
    return Turn(num_images=number, seconds=1, cpu_seconds="ab".index(name), peak_rss_bytes=1)


def _spend_memory_in_a_child(_):
    code = f"import time; memory = b'x' * {_NUM_BYTES}; time.sleep(0.5)"
    subprocess.run([sys.executable, "-c", code], check=True)
    return 1


def test_memory_of_a_child_that_has_ended_counts_when_watched():
    with Contender("spender", _nothing) as contender:
        contender.wait_until_ready()
        watched = contender.run_watched(_spend_memory_in_a_child)
        assert watched > contender.run(_spend_memory_in_a_child).peak_rss_bytes + _NUM_BYTES


_SPIN = "import time\nwhile time.process_time() < 0.5: pass\n"
_SPIN_IN_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_SPIN!r}])"


@pytest.mark.parametrize("code", [_SPIN, _SPIN_IN_A_CHILD])
def test_what_children_compute_counts_after_they_have_ended(code):
    before = cpu_seconds()
    subprocess.run([sys.executable, "-c", code], check=True)
    assert cpu_seconds() - before >= 0.45


def test_what_a_child_of_a_child_computed_counts_while_the_child_lives():
    before = cpu_seconds()
    code = f"{_SPIN_IN_A_CHILD}; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert cpu_seconds() - before >= 0.45


def test_rounds_say_how_much_time_is_left(monkeypatch, capsys):
    now = iter([100.0, 160.0, 280.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    turns = take_turns(["a", "b"], 3, _numbered)
    assert [turn.num_images for turn in turns["a"]] == [1, 2, 3]
    assert [turn.cpu_seconds for turn in turns["b"]] == [1, 1, 1]
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["round 1 of 3", "round 2 of 3, 2.0 min left", "round 3 of 3, 1.5 min left"]
    assert not captured.out


def test_all_contenders_are_ready_when_started(capsys):
    with started({"first": _nothing, "second": _nothing}) as contenders:
        assert contenders["second"].run(_one).num_images == 1
    assert capsys.readouterr().err.splitlines() == ["preparing first", "preparing second", "warming up"]


def _number():
    return 7


def _text_of(subject):
    return f"the subject is {subject}"


def test_a_subject_is_asked_for_what_turns_do_not_say():
    with started({"first": _number}) as contenders:
        assert contenders["first"].ask(_text_of) == "the subject is 7"
        assert contenders["first"].run(_one).num_images == 1
        with pytest.raises(RuntimeError, match="first failed: (.|\n)*KeyError: 'whence'"):
            contenders["first"].ask(_break)


def _refuse():
    raise FastvitError("the file is damaged")


def _break(_):
    raise KeyError("whence")


def test_a_subject_that_cannot_be_made_is_reported_in_a_line():
    with pytest.raises(RuntimeError, match="^second failed: the file is damaged$"), started({"second": _refuse}):
        pass


def test_work_that_fails_is_reported_with_its_traceback():
    failed = pytest.raises(RuntimeError, match="first failed: (.|\n)*KeyError: 'whence'")
    with started({"first": _nothing}) as contenders, failed:
        contenders["first"].run(_break)


def _prepare_exit():
    return partial(sys.exit)


def test_a_process_that_dies_is_noticed():
    with Contender("suicidal", _prepare_exit) as contender:
        contender.wait_until_ready()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the process of suicidal died"):
                contender.run(_call)


def _call(subject):
    return subject(3)


class _Sleeper:
    """Picklable work that starts a child and never ends."""

    def __init__(self, path):
        self.path = path

    def __call__(self, _):
        child = subprocess.Popen(["sleep", "600"])
        self.path.write_text(str(child.pid))
        time.sleep(600)
        return 0


def test_work_that_takes_too_long_is_killed_with_its_children(tmp_path):
    path = tmp_path / "child"
    with Contender("sleeper", _nothing) as contender:
        contender.wait_until_ready(timeout_seconds=60)
        with pytest.raises(TimeoutError, match="^sleeper took longer than 2 s$"):
            contender.run(_Sleeper(path), timeout_seconds=2)
        child = psutil.Process(int(path.read_text())) if psutil.pid_exists(int(path.read_text())) else None
        assert child is None or child.status() == psutil.STATUS_ZOMBIE
        with pytest.raises(RuntimeError, match="the process of sleeper died"):
            contender.run(_one)


def _map_a_file_and_keep_memory(path):
    mapped = np.memmap(path, np.uint8, "r")
    return mapped, int(mapped[::4096].sum()), np.ones(_NUM_BYTES, np.uint8)


def test_memory_of_files_is_not_anonymous(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(_NUM_BYTES))
    with Contender("mapper", partial(_map_a_file_and_keep_memory, path)) as contender:
        contender.wait_until_ready()
        anonymous = contender.anonymous_rss_bytes()
        whole = contender.run(_one).peak_rss_bytes
    assert anonymous > _NUM_BYTES
    assert whole - anonymous > _NUM_BYTES
