"""The tables of figures that are measured again and again, from rows as the commands write them."""

from benchmarks.documented.table import rendered
from benchmarks.documented.tables import TABLES
from report_rows import reference_rows

ORIGIN = {"command": "fastvit-bench", "commit": "1" * 40, "machine": {"cpu": "AMD EPYC", "cores": 2, "gpu": None}}


def lines(name, *rows, file="zen4.jsonl"):
    """The lines of a table, without its heading."""
    made = rendered(TABLES[name], [{"file": file, **ORIGIN, **row} for row in rows])
    return [line for line in made.splitlines() if line.startswith("|")]


def loader(name, case, speed, ratio):
    return {
        "benchmark": "loader",
        "suite_case": case,
        "loader": name,
        "case": "train",
        "threads": 2,
        "images_per_second": speed,
        "images_per_second_interval": [speed - 1, speed + 1],
        "ratio_to_first": ratio,
        "cpu_seconds_per_image": 1 / speed,
        "peak_rss_bytes": 2**30,
    }


LOADERS = [
    loader("native", "train", 1000, 1.0),
    loader("torch", "train", 250, 0.25),
    loader("ffcv", "train", 400, 0.4),
    loader("native", "val", 800, 1.0),
    loader("torch", "val", 100, 0.125),
]


def test_loaders_by_case() -> None:
    assert lines("loaders-cases", *LOADERS) == [
        "| contender | train | val |",
        "| --- | --- | --- |",
        "| `native` | 1,000 (1.00) | 800 (1.00) |",
        "| `torch` | 250 (4.00) | 100 (8.00) |",
        "| `ffcv` | 400 (2.50) |  |",
    ]


def test_the_fastest_loader_comes_first() -> None:
    assert lines("loaders", *LOADERS)[2:] == [
        "| `native` | 1,000 (999\u20131,001) | 1.00 | 1,000 | 1,024 |",
        "| `ffcv` | 400 (399\u2013401) | 2.50 | 2,500 | 1,024 |",
        "| `torch` | 250 (249\u2013251) | 4.00 | 4,000 | 1,024 |",
    ]


def test_the_first_page_has_measured_and_documented_figures() -> None:
    documented = {
        "benchmark": "loader",
        "experiment": "other-cpus",
        "case": "train",
        "restart_markers": False,
        "loader": "native",
        "images_per_second": 7458,
        "times_others": {"ffcv": 3.51},
        "times_others_lowest_and_highest": {"ffcv": [3.41, 4.18]},
        "machine": {"cpu": "AMD EPYC, Zen 5"},
    }
    assert lines("loaders-home", *LOADERS)[2:] == [
        "| of at most 500 px | 1,000 (999\u20131,001) | 2.50 | 4.00 | Zen 4 |"
    ]
    assert lines("loaders-home", documented, file="documented.jsonl")[2:] == [
        "| of at most 500 px | 7,458 | 3.51 (3.41\u20134.18) | Zen 5 |"
    ]


def test_leaderboard() -> None:
    limit = loader("limit", "train", 2000, 2.0)
    mine = [row | {"file": "leaderboard/mine.jsonl"} for row in [*LOADERS, limit]]
    alone = [{"file": "leaderboard/alone.jsonl", **LOADERS[0]}]
    assert lines("leaderboard", *mine, *alone) == [
        "| CPU | cores | threads | train | val |",
        "| --- | --- | --- | --- | --- |",
        "| AMD EPYC | 2 | 2 | 1,000 (2.50) | 800 (8.00) |",
        "| AMD EPYC | 2 | 2 | 1,000 |  |",
    ]


def test_scaling() -> None:
    row = {"benchmark": "scaling", "over": "threads", "loader": "native"}
    one = {"threads": 1, "images_per_second": 500, "share_of_linear": 1.0}
    two = {"threads": 2, "images_per_second": 900, "share_of_linear": 0.9}
    assert lines("scaling-threads", row | one, row | two) == [
        "| loader | images/s with 1 | images/s with 2 | share of linear with 2 |",
        "| --- | --- | --- | --- |",
        "| `native` | 500 | 900 | 90.0 % |",
    ]
    records = {"records": 1_000_000, "open_seconds": 0.123, "first_batch_seconds": 0.05, "peak_rss_bytes": 2**29}
    assert lines("scaling-records", row | one | records | {"over": "records"})[2:] == [
        "| `native` | 1,000,000 | 500 | 0.12 | 0.05 | 512 |"
    ]


def test_imread() -> None:
    rows = [
        {
            "benchmark": "imread",
            "decoder": name,
            "version": "1.0",
            "threads": threads,
            "images_per_second": speed * threads,
            "megapixels_per_second": speed / 5 * threads,
        }
        for name, speed in (("pillow", 100), ("fastvit", 300))
        for threads in (1, 2)
    ]
    assert lines("imread", *rows) == [
        "| decoder | version | images/s with 1 | MP/s with 1 | images/s with 2 | MP/s with 2 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| fastvit | 1.0 | 300 | 60 | 600 | 120 |",
        "| pillow | 1.0 | 100 | 20 | 200 | 40 |",
    ]


def test_the_doctor_is_compared_with_what_was_measured() -> None:
    row = {
        "benchmark": "doctor",
        "data": "/data/keep.beton",
        "case": "train",
        "resolution": 224,
        "threads": 2,
        "limited_by": "decode",
        "predicted_images_per_second": 950,
    }
    assert lines("doctor-check", row, row | {"measured_images_per_second": 1000, "miss": -0.05})[2:] == [
        "| keep.beton | train | 224 | 2 | decode | 950 | 1,000 | -5.0 % |"
    ]


def test_a_training_step() -> None:
    row = {"benchmark": "train", "preset": "cifar10-quick", "contender": "train", "images_per_second": 70}
    verdict = row | {"contender": "verdict"}
    assert lines("train-split", row | {"ratio_to_matmuls": 0.816}, verdict)[2:] == [
        "| `cifar10-quick` | `train` | 70 | 81.6 % |"
    ]


def test_plans_and_what_they_were_next_to_runs() -> None:
    row = {
        "benchmark": "plan",
        "preset": "cifar10-quick",
        "arch": "resnet_fast_cifar",
        "epochs": 2.5,
        "num_gpus": 8,
        "batch_size": 1024,
        "images_per_second": 39_402.0,
        "hours": 0.0123456,
        "limited_by": "step",
        "shares": {"step": 0.9, "startup": 0.04, "network_wait": 0.059, "evaluation": 0.001},
        "needs": {"cores_per_node": 2.54, "network_bytes_per_second_per_node": 1e10},
    }
    assert lines("plan-hours", row)[2:] == [
        "| `cifar10-quick` | 8 | 1,024 | 39,402 | 0.0123 | step | network wait 5.9 %, startup 4.0 % |"
    ]
    assert lines("plan-needs", row)[2:] == ["| `cifar10-quick` | 8 | 1,024 | 2.5 | 80 |"]
    assert lines("plan-check", row, row | {"measured_hours": 0.0125, "miss": -0.0124})[2:] == [
        "| `cifar10-quick`, 2.5 epochs | `resnet_fast_cifar` | 44.4 | 45.0 | -1.2 % |"
    ]


def test_a_sweep() -> None:
    row = {"benchmark": "train-sweep", "preset": "cifar10-quick", "precision": "bf16", "channels_last": True}
    best = row | {"images_per_second": 70, "is_best": True, "problem": None}
    failed = row | {"channels_last": False, "images_per_second": None, "is_best": False, "problem": "out of memory"}
    assert lines("train-sweep", best, failed)[2:] == [
        "| `cifar10-quick` | bf16 | yes | 70 | best |",
        "| `cifar10-quick` | bf16 | no |  | out of memory |",
    ]


def test_the_reference_experiments() -> None:
    rows = reference_rows()
    start = "| vit small scratch | 79.20 % | 80.20 % | 77.2 % | 82 % | 93.6 % (SPT_LSA_ViT, arXiv 2112.13492) | "
    assert lines("reference-table", *rows)[2].startswith(start + "5 | 0 | 0.42 |")
    assert len(lines("reference-table", *rows)[2:]) == 5
    assert lines("reference-shares", *rows)[2:] == [
        "| 5 % | 2,500 | 40.20 % | 60.21 % | 20.0 points | 22 | 27 |",
        "| 10 % | 5,000 | 51.04 % | 72.12 % | 21.1 points | 16 | 19 |",
        "| 30 % | 15,000 | 66.88 % | 84.17 % | 17.3 points | 9 | 11 |",
        "| 100 % | 50,000 | 79.20 % | 91.84 % | 12.6 points | 5 | 6 |",
    ]
    assert lines("reference-gains", *rows)[2:] == [
        "| a teacher | 0 | 81.53 % | 79.20 % | 2.3 points | 24.8 | 25.0 |",
        "| pretraining | 0 | 78.11 % | 65.10 % | 13.0 points | 10.2 | 10.0 |",
    ]
    assert lines("reference-gains", *rows[:2])[2:] == ["| a teacher | 0 |"]


def test_what_pretraining_is_worth_for_longer_and_shorter_fine_tuning() -> None:
    rows = [row for row in reference_rows() if row.get("starts_from") or row["part"] == "pretraining"]
    longer = [
        row | {"benchmark": "run", "epochs": 9.5, "top1": row["top1"] + 0.05 * (row["part"] != "table")} for row in rows
    ]
    pretrained, scratch = ("78.11 % | 65.10 % | 13.0 points", "78.11 % | 70.10 % | 8.0 points")
    first, second = lines("reference-lengths", *longer, *rows)[2:]
    assert pretrained in first
    assert second.startswith("| 9.5 | " + scratch)


def test_the_reference_experiments_of_another_seed() -> None:
    rows = reference_rows()
    again = [row | {"seed": 1, "epochs": 4.5, "top1": row["top1"] - 0.01} for row in rows]
    assert (
        lines("reference-gains", *rows, *again)[2] == "| a teacher | 0 | 81.53 % | 79.20 % | 2.3 points | 24.8 | 25.0 |"
    )
    assert "| a teacher | 1 | 80.53 % | 78.20 % | 2.3 points | 24.8 | 25.0 |" in lines("reference-gains", *rows, *again)
    assert " | 4.5 | 1 | 0.42 |" in lines("reference-table", *again)[2]


def test_what_a_teacher_is_worth_with_less_data() -> None:
    plain = {
        "benchmark": "run",
        "experiment": "distill-shares",
        "num_train_images": 2500,
        "epochs": 22.0,
        "seed": 1,
        "is_taught": False,
        "top1": 0.5,
        "train_accuracy": 0.7,
        "train_seconds": 420.0,
    }
    taught = plain | {"is_taught": True, "top1": 0.515, "train_accuracy": 0.6, "train_seconds": 432.0}
    assert lines("distill-shares", plain, taught | {"teacher_top1": 0.71, "teacher_seconds": 120.0})[2:] == [
        "| 2,500 | 22.0 | 1 | 50.00 % | 51.50 % | 1.5 points | 70.0 % | 60.0 % | 71.00 % | 7.0 | 7.2 | 2.0 |"
    ]


def test_a_lever_is_compared_with_the_mean_of_the_baseline() -> None:
    def trial(lever, seed, top1, **differing):
        row = {"benchmark": "run", "experiment": "vit-levers", "lever": lever, "seed": seed, "top1": top1, "cost": 1.0}
        accuracy = {"train_accuracy_steps_206_to_287": 0.5 + seed / 10, "train_accuracy": top1 and 0.7}
        return row | accuracy | {"options": "", "change": None, "verdict": "no"} | differing

    rows = [
        trial("none", 0, 0.62),
        trial("more decay", 0, 0.64, options="--optim.muon.weight-decay 0.2"),
        trial("none", 1, 0.63),
        trial("split", 0, None, change="queries apart"),
    ]
    assert lines("vit-levers", *rows)[2:] == [
        "| none |  |  | 1.00 | 2 | 55.0 % |  | 70.0 % | 62.5 % |  | no |",
        "| more decay | `--optim.muon.weight-decay 0.2` |  | 1.00 | 1 | 50.0 % | -5.0 | 70.0 % | 64.0 % | +1.5 | no |",
        "| split |  | queries apart | 1.00 | 1 | 50.0 % | -5.0 |  |  |  | no |",
    ]
