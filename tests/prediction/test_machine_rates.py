"""The rates of this machine: measured once, kept, and never beside a run."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest
import torch

from ftlab.basics.devices import Device, resolve_device
from ftlab.basics.locks import DeviceLock, TimedSteps, holding
from ftlab.basics.processes import module_command
from ftlab.prediction import machine_rates, measure_rates
from ftlab.prediction.duration import Rates
from ftlab.prediction.machine_rates import keep_rates, kept_rates, rates_file, rates_here
from ftlab.prediction.measure_rates import measure
from tests.waiting import wait_until

CPU = Device("cpu", "CPU, 2 cores", 16 << 30)
RATES = Rates(1e11, 1e10, 1e10, 1e-5, overlaps=False, few_rows=1e10)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path))


def test_kept_rates_are_those_of_the_same_device_and_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_rates(CPU) is None
    keep_rates(CPU, RATES)
    assert kept_rates(CPU) == RATES
    assert kept_rates(replace(CPU, id="cuda:0")) is None
    with monkeypatch.context() as older:
        older.setattr(machine_rates, "fields", lambda kind: fields(kind)[:-1])
        assert kept_rates(CPU) is None, "a version that measured fewer rates"
    monkeypatch.setattr(machine_rates, "boot_id", lambda: "another boot")
    assert kept_rates(CPU) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}'])
def test_a_torn_file_holds_no_rates_and_is_replaced(text: str) -> None:
    rates_file().write_text(text)
    assert kept_rates(CPU) is None
    keep_rates(CPU, RATES)
    assert kept_rates(CPU) == RATES


@pytest.mark.parametrize("wrong", [{"bytes": 0.0}, {"unpacked": -1.0}, {"unpacked": float("nan")}])
def test_rates_that_are_no_positive_numbers_are_not_used(wrong: dict[str, float]) -> None:
    keep_rates(CPU, replace(RATES, **wrong))
    assert kept_rates(CPU) is None


def test_predictions_rest_while_rates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(device: torch.device) -> Rates:
        assert TimedSteps(device.type).keep_others_off()
        return RATES

    monkeypatch.setattr(measure_rates, "measure", measured)
    assert not TimedSteps("cpu").keep_others_off()
    measure_rates.measure_quietly(torch.device("cpu"))
    assert not TimedSteps("cpu").keep_others_off()


def test_nothing_is_measured_while_a_run_has_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    with holding(DeviceLock(CPU.id)):
        assert rates_here(CPU) is None


@pytest.mark.slow
def test_a_process_measures_the_rates_once(monkeypatch: pytest.MonkeyPatch) -> None:
    device = resolve_device("cpu")
    found = rates_here(device)
    assert found is not None
    assert not found.overlaps
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    assert rates_here(device) == found


def test_a_run_that_wants_the_device_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_rates, "MODULE", "http.server")  # never ends by itself
    monkeypatch.setattr(machine_rates, "module_command", lambda name, _: module_command(name, "0"))
    device = resolve_device("cpu")
    before = set(psutil.Process().children())  # of other tests in this process

    def begun() -> list[psutil.Process]:
        return [child for child in psutil.Process().children() if child not in before]

    with ThreadPoolExecutor() as threads:
        measuring = threads.submit(rates_here, device)
        wait_until(lambda: bool(begun()))
        (process,) = begun()
        with holding(DeviceLock(device.id)):
            assert measuring.result() is None
    assert not process.is_running()


def test_rates_measured_while_others_used_the_cores_are_the_best_of_several_attempts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = replace(RATES, narrow=RATES.narrow / 50, call_seconds=9.0)
    attempts = [(slow, 0.5), (replace(RATES, wide=1.0), 0.4), (RATES, 0.0), (slow, 0.0)]
    assert not replace(slow, quiet=False).best(replace(slow, quiet=False)).quiet
    loads = iter([load for _, load in attempts])

    class Load:
        def read(self) -> tuple[float, float]:
            return 1.0, next(loads)

    rates = iter([rates for rates, _ in attempts])
    monkeypatch.setattr(measure_rates, "LoadMeter", Load)
    monkeypatch.setattr(measure_rates, "measure", lambda device: next(rates))
    assert measure_rates.measure_quietly(torch.device("cpu")) == RATES
    assert next(rates) == slow, "no attempt after a quiet one"


def test_of_two_measurements_the_higher_rate_of_each_kind_counts_and_the_shorter_call() -> None:
    one = Rates(1.0, 20.0, 3.0, 0.4, overlaps=False, few_rows=50.0, quiet=False, unpacked=6.0)
    other = Rates(10.0, 2.0, 30.0, 0.04, overlaps=False, few_rows=5.0, unpacked=60.0)
    best = Rates(10.0, 20.0, 30.0, 0.04, overlaps=False, few_rows=50.0, unpacked=60.0)
    assert one.best(other) == other.best(one) == best


def test_rates_of_a_disturbed_moment_are_used_and_measured_again_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(machine_rates, "_measure", lambda device, lock: asked.append(device.id))
    disturbed = replace(RATES, quiet=False)
    keep_rates(CPU, disturbed)
    assert rates_here(CPU) == disturbed
    assert asked == []
    monkeypatch.setattr(machine_rates, "SECONDS_BETWEEN", 0)
    assert rates_here(CPU) == disturbed
    assert asked == [CPU.id]
    with holding(DeviceLock(CPU.id)):
        assert rates_here(CPU) == disturbed, "a run has the device"


@pytest.mark.slow
def test_measured_rates_are_positive_and_a_call_takes_under_a_hundredth_of_a_second() -> None:
    rates = measure(torch.device("cpu"))
    assert min(rates.narrow, rates.wide, rates.bytes, rates.few_rows, rates.unpacked) > 0
    assert 0 < rates.call_seconds < 0.01
