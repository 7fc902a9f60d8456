"""The run's curves as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from fastvit_train.metrics import read_metrics


def plot_run(folder: Path) -> Path:
    """Draw loss and accuracy over the steps from `metrics.jsonl` into `curves.png`; returns its path."""
    lines = read_metrics(folder / "metrics.jsonl")
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for kind, accuracy, style in (("train", "accuracy", "-"), ("eval", "top1", "o-")):
        points = [line for line in lines if line["kind"] == kind]
        steps = [line["step"] for line in points]
        losses.plot(steps, [line["loss"] for line in points], style, label=kind)
        accuracies.plot(steps, [100 * line[accuracy] for line in points], style, label=kind)
    losses.set(xlabel="step", ylabel="loss", title=folder.name)
    accuracies.set(xlabel="step", ylabel="accuracy (%)", title="accuracy")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.legend()
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path
