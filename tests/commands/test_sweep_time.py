"""Beside a sweep of the command line its runs are predicted: its time is said, and theirs kept."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import enumerate as all_threads
from typing import Any

import pytest
from rich.console import Console

from ftlab.commands import sweep_time
from ftlab.commands.sweep_time import predicted_meanwhile
from ftlab.jobs import sweep_costs
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.jobs.sweep_costs import longest_of
from ftlab.methods.variant import parse_variant
from ftlab.prediction.client import NobodyWaits
from ftlab.prediction.duration import Rates
from ftlab.prediction.question import Prediction
from ftlab.records.expected import read_expected
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.fakes import make_run
from tests.prediction.fakes import SizedPredictor, TimedPredictor, failing
from tests.waiting import wait_until

RATES = Rates(1e13, 1, 1, 1, overlaps=False, few_rows=1)


class PatientPredictor(TimedPredictor):
    """Its worker rests until the caller has left."""

    def ask(self, questions: Any, *visitor: Any, has_left: Any) -> Iterator[tuple[int, Prediction]]:
        wait_until(has_left)
        raise NobodyWaits("Nobody waits.")
        yield


@pytest.fixture
def request_(tiny_model: Path, task_file: Path) -> SweepRequest:
    return SweepRequest(
        model=str(tiny_model),
        task=parse_task(str(task_file)),
        variants=(parse_variant("lora"), parse_variant("qlora")),
        settings=TrainingSettings(steps=3, batch_size=2, max_length=128),
        device="cpu",
    )


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[Rates]:
    """The kept rates of the device, if there are any."""
    kept: list[Rates] = []
    monkeypatch.setattr(sweep_costs, "kept_rates", lambda device: kept[0] if kept else None)
    monkeypatch.setattr(sweep_time, "_SECONDS_BETWEEN_LOOKS", 0.01)
    return kept


class Beside:
    """A sweep in a folder, and what is said beside it."""

    def __init__(self, request: SweepRequest, folder: Path) -> None:
        self.specs = enqueue_sweep(checked(request), folder)
        self.store = RunStore(folder)
        self.written = io.StringIO()
        console = Console(file=self.written, width=200)
        self.block = predicted_meanwhile(request, self.specs, self.store, console)

    @property
    def said(self) -> str:
        return self.written.getvalue()

    @property
    def known(self) -> int:
        runs = self.store.runs()
        return sum(read_expected(run.directory) is not None for run in runs)


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> SizedPredictor:
    timed = TimedPredictor(lambda question: 1)
    monkeypatch.setattr(sweep_time, "Predictor", lambda **limits: timed)
    return timed


@pytest.mark.usefixtures("predictor")
def test_the_time_of_a_sweep_is_said_and_that_of_each_run_kept(
    request_: SweepRequest, tmp_path: Path, rates: list[Rates]
) -> None:
    rates.append(RATES)
    beside = Beside(request_, tmp_path / "runs")
    with beside.block:
        wait_until(lambda: "about" in beside.said)
    assert beside.known == len(beside.specs)
    assert re.fullmatch(r"The sweep takes about .*, until \d\d:\d\d\.\n", beside.said)


def test_each_seed_is_predicted_at_its_own_longest_batch(
    request_: SweepRequest,
    task_file: Path,
    tmp_path: Path,
    rates: list[Rates],
    predictor: SizedPredictor,
) -> None:
    rows = (f"Repeat {'again ' * length},word" for length in range(16))
    task_file.write_text("\n".join(["prompt,completion", *rows]))
    seeds = replace(request_, seeds=(0, 1, 2, 3))
    longest = [longest_of(replace(seeds, seeds=(seed,))).batch.length for seed in seeds.seeds]
    assert len(set(longest)) > 1
    beside = Beside(seeds, tmp_path / "runs")
    with beside.block:
        wait_until(lambda: len(predictor.asked) == 2 * (1 + len(seeds.seeds)))
    assert [asked.step.length for asked in predictor.asked[2::2]] == longest


@pytest.mark.usefixtures("predictor")
def test_nobody_knows_the_end_of_a_sweep_that_waits_for_another(
    request_: SweepRequest, tmp_path: Path, rates: list[Rates]
) -> None:
    rates.append(RATES)
    make_run(tmp_path / "runs", "full", "queued", device="cpu")
    beside = Beside(request_, tmp_path / "runs")
    with beside.block:
        wait_until(lambda: "about" in beside.said)
    assert beside.said.endswith(", after what its device has to do before.\n")


@pytest.mark.usefixtures("predictor")
def test_on_a_new_machine_the_time_is_said_when_a_run_has_measured_its_speed(
    request_: SweepRequest, tmp_path: Path, rates: list[Rates], predictor: SizedPredictor
) -> None:
    beside = Beside(request_, tmp_path / "runs")
    with beside.block:
        wait_until(lambda: len(predictor.asked) == 4)
        assert (beside.said, beside.known) == ("", 0)
        rates.append(RATES)
        wait_until(lambda: "about" in beside.said)
    assert beside.known == len(beside.specs)


@pytest.mark.parametrize(
    "other", [PatientPredictor(lambda question: 1), SizedPredictor(failing)], ids=["rests", "fails"]
)
def test_a_sweep_ends_without_predictions_that_are_not_there(
    request_: SweepRequest,
    tmp_path: Path,
    rates: list[Rates],
    monkeypatch: pytest.MonkeyPatch,
    other: SizedPredictor,
) -> None:
    rates.append(RATES)
    monkeypatch.setattr(sweep_time, "Predictor", lambda **limits: other)
    beside = Beside(request_, tmp_path / "runs")
    before = set(all_threads())
    with beside.block:
        pass
    assert (beside.said, beside.known) == ("", 0)
    assert set(all_threads()) <= before


@pytest.mark.usefixtures("predictor")
def test_an_error_that_nobody_foresaw_is_said_and_ends_nothing(
    request_: SweepRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(request: SweepRequest) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(sweep_time, "costing", broken)
    beside = Beside(request_, tmp_path / "runs")
    with beside.block:
        pass
    assert (
        "ftlab: The time of the sweep is not predicted: RuntimeError: no such thing"
        in capsys.readouterr().err
    )
