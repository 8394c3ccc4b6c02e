"""Beside a sweep of the command line its runs are predicted: its time is said, and theirs kept."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import enumerate as all_threads
from typing import Any

import pytest
from rich.console import Console

from ftlab.basics.errors import FtlabError
from ftlab.commands import sweep_time
from ftlab.commands.sweep_time import predicted_meanwhile, said_beforehand, sentence
from ftlab.jobs import sweep_costs
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.jobs.sweep_costs import longest_of
from ftlab.methods.variant import parse_variant
from ftlab.prediction.client import NobodyWaits
from ftlab.prediction.duration import Rates
from ftlab.prediction.question import Prediction
from ftlab.records.expected import read_expected
from ftlab.records.result import PhaseMeasure, RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import RunStore
from tests.fakes import make_run
from tests.prediction.fakes import SizedPredictor, TimedPredictor, failing
from tests.training import one_run
from tests.waiting import wait_until

RATES = Rates(1e13, 1, 1, 1, overlaps=False, few_rows=1)


class FailingPredictor(TimedPredictor):
    """Its process has no answer about the first method."""

    def ask(self, questions: Any, *visitor: Any, has_left: Any) -> Iterator[tuple[int, Prediction]]:
        answers = super().ask(questions)
        for place, answer in answers:
            if questions[place].variant.method == "lora":
                raise FtlabError("The prediction ended.")
            yield place, answer


class PatientPredictor(TimedPredictor):
    """Its worker rests until the caller has left."""

    def ask(self, questions: Any, *visitor: Any, has_left: Any) -> Iterator[tuple[int, Prediction]]:
        wait_until(has_left)
        raise NobodyWaits("Nobody waits.")
        yield


@pytest.fixture
def request_(tiny_model: Path, task_file: Path) -> SweepRequest:
    return one_run.request(tiny_model, task_file, "lora", "qlora", batch_size=2)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[Rates]:
    """The kept rates of the device, if there are any."""
    kept: list[Rates] = []
    monkeypatch.setattr(sweep_costs, "kept_rates", lambda device: kept[0] if kept else None)
    monkeypatch.setattr(sweep_time, "_SECONDS_BETWEEN_LOOKS", 0.01)
    return kept


class Beside:
    """A sweep in a folder, and what is said beside it."""

    def __init__(self, request: SweepRequest, folder: Path, onto: Sequence[RunSpec] = ()) -> None:
        self.specs = enqueue_sweep(checked(request), folder, onto=onto)
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
    monkeypatch.setattr(sweep_time, "Predictor", lambda: timed)
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
    assert re.fullmatch(r"This takes about .*, until \d\d:\d\d\.\n", beside.said)


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


def test_one_run_that_cannot_be_predicted_takes_nothing_from_the_others(
    request_: SweepRequest, tmp_path: Path, rates: list[Rates], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates.append(RATES)
    some = FailingPredictor(lambda question: 1)
    monkeypatch.setattr(sweep_time, "Predictor", lambda: some)
    beside = Beside(request_, tmp_path / "runs")
    with beside.block:
        wait_until(lambda: beside.known > 0)
    runs = {run.spec.label: read_expected(run.directory) for run in beside.store.runs()}
    assert runs["LoRA"] is None
    assert runs["QLoRA"] is not None
    assert beside.said == "", "the sweep's time lacks a run"


@pytest.mark.usefixtures("predictor")
def test_the_time_of_a_sweep_includes_its_base_that_has_been_measured_already(
    request_: SweepRequest, tmp_path: Path, rates: list[Rates]
) -> None:
    said = []
    for is_measured in (False, True):
        rates.clear()
        beside = Beside(request_, tmp_path / str(is_measured))
        with beside.block:
            if is_measured:
                for run in beside.store.runs():
                    if run.spec.is_base:
                        phases = {"evaluate": PhaseMeasure(70.0)}
                        result = RunResult("done", phases=phases, finished_at=time.time())
                        run.directory.write_result(result)
            rates.append(RATES)
            wait_until(lambda: "about" in beside.said)  # noqa: B023
        said.append(beside.said.partition(",")[0])
    assert said[0] == said[1]


@pytest.mark.usefixtures("predictor")
def test_runs_that_are_added_to_a_sweep_are_timed_alone(
    request_: SweepRequest, tmp_path: Path, rates: list[Rates], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates.append(RATES)
    said: list[float] = []
    monkeypatch.setattr(sweep_time, "sentence", lambda seconds, *_: said.append(seconds) or "")
    lora, higher = parse_variant("lora"), parse_variant("lora:learning_rate=0.01")
    onto: list[RunSpec] = []
    for variant in (lora, higher):  # the second finds its base queued
        beside = Beside(replace(request_, variants=(variant,)), tmp_path, onto)
        with beside.block:
            wait_until(lambda: len(said) == 1 + len(onto) // 2)  # noqa: B023
        onto += beside.specs
    expected = [read_expected(RunDirectory(tmp_path / spec.run_id)) for spec in onto]
    each = [one.total + one.between for one in expected if one is not None]
    assert [spec.is_base for spec in onto] == [True, False, False]
    assert said == pytest.approx([sum(each[:2]), each[2]])


@pytest.mark.slow
def test_a_peft_config_is_predicted_as_peft_has_put_it(
    request_: SweepRequest, tmp_path: Path, rates: list[Rates], predictor: SizedPredictor
) -> None:
    rates.append(RATES)
    given = parse_variant('peft:config={"peft_type": "LORA", "r": 8}')
    beside = Beside(replace(request_, variants=(given,)), tmp_path / "runs")
    with beside.block:
        wait_until(lambda: beside.known == len(beside.specs))
    assert predictor.asked[0].variant == beside.specs[-1].variant != given


@pytest.mark.parametrize(
    ("age", "words"),
    [(-60, ", after what its device has to do before."), (60, ", until 12:01.")],
    ids=["before", "after"],
)
def test_the_end_of_a_sweep_is_known_where_none_is_queued_before_it(
    tmp_path: Path, age: float, words: str
) -> None:
    noon = time.mktime((2026, 11, 29, 12, 0, 0, 0, 0, -1))
    make_run(tmp_path, "lora", "queued", sweep_id="20260101-000000-aaaa")
    make_run(tmp_path, "full", "queued", sweep_id="20260102-000000-bbbb")
    first, other = (
        replace(run, spec=replace(run.spec, created_at=at))
        for run, at in zip(RunStore(tmp_path).runs(), (noon, noon + age), strict=True)
    )
    assert sentence(100, [first.spec], [first, other]).endswith(words)


def test_the_end_of_a_sweep_that_has_begun_counts_from_its_start(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "lora", "running")
    began = directory.metrics()[0]["at"]
    said = sentence(2 * 86_400, [directory.spec()], RunStore(tmp_path).runs())
    end = time.localtime(began + 2 * 86_400)
    assert said.endswith(f", until {time.strftime('%d %B, %H:%M', end)}.")


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
    monkeypatch.setattr(sweep_time, "Predictor", lambda: other)
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


def rungs(request: SweepRequest, *rates: float) -> SweepRequest:
    (lora, *_) = request.variants
    return replace(request, variants=tuple(replace(lora, learning_rate=rate) for rate in rates))


def seconds_of(said: str) -> int:
    minutes, seconds = re.search(r"(?:(\d+) min )?(\d+) s", said).groups()  # type: ignore[union-attr]
    return 60 * int(minutes or 0) + int(seconds)


def test_several_sweeps_are_timed_together_before_any_is_queued_and_each_kind_predicted_once(
    request_: SweepRequest, tmp_path: Path, rates: list[Rates], predictor: SizedPredictor
) -> None:
    store = RunStore(tmp_path / "runs")
    assert "is known once a run has measured" in said_beforehand([request_], store)
    rates.append(RATES)
    ladder = rungs(request_, 1e-3, 3e-3, 9e-3)
    before = len(predictor.asked)
    together = seconds_of(said_beforehand([ladder, request_], store))
    assert len(predictor.asked) - before == 3, "LoRA at one rate, then both methods"
    each = [seconds_of(said_beforehand([one], store)) for one in (ladder, request_)]
    assert together == pytest.approx(sum(each), abs=2)
    assert not store.runs()
