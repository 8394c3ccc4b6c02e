"""How a race stands, from its events: who is ahead, who left and why, and its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlab.race.record import RaceDirectory, RaceResult, new_race
from ftlab.race.standings import RaceView, view_race
from tests.fakes import DEAD_PID
from tests.race.invented import race_request


@pytest.fixture
def race(tmp_path: Path) -> RaceDirectory:
    found = new_race(tmp_path)
    found.write_request(race_request("lora", "ia3", "full", "vera", minutes=10))
    assert found.begin()
    return found


def reading(label: str, step: int, loss: float | None, elapsed: float) -> dict[str, Any]:
    return {"event": "reading", "label": label, "step": step, "loss": loss, "elapsed": elapsed,
            "reason": "" if loss else "The loss is not a number.", "candidate": 0, "losses": [],
            "tokens": [], "costs": {}}  # fmt: skip


def now_of(race: RaceDirectory, seconds: float) -> RaceView:
    """The race as it stands so many seconds after its last event."""
    return view_race(race, race.events()[-1]["at"] + seconds)


def test_a_race_that_has_just_begun_has_all_to_come(race: RaceDirectory) -> None:
    view = now_of(race, 3)
    assert {one.place for one in view.standings} == {"to come"}
    assert (view.is_open, view.elapsed, view.seconds, view.base_loss) == (True, 3, 600, None)
    race.report({"event": "base", "loss": 2.5})
    assert now_of(race, 3).base_loss == 2.5


def test_a_race_that_waits_for_its_process_has_spent_what_its_planning_took(
    tmp_path: Path,
) -> None:
    race = new_race(tmp_path)
    race.write_request(race_request("lora", minutes=10))
    race.report({"event": "planned", "elapsed": 12.0})
    assert now_of(race, 5).elapsed == 12.0


def test_who_is_ahead_comes_first_and_who_left_last_with_the_reason(race: RaceDirectory) -> None:
    race.report({"event": "rung", "step": 5, "candidates": 4})
    for event in (
        reading("LoRA", 5, 1.2, 10), reading("IA3", 5, 1.1, 20),
        reading("Full fine-tuning", 5, None, 30),
    ):  # fmt: skip
        race.report(event)
    race.report({"event": "left", "label": "Full fine-tuning", "reason": "it has no loss"})
    race.report({"event": "no_time", "step": 5, "labels": ["VeRA"]})
    view = now_of(race, 2)
    assert [one.label for one in view.standings[:2]] == ["IA3", "LoRA"]
    left = {one.label: one.reason for one in view.at("left")}
    assert left == {
        "Full fine-tuning": "it has no loss",
        "VeRA": "there was no time to train it to step 5",
    }
    race.report({"event": "rung", "step": 15, "candidates": 2})
    race.report(reading("LoRA", 15, 1.15, 60))
    assert [one.label for one in now_of(race, 2).standings[:2]] == ["LoRA", "IA3"], "it is further"
    race.report({"event": "final", "seed": 0, "finalists": ["LoRA"]})
    view = now_of(race, 5)
    (first, second) = view.standings[:2]
    assert (first.label, first.place, first.step, first.loss) == ("LoRA", "in the final", 15, 1.15)
    assert (second.label, second.step) == ("IA3", 5)
    assert (view.rung, view.scored, view.elapsed) == (15, 1, pytest.approx(65, abs=0.5))


def test_methods_that_took_no_part_are_named(race: RaceDirectory) -> None:
    race.report({"event": "left", "label": "BitFit", "reason": "the model has no bias"})
    (other,) = now_of(race, 0).others
    assert (other.label, other.reason) == ("BitFit", "the model has no bias")


def test_the_clock_stands_still_while_a_race_is_cut_off(race: RaceDirectory) -> None:
    race.report(reading("LoRA", 5, 1.2, 100))
    dead = race.events_file.read_text().replace('"pid":', f'"pid": {DEAD_PID}, "old":')
    race.events_file.write_text(dead)
    view = now_of(race, 5000)
    assert (view.status, view.elapsed) == ("interrupted", 100)
    race.report({"event": "again"})
    race.request_file.touch()
    assert race.begin()
    assert now_of(race, 7).elapsed == pytest.approx(107, abs=0.5)


def test_no_more_time_is_shown_than_a_race_has(race: RaceDirectory) -> None:
    race.report(reading("LoRA", 5, 1.2, 590))
    assert now_of(race, 100).elapsed == 600


def test_a_race_that_ended_has_its_answer(race: RaceDirectory) -> None:
    race.report({"event": "note", "sentence": "There is no time for seed 1."})
    race.write_result(RaceResult("done", sentence="LoRA."))
    view = now_of(race, 0)
    assert view.result is not None
    assert (view.is_open, view.result.sentence) == (False, "LoRA.")
    assert view.notes == ("There is no time for seed 1.",)
