"""What disturbs a measurement is seen: others' work, stolen time, heat, and rounds that differ."""

import os

import pytest

from benchmarks.noise import NoiseWatch

_TICKS = os.sysconf("SC_CLK_TCK")
_QUIET = {"native": [100.0, 101.0, 99.0]}


class _Machine:
    """The kernel's counters of a machine with one CPU that this process may use, and one that it may not."""

    def __init__(self, root):
        self._root = root
        self._seconds = dict.fromkeys(
            ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice"), 0.0
        )
        (root / "proc").mkdir()
        self.passes()

    def passes(self, **seconds):
        for name, more in seconds.items():
            self._seconds[name] += more
        counts = " ".join(str(round(each * _TICKS)) for each in self._seconds.values())
        busy_elsewhere = " ".join(str(round(1e6 * each)) for each in self._seconds.values())
        lines = [f"cpu  {counts}", f"cpu3 {counts}", f"cpu4 {busy_elsewhere}", "intr 12 0 7", "ctxt 99"]
        (self._root / "proc" / "stat").write_text("\n".join(lines) + "\n")

    def throttles(self, *counts):
        for cpu, count in enumerate(counts):
            for kind in ("core", "package"):
                path = self._root / f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/{kind}_throttle_count"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{count}\n")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    ours = iter([50.0, 58.0])  # before and after: our processes computed for 8 s
    monkeypatch.setattr("benchmarks.noise.cpu_seconds", lambda: next(ours))
    return _Machine(tmp_path)


def test_a_quiet_machine(machine, tmp_path):
    with NoiseWatch(root=tmp_path) as watch:
        machine.passes(user=6, system=2.25, idle=1.75)
    noise = watch.noise(_QUIET)
    assert noise["others_cpu_fraction"] == pytest.approx(0.025)
    assert (noise["steal_fraction"], noise["throttled"], noise["warnings"]) == (0, None, [])
    assert noise["spread"] == pytest.approx(0.01)


def test_work_of_others_and_of_other_machines(machine, tmp_path):
    with NoiseWatch(root=tmp_path) as watch:
        machine.passes(user=7, nice=1, system=1, irq=0.25, softirq=0.75, steal=4, idle=5, iowait=1, guest=3)
    noise = watch.noise(_QUIET)
    assert noise["others_cpu_fraction"] == pytest.approx(2 / 20)
    assert noise["steal_fraction"] == pytest.approx(4 / 20)
    stolen, others = noise["warnings"]
    assert stolen.startswith("The host gave 20% of the CPUs' time to other machines")
    assert others.startswith("Other processes took 10% of the CPUs' time")


@pytest.mark.parametrize(("after", "throttled"), [((3, 0), False), ((3, 1), True)])
def test_heat(machine, tmp_path, after, throttled):
    machine.throttles(3, 0)
    with NoiseWatch(root=tmp_path) as watch:
        machine.passes(user=8, idle=2)
        machine.throttles(*after)
    noise = watch.noise(_QUIET)
    assert noise["throttled"] is throttled
    assert bool(noise["warnings"]) == throttled


def test_rounds_that_differ(machine, tmp_path):
    with NoiseWatch(root=tmp_path) as watch:
        machine.passes(user=8, idle=2)
    noise = watch.noise({**_QUIET, "torch": [80.0, 100.0, 120.0], "ffcv": [7.0]})
    assert noise["spread"] == pytest.approx(0.2)
    (warning,) = noise["warnings"]
    assert warning.startswith("The rounds of torch differ by 20%")
