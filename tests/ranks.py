"""Train with several ranks without torchrun: they are forked from one process, which imports torch once for all.

    python tests/ranks.py '[{"world_size": 2, "config": "config.json", "max_steps": 3}, ...]' RECORDS

One item after the other. The samples of each step go to the file RECORDS, a line a rank: `{"step", "rank", "index"}`.
Prints the exit codes of the ranks, a line an item. `"signal": [RANK, STEP]` sends SIGUSR1 to a rank in a step.
"""

import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import fastvit_train.train as training
from fastvit_train.config_json import from_dict


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def train_rank(rank: int, item: dict[str, Any], port: int, records: Path) -> int:
    """Train in this process as the rank; returns its exit code."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": item["world_size"], "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "localhost"})
    step = training.train_step

    def recorded(run: Any, images: Any, labels: Any, index: Any, totals: Any) -> None:
        line = json.dumps({"step": run.progress.step, "rank": rank, "index": index.tolist()})
        with records.open("a") as file:
            file.write(line + "\n")
        if item.get("signal") == [rank, run.progress.step]:
            signal.raise_signal(signal.SIGUSR1)
        step(run, images, labels, index, totals)

    training.train_step = recorded
    config = from_dict(json.loads(Path(item["config"]).read_text()))
    try:
        training.train(replace(config, resume="auto", max_steps=item.get("max_steps")))
    except SystemExit as stopped:
        return int(str(stopped.code))
    return 0


def main() -> None:
    torch.set_num_threads(1)
    for item in json.loads(sys.argv[1]):
        port, processes = free_port(), []
        for rank in range(item["world_size"]):
            process = os.fork()
            if process:
                processes.append(process)
                continue
            code = 1
            try:
                sys.stdout = sys.stderr
                code = train_rank(rank, item, port, Path(sys.argv[2]))
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        print([os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes], flush=True)


if __name__ == "__main__":
    main()
