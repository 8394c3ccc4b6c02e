"""A whole race with real runs of a tiny model, stopped, cut off and taken up again."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.methods.variant import Variant, parse_variant
from ftlab.race.ground import check_ground, measured_on
from ftlab.race.record import RaceDirectory, RaceRequest, RaceResult, RaceSettings, new_race
from ftlab.race.worker import main, run_race
from ftlab.records.result import RunResult
from ftlab.records.run import run_directories, write_json_lines
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.conftest import write_task
from tests.fakes import DEAD_PID
from tests.training.one_run import work_off

SETTINGS = TrainingSettings(steps=6, batch_size=2, max_length=128, eval_examples=12)
Works = Callable[[Callable[[Path], None]], None]
METHODS = ("lora", "ia3", "full", "lora:learning_rate=1e-3", "ia3:learning_rate=3e-2", "lora:r=2")


def race_of(
    model: Path, task_file: Path, folder: Path, *methods: str, minutes: float = 30.0,
    seeds: tuple[int, ...] = (0, 1),
) -> RaceDirectory:  # fmt: skip
    variants: tuple[Variant, ...] = tuple(map(parse_variant, methods or METHODS))
    request = SweepRequest(
        model=str(model), task=parse_task(str(task_file)), variants=variants,
        settings=SETTINGS, dtype_policy="fp32", device="cpu", seeds=seeds,
    )  # fmt: skip
    race = new_race(folder)
    race.write_request(RaceRequest(request, RaceSettings(minutes), tuple(range(len(variants)))))
    assert race.begin()
    return race


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> Works:
    """Sets what takes the place of the dispatcher; at first it works all runs off."""

    def use(work: Callable[[Path], None]) -> None:
        monkeypatch.setattr("ftlab.race.runner.start_dispatcher", work)

    use(work_off)
    return use


def said(race: RaceDirectory, kind: str) -> list[dict[str, Any]]:
    return [event for event in race.events() if event["event"] == kind]


@dataclass(frozen=True)
class Whole:
    """A race that nothing cut off, and its runs folder."""

    folder: Path
    race: RaceDirectory
    result: RaceResult


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    race = race_of(tiny_model, write_task(folder), folder / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftlab.race.runner.start_dispatcher", work_off)
        return Whole(folder / "runs", race, run_race(race))


@pytest.mark.slow
@pytest.mark.model
def test_a_race_ends_with_finalists_scored_on_the_test_split_and_a_recommendation(
    whole: Whole,
) -> None:
    race, result = whole.race, whole.result
    assert (result.status, result.reason) == ("done", "")
    assert (result.candidates, result.tried) == (6, 6)
    assert result.recommendation is not None
    assert result.sentence
    runs = RunStore(whole.folder).runs()
    trials = [run for run in runs if run.spec.sweep_id == result.trials]
    finals = [run for run in runs if run.spec.sweep_id == result.finals]
    assert {run.spec.settings.eval_split for run in trials} == {"tuning"}
    assert {run.spec.settings.schedule for run in trials} == {"constant"}
    assert {run.spec.settings for run in finals} == {SETTINGS}
    assert {run.spec.seed for run in finals if not run.spec.is_base} == {0, 1}
    steps = {event["label"]: event["step"] for event in said(race, "reading")}
    went_on = [label for label, step in steps.items() if step == 3]
    assert len(went_on) == 2
    best = [run for run in trials if run.spec.label in went_on]
    assert [run.status for run in best] == ["done", "done"]
    assert all(run.result and run.result.resumed == (1,) for run in best), "from its checkpoint"
    left = [run for run in trials if not run.spec.is_base and run not in best]
    assert {run.reason for run in left} == {"Paused after step 1, as asked."}
    assert not any(run.directory.checkpoints.exists() for run in left), "their room is free again"


@dataclass
class Plug:
    """Works runs off until it is pulled: then one of them was under way."""

    race: RaceDirectory
    is_time: Callable[[list[dict[str, Any]]], bool]
    is_pulled: bool = False

    def __call__(self, folder: Path) -> None:
        if self.is_pulled or not self.is_time(self.race.events()):
            work_off(folder)
            return
        self.is_pulled = True
        for directory in run_directories(folder):
            if directory.is_waiting and not directory.spec().is_base:
                directory.resume_file.unlink(missing_ok=True)
                dead = {"event": "start", "pid": DEAD_PID, "process_started": 0.0}
                write_json_lines(directory.metrics_file, [dead, *directory.metrics()[1:]])
                os.utime(directory.metrics_file, (0, 0))
                assert directory.status() == "interrupted"
        raise PlugPulledError


class PlugPulledError(BaseException):
    pass


def reached(step: int) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda events: any(
        event["event"] == "rung" and event["step"] == step for event in events
    )


def in_the_final(events: list[dict[str, Any]]) -> bool:
    return any(event["event"] == "final" for event in events)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.fault("a race cut off in any of its stages and taken up again")
@pytest.mark.parametrize("when", [reached(3), in_the_final], ids=["a rung", "the final"])
def test_wherever_a_race_was_cut_off_it_ends_as_if_it_had_not_been(
    when: Callable[[list[dict[str, Any]]], bool], whole: Whole, tiny_model: Path,
    task_file: Path, tmp_path: Path, works: Works,
) -> None:  # fmt: skip
    race = race_of(tiny_model, task_file, tmp_path / "runs")
    works(Plug(race, when))
    with pytest.raises(PlugPulledError):
        run_race(race)
    race.report({"event": "again"})
    assert race.begin()
    result = run_race(race)
    assert (result.status, result.tried) == ("done", whole.result.tried)
    assert (result.sentence, result.details) == (whole.result.sentence, whole.result.details)
    runs = [run for run in RunStore(tmp_path / "runs").runs() if run.spec.sweep_id == result.finals]
    assert {run.status for run in runs} == {"done"}
    told = [(e["candidate"], e["step"]) for e in said(race, "reading")]
    assert len(told) == len(set(told)), "nothing is measured twice"


@pytest.mark.model
def test_after_its_time_a_race_that_goes_on_still_has_what_it_measured(
    tiny_model: Path, task_file: Path, tmp_path: Path, works: Works
) -> None:
    race = race_of(tiny_model, task_file, tmp_path / "runs")
    works(Plug(race, reached(3)))
    with pytest.raises(PlugPulledError):
        run_race(race)
    race.report({"event": "clock", "elapsed": race.request().seconds})
    assert race.begin() is False
    race.report({"event": "again"})
    assert race.begin()
    result = run_race(race)
    assert result.tried == 6
    assert result.sentence.startswith("Nothing is recommended: there was no time to score")
    assert "has the lowest loss on the tuning examples" in result.sentence


@pytest.mark.slow
@pytest.mark.model
def test_a_removed_run_leaves_the_race_and_the_others_go_on(
    tiny_model: Path, task_file: Path, tmp_path: Path, works: Works
) -> None:
    folder = tmp_path / "runs"
    race = race_of(tiny_model, task_file, folder)

    def remove_one(runs_folder: Path) -> None:
        work_off(runs_folder)
        if len(said(race, "queued")) == 2:
            shutil.rmtree(folder / said(race, "queued")[1]["runs"][-1])

    works(remove_one)
    result = run_race(race)
    assert (result.status, result.tried) == ("done", 5)
    reasons = [event["reason"] for event in said(race, "left")]
    assert "its run was removed" in reasons


def cancelled(runs_folder: Path, run_ids: list[str]) -> None:
    """What the dispatcher does with a request to cancel."""
    for run in RunStore(runs_folder).runs():
        if run.run_id in run_ids:
            run.directory.write_result(RunResult("cancelled", "Cancelled by the person."))


def test_what_is_not_done_in_time_is_cancelled(
    tiny_model: Path, task_file: Path, tmp_path: Path, works: Works,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    race = race_of(tiny_model, task_file, tmp_path / "runs", minutes=0.5)
    ticks = itertools.count(step=2.0)
    works(lambda folder: None)  # no run ever ends by itself
    monkeypatch.setattr("ftlab.race.runner.ensure_dispatcher", lambda folder: None)
    monkeypatch.setattr("ftlab.race.runner.request_cancel", cancelled)
    monkeypatch.setattr("ftlab.race.runner._SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(
        "ftlab.race.runner.QueuedRunner.elapsed", property(lambda runner: next(ticks))
    )
    result = run_race(race)
    assert (result.status, result.tried, result.finals) == ("done", 0, "")
    runs = RunStore(tmp_path / "runs").runs()
    assert {run.status for run in runs if not run.spec.is_base} == {"cancelled"}
    assert len(said(race, "no_time")[0]["labels"]) == 6


@pytest.mark.model
def test_a_stopped_race_answers_from_what_there_is_and_can_go_on(
    tiny_model: Path, task_file: Path, tmp_path: Path, works: Works,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "runs"
    race = race_of(tiny_model, task_file, folder)

    def stop_then(runs_folder: Path) -> None:
        if len(said(race, "reading")) < 3:
            work_off(runs_folder)
        else:
            race.cancel_file.touch()

    works(stop_then)
    monkeypatch.setattr("ftlab.race.runner.request_cancel", cancelled)
    result = run_race(race)
    assert (result.status, result.reason) == ("cancelled", "Cancelled by the person.")
    assert result.sentence.startswith(
        "Nothing is recommended: the race ended before a model was scored"
    )
    assert "has the lowest loss on the tuning examples so far" in result.sentence
    assert result.recommendation is None
    assert result.tried == len(said(race, "reading"))
    assert not any(run.is_open for run in RunStore(folder).runs())


@pytest.mark.model
def test_without_time_for_one_candidate_the_answer_says_what_to_change(
    tiny_model: Path, task_file: Path, tmp_path: Path, works: Works,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    race = race_of(tiny_model, task_file, tmp_path / "runs", minutes=0.5)
    monkeypatch.setattr("ftlab.race.runner.QueuedRunner.elapsed", 31.0)
    result = run_race(race)
    assert result.status == "done"
    assert result.sentence == (
        "No candidate was trained and measured within 0.50 minutes. Give it more minutes or "
        "fewer steps."
    )


@pytest.mark.slow
@pytest.mark.model
def test_a_candidate_that_diverges_leaves_and_few_tuning_examples_are_doubted(
    tiny_model: Path, tmp_path: Path, works: Works
) -> None:
    file = tmp_path / "few.csv"
    rows = [f"Repeat number {i},{i}" for i in range(30)]
    file.write_text("prompt,completion\n" + "\n".join(rows) + "\n", encoding="utf-8")
    race = race_of(
        tiny_model, file, tmp_path / "runs", "lora", "ia3", "full:learning_rate=10", seeds=(0,)
    )
    result = run_race(race)
    left = {event["label"]: event["reason"] for event in said(race, "left")}
    assert result.status == "done"
    assert "lower the learning rate" in left["Full fine-tuning lr=10"]
    assert result.details[-1].endswith(
        "so who went on was nearly chance; 10 or more tell candidates apart."
    )


def test_a_race_on_other_data_or_versions_does_not_go_on() -> None:
    events = [{"event": "ground", "same": {"data": "ab", "torch": "2.10"}, "machine": "A"}]
    check_ground({"same": {"data": "ab", "torch": "2.10"}, "machine": "B"}, events)
    check_ground({"same": {"data": "cd", "torch": "2.10"}, "machine": "B"}, [])
    with pytest.raises(FtlabError, match=r"cannot go on: torch was 2\.10, and is 2\.11\. Begin a"):
        check_ground({"same": {"data": "ab", "torch": "2.11"}, "machine": "A"}, events)


def test_costs_that_another_machine_measured_do_not_count() -> None:
    events = [
        {"event": "ground", "same": {}, "machine": "A"},
        {"event": "queued", "kind": "trial", "runs": ["one"]},
        {"event": "ground", "same": {}, "machine": "B"},
        {"event": "queued", "kind": "trial", "runs": ["two"]},
    ]
    assert measured_on({"same": {}, "machine": "B"}, events) == {"two"}
    assert measured_on({"same": {}, "machine": "A"}, events) == {"one"}


def test_a_race_is_conducted_by_one_process(
    tiny_model: Path, task_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    race = race_of(tiny_model, task_file, tmp_path / "runs")
    assert main([str(race.path)]) == 2
    assert "was started before" in capsys.readouterr().err
    assert main([]) == 2
    assert main([str(tmp_path)]) == 2


def test_a_killed_race_is_interrupted(tiny_model: Path, task_file: Path, tmp_path: Path) -> None:
    race = race_of(tiny_model, task_file, tmp_path / "runs")
    lines = race.events_file.read_text().splitlines()
    start = json.loads(lines[0]) | {"pid": DEAD_PID}
    race.events_file.write_text(json.dumps(start) + "\n")
    assert race.status() == "interrupted"
    assert "log.txt has its last lines" in race.reason
