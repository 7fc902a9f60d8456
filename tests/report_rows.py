"""Rows of every benchmark, as small as reports can take them."""

from typing import Any

ORIGIN = {
    "date": "2026-11-27T08:00:00+00:00",
    "command": "fastvit-bench … --json rows.jsonl",
    "commit": "abc",
    "dirty": False,
    "versions": {"python": "3.11.7", "torch": "2.14.1", "fastvit": None},
    "machine": {"cpu": "A CPU", "cores": 2, "memory_bytes": 2**34, "gpu": None},
}


def speed(rate: float, *, spread: float = 0.02) -> dict[str, Any]:
    """The figures of a contender whose rounds differ by so much."""
    return {
        "images_per_second": rate,
        "images_per_second_interval": [rate * (1 - spread), rate * (1 + spread)],
        "rounds": [rate * (1 - spread), rate, rate * (1 + spread)],
        "cpu_seconds_per_image": 2 / rate,
        "peak_rss_bytes": 2**29,
    }


def _loaders() -> list[dict[str, Any]]:
    common = {"benchmark": "loader", "case": "train", "resolution": 224, "threads": 2, "data": "photos.beton"}
    rates = {"native": 5860.8, "ffcv": 1700.0, "a loader with quite a long name": 1650.0, "limit": 6200.0}
    return [{**common, "loader": name, "ratio_to_first": rate / 5860.8, **speed(rate)} for name, rate in rates.items()]


def _scaling() -> list[dict[str, Any]]:
    common = {"benchmark": "scaling", "case": "train", "resolution": 224, "data": "photos.beton", "open_seconds": 0.01}
    return [
        {**common, "over": over, "loader": loader, "threads": threads, "records": records, **speed(rate)}
        | {"share_of_linear": 0.9 if over == "threads" else None}
        for loader, rate in (("native", 3000.0), ("torch", 800.0))
        for over, threads, records in (
            ("threads", 1, 500),
            ("threads", 2, 500),
            ("records", 2, 1000),
            ("records", 2, 1_000_000),
        )
    ]


def _training() -> list[dict[str, Any]]:
    common = {"preset": "a-preset", "resolution": 32, "batch_size": 500, "device": "cpu", "threads": 2}
    rates = {"train": 900.0, "step": 950.0, "loader": 9000.0, "matmuls": 1500.0}
    steps = [
        {**common, "benchmark": "train", "contender": name, "ratio_to_first": rate / 900, **speed(rate)}
        for name, rate in rates.items()
    ]
    verdict = {"bottleneck": "step", "loader_headroom": 10.0, "step_headroom": 1.06, "share_of_matmul_ceiling": 0.6}
    steps.append({**common, "benchmark": "train", "contender": "verdict", **verdict, "advice": ["A larger batch."]})
    sweep = [
        {**common, "benchmark": "train-sweep", "compile": "off", "channels_last": True, "precision": "bf16"}
        | {"is_best": True, **speed(1000.0)},
        {**common, "benchmark": "train-sweep", "compile": "default", "channels_last": False, "precision": "fp32"}
        | {"batch_size": 4000, "is_best": False, "problem": "out of memory", "images_per_second": None},
    ]
    return [*steps, *sweep]


def _reference_row(experiment: str, top1: float, minutes: float, **changed: Any) -> dict[str, Any]:
    is_vit = experiment.startswith("vit")
    return {
        "benchmark": "reference",
        "scale": "cpu",
        "experiment": experiment,
        "title": experiment.replace("-", " "),
        "part": "table",
        "family": "ViT" if is_vit else "ResNet",
        "reference": None,
        "preset": "cifar10-vit-small-fast" if is_vit else "cifar10-quick",
        "arch": "vit_small_cifar" if is_vit else "resnet_fast_cifar",
        "epochs": 5,
        "resolution": 32,
        "seed": 0,
        "fraction": 1.0,
        "num_train_images": 50_000,
        "starts_from": None,
        "top1": top1,
        "top1_averaged": top1 + 0.01,
        "train_top1": top1 - 0.02,
        "num_parameters": 10_700_000 if is_vit else 2_000_000,
        "train_seconds": 60 * minutes,
        "teacher_seconds": None,
        "eval_seconds": 30.0,
        "device_hours": (60 * minutes + 30) / 3600,
        "images_per_second": 160.0 if is_vit else 550.0,
        "flops": 1e15,
        "device": "cpu",
        "world_size": 1,
        "command": f"fastvit-train --preset a-preset --out reference/{experiment} --resume auto",
    } | changed


def reference_rows() -> list[dict[str, Any]]:
    """Those of the scale cpu, in the order in which they are trained."""
    tiny, short = "vit-small-tiny-imagenet", {"epochs": 2}
    teacher = {"preset": "cifar10-vit-small-distilled", "part": "distillation", "teacher_seconds": 360.0}
    shares = [
        _reference_row(
            f"{name}-{100 * fraction:.0f}",
            top1,
            minutes,
            part="fractions",
            fraction=fraction,
            num_train_images=round(50_000 * fraction),
            epochs=epochs,
        )
        for name, lines in {
            "vit-small": ((0.05, 0.402, 5.6, 22), (0.1, 0.5104, 8.0, 16), (0.3, 0.6688, 13.5, 9)),
            "resnet-fast": ((0.05, 0.6021, 2.0, 27), (0.1, 0.7212, 2.8, 19), (0.3, 0.8417, 4.9, 11)),
        }.items()
        for fraction, top1, minutes, epochs in lines
    ]
    return [
        _reference_row("vit-small-scratch", 0.792, 25.0, reference="vit-small-cifar10"),
        _reference_row("resnet-fast-scratch", 0.9184, 9.0, epochs=6, reference="resnet-fast-cifar10"),
        _reference_row("vit-small-distilled", 0.8153, 18.8, epochs=4, reference="vit-small-distilled") | teacher,
        _reference_row(tiny, 0.314, 25.1, reference="vit-small-tiny-imagenet"),
        _reference_row("vit-small-finetuned", 0.7811, 10.2, starts_from=tiny, reference="vit-small-finetuned") | short,
        _reference_row("vit-small-short", 0.651, 10.0, part="pretraining", **short),
        *shares,
    ]


def _doctor(data: str, miss: float | None) -> dict[str, Any]:
    measured = None if miss is None else 5000 / (1 + miss)
    change = {"name": "restart markers", "how": "fastvit-data write-ffcv --mode restart", "note": "no pixel changes"}
    return {
        "benchmark": "doctor",
        "data": data,
        "preset": None,
        "threads": 2,
        "case": "train",
        "resolution": 224,
        "facts": {"cores": 2, "smt": True, "memory_bytes": 2**34, "cgroup_quota": None},
        "limits": {"decode": 5000.0, "disk": 40_000.0, "copy": None, "step": None},
        "limited_by": "decode",
        "predicted_images_per_second": 5000.0,
        "options": [{**change, "predicted_images_per_second": 6000.0, "gain": 1.2}],
        "cores_for_gpus": {"NVIDIA H200": 1.3},
        "measured_images_per_second": measured,
        "miss": miss,
    }


def _plan(num_gpus: int) -> dict[str, Any]:
    return {
        "benchmark": "plan",
        "preset": "a-preset",
        "num_gpus": num_gpus,
        "num_images": 880_000,
        "epochs": 130,
        "hours": 80 / num_gpus,
        "kilowatt_hours": None,
        "price": 160.0,
        "shares": {"step": 0.9, "loader_wait": 0.06, "evaluation": 0.04, "storage_wait": 0.0},
        "limited_by": "step",
        "needs": {"loader_images_per_second_per_node": 3800.0 * num_gpus, "cores_per_node": 1.3 * num_gpus},
        "assumptions": {"bytes_per_image": 54_451.0, "phases": [{"resolution": 224}]},
    }


def _inference() -> list[dict[str, Any]]:
    # The most accurate, the fastest, and one that was never trained.
    models: dict[str, tuple[dict[str, Any], float]] = {
        "vit-small": ({"run": "vit-small", "top1": 0.85, "arch": "vit_small_cifar", "flops_per_image": 1.4e9}, 200.0),
        "resnet-fast": (
            {"run": "resnet-fast", "top1": 0.83, "arch": "resnet_fast_cifar", "flops_per_image": 2e8},
            800.0,
        ),
        "vit_s16@32": ({"run": None, "top1": None, "arch": "vit_s16", "flops_per_image": 2e8}, 900.0),
    }
    return [
        {"benchmark": "inference", "model": name, "resolution": 32, "num_parameters": 10_700_000, **what}
        | {"batch_size": batch_size, "precision": precision, "compiled": compiled, "device": "cpu", "threads": 2}
        | {"latency_seconds": batch_size / speed_of_case, "latency_seconds_p95": 1.1 * batch_size / speed_of_case}
        | {"compile_seconds": 12.5 if compiled else None, **speed(speed_of_case)}
        for name, (what, rate) in models.items()
        for batch_size in (1, 256)
        for precision in ("fp32", "bf16")
        for compiled in (False, True)
        for speed_of_case in [rate * (1 if precision == "fp32" else 3) * (1.25 if compiled else 1) * batch_size**0.1]
    ]


def _others() -> list[dict[str, Any]]:
    decoding = {"benchmark": "imread", "data": "photos", "num_images": 500, "threads": 1}
    augmenting = {"benchmark": "augment", "policy": "three", "batch_size": 256, "resolution": 224, "device": "cpu"}
    converting = {"benchmark": "convert", "source": "photos", "num_images": 500, "workers": 2}
    return [
        {**decoding, "decoder": "fastvit", "megapixels_per_second": 80.0, **speed(400.0)},
        {**decoding, "decoder": "pillow", "megapixels_per_second": 79.0, **speed(395.0)},
        {**augmenting, "threads": 2, "contender": "fastvit", "milliseconds_per_batch": 20.0, "ratio_to_first": 1.0},
        {**augmenting, "threads": 2, "contender": "kornia", "milliseconds_per_batch": 90.0, "ratio_to_first": 4.5},
        {**converting, "converter": "fastvit", "counterpart": "ffcv", "ratio_to_counterpart": 1.6, **speed(1600.0)},
        {**converting, "converter": "ffcv", "counterpart": "fastvit", "ratio_to_counterpart": 0.6, **speed(1000.0)},
        {"benchmark": "accept", "stage": "ceilings", "name": "matmul", "status": "passed", "what": "matmul"}
        | {"value": 500.0, "unit": "TFLOP/s"},
    ]


def rows() -> list[dict[str, Any]]:
    """Some of every benchmark, one of them from a noisy machine."""
    found = [*_loaders(), *_scaling(), *_training(), *_inference(), *_others()]
    found += [
        _doctor("photos.beton", 0.04),
        _doctor("<folder>", -0.12),
        _doctor("a.beton", None),
        _plan(1),
        _plan(1024),
    ]
    found += reference_rows()
    found[0]["noise"] = {"warnings": ["Another process took 31 % of the CPU time."]}
    return [{**row, **ORIGIN} for row in found]
