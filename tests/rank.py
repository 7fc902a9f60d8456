"""A rank of a run, for tests that start several: `rank.py CONFIG.json [SAMPLE...]` trains and notes what it saw.

`rank-NUMBER.json` in the run folder has the samples of each step, and the running means of batch normalisation at each
evaluation. The samples that the command line names are left out.
"""

import json
import os
import sys
from pathlib import Path

from fastvit_train import train as training
from fastvit_train.config_json import from_dict
from runs import LeavingOut


def main() -> None:
    """Train the config that the command line names."""
    config = from_dict(json.loads(Path(sys.argv[1]).read_text()))
    left_out = {int(number) for number in sys.argv[2:]}
    steps: list[list[int]] = []
    means: list[list[float]] = []
    build_loaders, train_step, evaluate = training.build_loaders, training.train_step, training.evaluate

    def built(*args):
        train_loader, *rest = build_loaders(*args)
        return LeavingOut(train_loader, left_out), *rest

    def trained(run, images, labels, index, totals):
        steps.append(index.tolist())
        train_step(run, images, labels, index, totals)

    def evaluated(model, *args, **options):
        buffers = [buffer for name, buffer in model.named_buffers() if name.endswith("running_mean")]
        means.append([number for buffer in buffers for number in buffer.tolist()])
        return evaluate(model, *args, **options)

    training.build_loaders, training.train_step, training.evaluate = built, trained, evaluated
    training.train(config)
    seen = {"steps": steps, "means": means}
    (config.out / f"rank-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
