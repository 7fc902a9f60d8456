"""Pickles of foreign objects: what they name stays unknown, and nothing is called."""

import argparse
import collections
import copyreg
import datetime
import enum
import io
import os
import pathlib
import pickle
import sys
import types

import numpy as np
import pytest

from fastvit_train.inert_pickle import DamagedPickleError, ForeignObject, load_inert


class _Color(enum.Enum):
    RED = 1


class _Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


FOREIGN = {
    "namespace": argparse.Namespace(lr=0.1),
    "numpy": [np.float64(3), np.int64(4), np.arange(4), np.dtype("float32")],
    "time": [datetime.datetime(2024, 1, 2), datetime.timedelta(1)],
    "path": pathlib.PosixPath("/a"),
    "enum": {_Color.RED: 1},
    "containers": [collections.defaultdict(list, a=[1]), collections.Counter("aab"), collections.deque([1, 2])],
    "function": len,
    "harm": _Harmful(),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_next_to_foreign_objects(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    plain = {"epoch": 3, "top1": [0.5, None, True], "name": "a", "pair": (1, 2**70), "more": {"b": {"c": "ü"}}}
    found = load_inert(io.BytesIO(pickle.dumps({**plain, **FOREIGN}, protocol=protocol)))
    assert {name: found[name] for name in plain} == plain
    assert isinstance(found["namespace"], ForeignObject)
    assert found["function"].source.endswith("builtin__.len" if protocol < 3 else "builtins.len")
    assert not (tmp_path / "harm").exists()


def test_nothing_is_imported(monkeypatch):
    module = types.ModuleType("not_installed")
    module.Config = type("Config", (dict,), {"__module__": "not_installed"})
    monkeypatch.setitem(sys.modules, "not_installed", module)
    saved = pickle.dumps({"config": module.Config(lr=0.1)})
    monkeypatch.delitem(sys.modules, "not_installed")
    found = load_inert(io.BytesIO(saved))["config"]
    assert (found.source, found.items) == ("not_installed.Config", {"lr": 0.1})
    assert "not_installed" not in sys.modules


def test_state_and_arguments_are_kept():
    args = load_inert(io.BytesIO(pickle.dumps(argparse.Namespace(lr=0.1))))
    assert (args.source, args.state) == ("argparse.Namespace", {"lr": 0.1})
    date = load_inert(io.BytesIO(pickle.dumps(datetime.timedelta(days=2))))
    assert (date.source, date.args) == ("datetime.timedelta", (2, 0, 0))


def test_every_cut_and_damaged_pickles_are_refused():
    saved = pickle.dumps({"epoch": 3, **FOREIGN}, protocol=2)
    for end in range(len(saved)):
        with pytest.raises(DamagedPickleError):
            load_inert(io.BytesIO(saved[:end]))


@pytest.mark.parametrize(
    "saved",
    [
        b"\x80\x02]Q.",  # a persistent id, without anyone to look it up
        b"\x80\x02\x82\x01.",  # an object from this process's registry
        b"\x80\x02}X\x01\x00\x00\x00ab.",  # an attribute of a dict
        b"\x80\x02K\x01)R.",  # a number is called
        b"\x80\x02U\x01a)R.",  # a text is called
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes without end
    ],
)
def test_hostile_pickles_are_refused(saved, monkeypatch):
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "mkdir"))
    with pytest.raises(DamagedPickleError):
        load_inert(io.BytesIO(saved))


def test_a_memo_entry_of_any_number_takes_no_memory():
    """Where the numbers index a list, as in C, these are 16 GiB."""
    assert load_inert(io.BytesIO(b"\x80\x02K\x07r\xff\xff\xff\x7f.")) == 7


def test_two_pickles_in_a_row():
    file = io.BytesIO(pickle.dumps([1], protocol=2) + pickle.dumps([2], protocol=2) + b"rest")
    assert [load_inert(file), load_inert(file), file.read()] == [[1], [2], b"rest"]
