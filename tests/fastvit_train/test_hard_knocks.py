"""Real processes that are killed, stopped and started again: what they train has the same bits as if they were not."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from backends import is_installed, of_backend
from fastvit_train import checkpoint
from fastvit_train.config import Config
from fastvit_train.metrics import read_metrics
from fastvit_train.signals import EXIT_STOPPED
from loaders.order import epoch_order
from runs import same, save_config, weights

TESTS = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run_ranks(*items, records: Path) -> list[list[int]]:
    """The exit codes of the ranks of each item of ranks.py."""
    command = [sys.executable, str(TESTS / "ranks.py"), json.dumps(items), str(records)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def wait_for_step(process: subprocess.Popen, config: Config, step: int) -> None:
    """Wait until the run has logged the step."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(line["step"] >= step for line in read_metrics(config.out / "metrics.jsonl")):
            return
        time.sleep(0.02)
    process.kill()
    output, _ = process.communicate()
    raise AssertionError(f"the run did not come to step {step}: {output}")


@pytest.mark.parametrize("backend", [of_backend("dali"), "native", "torch", "resident"])
def test_killed_runs_end_with_the_same_bits(backend):
    """A kill in each of four moments; `python tests/kills.py` does it twenty times for each backend."""
    command = [sys.executable, str(TESTS / "kills.py"), "--kills", "4", "--backends", backend]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("same bits") == 4


def test_a_signal_to_all_processes_of_a_run(config):
    """Slurm and `timeout` do so: the torch backend's workers are among them."""
    data = replace(config.data, backend="torch", num_workers=2)
    long = replace(config, epochs=400, data=data, log_every_steps=1)
    command = [sys.executable, "-m", "fastvit_train.cli", "--config", save_config(long)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0)
    wait_for_step(process, long, 5)
    workers = psutil.Process(process.pid).children()
    assert len(workers) >= 2
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == EXIT_STOPPED, said
    assert "stopped     by SIGTERM at step" in said
    assert not psutil.wait_procs(workers, timeout=20)[1]
    assert checkpoint.load(config.out / "checkpoint.pt")["progress"]["step"] >= 5


def test_the_samples_go_on_with_another_number_of_ranks(config, tmp_path):
    """Two ranks, stopped by a signal that one of them gets; then one, then four: no sample is lost or comes twice."""
    records = tmp_path / "records.jsonl"
    saved = save_config(config)
    codes = run_ranks(
        {"world_size": 2, "config": saved, "signal": [1, 4]},
        {"world_size": 1, "config": saved, "max_steps": 9},
        {"world_size": 4, "config": saved},
        records=records,
    )
    assert codes == [[EXIT_STOPPED] * 2, [0], [0] * 4]
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    # The ranks agree at log steps, of which the sixth is the first after the signal in the fifth.
    assert [len([line for line in lines if line["step"] == step]) for step in range(12)] == [2] * 6 + [1] * 3 + [4] * 3
    for step in range(12):
        ranks = sorted((line["rank"], line["index"]) for line in lines if line["step"] == step)
        first = step % 4 * 32
        order = epoch_order("random", size=140, seed=0, epoch=step // 4, start=first, stop=first + 32)
        assert [index for _, indices in ranks for index in indices] == order.tolist()


def test_torchrun_starts_a_killed_rank_again(config, tmp_path):
    """SIGKILL for one rank, then SIGTERM for torchrun: both times the run goes on as if nothing had happened."""
    config = replace(config, epochs=40, checkpoint_every_steps=3, eval_every_epochs=10, log_every_steps=1)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "--max-restarts", "2", "-m", "fastvit_train.cli", "--config", save_config(config)]
    process = subprocess.Popen(
        [*command, "--resume", "auto"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_step(process, config, 20)
    ranks = psutil.Process(process.pid).children()
    next(rank for rank in ranks if rank.environ().get("RANK") == "1").kill()
    wait_for_step(process, config, 60)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=100)
    assert "continuing from" in said, said
    assert process.returncode == 1, "torchrun has no other exit code after a signal"
    assert "stopped     by SIGTERM at step" in said, said
    assert 60 <= checkpoint.load(config.out / "checkpoint.pt")["progress"]["step"] < 160

    resumed = save_config(config)
    whole = replace(config, out=tmp_path / "other" / "whole")
    whole.out.parent.mkdir()
    codes = run_ranks(
        {"world_size": 2, "config": resumed},
        {"world_size": 2, "config": save_config(whole)},
        records=tmp_path / "records.jsonl",
    )
    assert codes == [[0, 0]] * 2
    assert same(weights(config.out), weights(whole.out))
    steps = [line["step"] for line in read_metrics(config.out / "metrics.jsonl") if line["kind"] == "train"]
    assert steps == list(range(1, 161))


def test_nothing_grows_from_epoch_to_epoch(tmp_path):
    """After the first epochs, neither memory nor threads (those of C++ counted) nor files nor worker processes."""
    backends = ["native", "torch", "resident", *(["dali"] if is_installed("dali") else [])]
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(TESTS / "growth.py"), "--epochs", "40", "--json", str(figures), "--backends"]
    done = subprocess.run([*command, *backends], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for backend, epochs in json.loads(figures.read_text()).items():
        for name in ("threads", "files", "processes"):
            assert {epoch[name] for epoch in epochs[5:]} == {epochs[5][name]}, (backend, name)
        # What the kernel counts varies by some 8 MB; 0.8 MB an epoch would show.
        assert epochs[-1]["memory MB"] < epochs[20]["memory MB"] + 16, backend
