"""Values of another type than their field's are refused by name, whatever the type."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from loaders import LoaderConfig
from loaders.option_checks import check_types


@dataclass(frozen=True)
class Inner:
    number: int = 1


@dataclass(frozen=True)
class Options:
    number: int = 1
    rate: float = 0.5
    switch: bool = False
    text: str = ""
    path: Path = Path()
    some: int | None = None
    choice: Literal["one", "two"] = "one"
    pair: tuple[float, float] = (0.0, 1.0)
    triples: tuple[tuple[float, int], ...] = ()
    inner: Inner = field(default_factory=Inner)
    unknown: "NotImported" = None  # noqa: F821

    def __post_init__(self):
        check_types(self, "my.")


@pytest.mark.parametrize(
    "values",
    [
        {"number": 10**400},
        {"rate": 2},
        {"rate": -0.0},
        {"some": 3},
        {"choice": "two"},
        {"pair": (0, 1)},
        {"triples": ((0.5, 1), (1, 2))},
        {"unknown": b"anything"},
    ],
    ids=str,
)
def test_values_that_fit(values: dict[str, Any]):
    assert replace(Options(), **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"number": True}, "my.number must be a whole number, got True"),
        ({"number": 1.0}, "my.number must be a whole number, got 1.0"),
        ({"number": "1"}, "my.number must be a whole number, got '1'"),
        ({"rate": True}, "my.rate must be a finite number, got True"),
        ({"rate": float("nan")}, "my.rate must be a finite number, got nan"),
        ({"rate": float("-inf")}, "my.rate must be a finite number, got -inf"),
        ({"rate": 10**400}, "my.rate must be a finite number, got 1000"),
        ({"rate": None}, "my.rate must be a finite number, got None"),
        ({"switch": 1}, "my.switch must be True or False, got 1"),
        ({"text": 5}, "my.text must be text, got 5"),
        ({"path": "a"}, "my.path must be of type Path, got 'a'"),
        ({"some": "x"}, "my.some must be a whole number or None, got 'x'"),
        ({"choice": "three"}, "my.choice must be one of one, two, got three"),
        ({"choice": ["one"]}, "my.choice must be one of one, two, got ['one']"),
        ({"pair": [0.0, 1.0]}, "my.pair must be a tuple of a finite number, a finite number, got [0.0, 1.0]"),
        ({"pair": (0.0,)}, "my.pair must be a tuple of a finite number, a finite number, got (0.0,)"),
        ({"pair": (0.0, float("inf"))}, "my.pair must be a tuple of a finite number, a finite number, got (0.0, inf)"),
        (
            {"triples": ((0.5, 1.5),)},
            "my.triples must be a tuple, each item a tuple of a finite number, a whole number",
        ),
        ({"inner": {"number": 1}}, "my.inner must be of type Inner, got {'number': 1}"),
    ],
    ids=str,
)
def test_values_that_do_not(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(Options(), **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop": "middle"}, "crop must be one of random_resized, center, whole, shift, got middle"),
        ({"order": "shuffled"}, "order must be one of sequential, random, quasi_random, got shuffled"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip, got ignore"),
        ({"device": "cpu"}, "device must be a torch.device, got 'cpu'"),
        ({"resolution": 224.0}, "resolution must be a whole number, got 224.0"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"rank": 1}, "rank must lie in [0, world_size=1), got 1"),
        ({"center_fraction": float("nan")}, "center_fraction must be a finite number, got nan"),
        ({"ratio": (2.0, 1.0)}, "ratio must be a range of positive numbers, got (2.0, 1.0)"),
    ],
    ids=str,
)
def test_a_loaders_options(values: dict[str, Any], message: str):
    config = LoaderConfig(batch_size=4, resolution=32, crop="center", order="random", drop_last=True)
    with pytest.raises(ValueError, match=re.escape(message)):
        replace(config, **values)
