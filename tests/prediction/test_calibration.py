"""What is made of predictions and measurements on one device."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.basics.devices import Device
from ftlab.prediction.remedies import ON_CPU, ON_CUDA, Band, Calibration, Seen, calibration
from ftlab.records.store import RunStore
from tests.fakes import make_run


def seen(method: str, ratio: float) -> Seen:
    return Seen(method, method, 1000, round(1000 * ratio))


def test_a_band_says_the_least_and_the_most() -> None:
    assert Band(1.1, 1.5).of(1000) == (1100, 1500)


def test_few_runs_leave_the_band_that_it_starts_with() -> None:
    known = Calibration(tuple(seen("lora", 1.2) for _ in range(2)), ON_CPU)
    assert known.band("lora") == ON_CPU
    assert ON_CPU.runs == 0


def test_three_runs_of_a_method_are_its_own_band() -> None:
    runs = [seen("lora", ratio) for ratio in (1.2, 1.25, 1.22)] + [seen("full", 1.4)] * 2
    known = Calibration(tuple(runs), ON_CPU)
    assert known.band("lora") == Band(1.2, 1.25, 3, "this method")
    assert known.band("full") == known.whole() == Band(1.2, 1.4, 5, "all methods")
    assert known.band("dora") == known.whole()


def test_of_many_runs_the_odd_ones_at_either_end_are_left_out() -> None:
    runs = [seen("lora", 1 + place / 100) for place in range(40)]
    assert Calibration(tuple(runs), ON_CPU).band("lora") == Band(1.02, 1.37, 40, "this method")


CPU = Device("cpu", "CPU, 2 cores", 8 * 10**9)
CARD = Device("cuda:0", "NVIDIA L4", 24 * 10**9, "GPU-1", (8, 9))
BOTH = {"predicted_net_peak_bytes": 1_000_000, "net_peak_memory_bytes": 1_250_000}


@pytest.mark.parametrize(("device", "start"), [(CPU, ON_CPU), (CARD, ON_CUDA)])
def test_only_finished_runs_of_the_device_with_both_numbers_count(
    tmp_path: Path, device: Device, start: Band
) -> None:
    where = {"device": device.id, "environment": {"device": device.label}}
    elsewhere = {"device": "cuda:1", "environment": {"device": "NVIDIA H100"}}
    make_run(tmp_path, "lora", measures=BOTH, **where)
    make_run(tmp_path, "lora", measures=BOTH, **elsewhere)
    make_run(tmp_path, "base", **where)
    make_run(tmp_path, "full", "out_of_memory", measures=BOTH, **where)
    make_run(tmp_path, "qlora", measures=BOTH | {"predicted_net_peak_bytes": None}, **where)
    make_run(tmp_path, "qlora", measures=BOTH | {"net_peak_memory_bytes": None}, **where)
    known = calibration(RunStore(tmp_path).runs(), device)
    assert [(run.method, run.ratio) for run in known.seen] == [("lora", 1.25)]
    assert known.start == start


def test_runs_on_an_equal_card_count_as_well(tmp_path: Path) -> None:
    make_run(
        tmp_path, "lora", measures=BOTH, device="cuda:3", environment={"device": CARD.label}
    )  # fmt: skip
    assert len(calibration(RunStore(tmp_path).runs(), CARD).seen) == 1


def test_recorded_runs_are_of_another_machine(tmp_path: Path) -> None:
    make_run(tmp_path / "recorded" / "sweep", "lora", measures=BOTH)
    store = RunStore(tmp_path / "runs", tmp_path / "recorded")
    assert not calibration([*store.runs(), *store.shipped()], CPU).seen
