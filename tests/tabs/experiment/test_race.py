"""Find the best: what the page asks for, shows while a race is under way, and answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.inputs import Access
from ftlab.methods.registry import CORE, METHODS
from ftlab.race.record import RaceDirectory, RaceResult, RaceSettings, list_races, new_race
from ftlab.tabs.context import AppContext
from ftlab.tabs.experiment import race as page
from ftlab.tabs.experiment.race import (
    ALL,
    MEMORY,
    TICKED,
    WHO,
    newest,
    poll,
    press,
    race_html,
    race_request,
    start,
    with_candidates,
)
from ftlab.tabs.experiment.request import Reading, read_form
from tests.race.invented import race_request as invented
from tests.tabs.page_fakes import page_context

FORM: dict[str, Any] = {"model": "bundled", "task": "sql", "methods": list(CORE), "seeds": "0"}
USUAL: dict[str, Any] = {"minutes": 15, "prefer": "memory", MEMORY: "", WHO: ALL}


@pytest.fixture
def context(tmp_path: Path) -> AppContext:
    return page_context(tmp_path / "runs")


def reading(asked: dict[str, Any], **form: Any) -> Reading:
    return read_form(with_candidates(FORM | form, asked))


@pytest.fixture
def race(context: AppContext) -> RaceDirectory:
    found = new_race(context.runs_folder)
    found.write_request(invented("lora", "ia3", minutes=10))
    assert found.begin()
    return found


def test_all_methods_race_unless_the_ticked_ones_are_asked_for() -> None:
    request, settings = race_request(reading(USUAL), USUAL)
    assert {variant.method for variant in request.variants} == set(METHODS)
    assert settings == RaceSettings(15, "memory")
    ticked = USUAL | {WHO: TICKED, MEMORY: "8GB"}
    request, _ = race_request(reading(ticked), ticked)
    assert {variant.method for variant in request.variants} == set(CORE)
    assert request.memory_limit == 8_000_000_000


def test_one_seed_of_the_form_becomes_three_and_several_stay() -> None:
    assert race_request(reading(USUAL, seeds="4"), USUAL)[0].seeds == (4, 5, 6)
    assert race_request(reading(USUAL, seeds="0,7"), USUAL)[0].seeds == (0, 7)


@pytest.mark.parametrize(
    ("asked", "form", "words"),
    [
        ({"minutes": "soon"}, {}, "Minutes is 'soon'; it must be a number"),
        ({"minutes": None}, {}, "Minutes"),
        ({"prefer": "beauty"}, {}, "Prefer"),
        ({MEMORY: "much"}, {}, "The memory limit 'much' is no size"),
        ({}, {"settings.steps": 0}, "Steps"),
        ({WHO: TICKED}, {"methods": []}, "No method is chosen"),
    ],
)
def test_wrong_input_is_named(
    asked: dict[str, Any], form: dict[str, Any], words: str, context: AppContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    wanted = USUAL | asked
    monkeypatch.setattr(page, "check_inputs", lambda request, models: None)
    with pytest.raises(FtlabError, match=words):
        start(context, reading(wanted, **form), wanted)
    assert list_races(context.runs_folder) == []


def test_a_race_starts_once_and_not_beside_another(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.race.start.start_detached", lambda *given: None)
    monkeypatch.setattr(page, "check_inputs", lambda request, models: None)
    asked = USUAL | {WHO: TICKED}
    race_id = start(context, reading(asked), asked)
    (found,) = list_races(context.runs_folder)
    assert found.race_id == race_id
    assert len(found.request().defaults) == len(CORE)
    with pytest.raises(FtlabError, match="is under way; stop it first"):
        start(context, reading(asked), asked)


def test_a_demo_starts_and_stops_no_race(tmp_path: Path, race: RaceDirectory) -> None:
    demo = replace(page_context(tmp_path / "runs"), access=Access(may_train=False))
    with pytest.raises(FtlabError, match="public demo"):
        start(demo, reading(USUAL), USUAL)
    press(demo, "stop", race.race_id)
    assert not race.cancel_file.exists()


def test_while_it_runs_the_page_says_what_is_done_and_how_much_is_left(
    context: AppContext, race: RaceDirectory
) -> None:
    race.report({"event": "rung", "step": 5, "candidates": 2})
    race.report({"event": "reading", "label": "LoRA", "step": 5, "loss": 1.25, "reason": "",
                 "elapsed": 120.0})  # fmt: skip
    html = race_html(newest(context))
    assert "2 candidates, training to step 5; 8 min 00 s left of 10 min 00 s" in html
    assert 'aria-valuenow="20"' in html
    assert f'data-race="stop" data-id="{race.race_id}"' in html
    assert "1.25" in html
    race.report({"event": "left", "label": "<IA3>", "reason": "<b>out</b>"})
    assert "&lt;b&gt;out" in race_html(newest(context))
    race.report({"event": "final", "seed": 0, "finalists": ["LoRA"]})
    assert "scoring the last 1, seed 1" in race_html(newest(context))


def test_the_answer_stands_above_the_candidates_and_a_stopped_race_can_go_on(
    context: AppContext, race: RaceDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    race.write_result(RaceResult(
        "cancelled", "Cancelled by the person.", "LoRA at 2e-3: <0.5>.", ("It is so.",)
    ))  # fmt: skip
    html = race_html(newest(context))
    assert "LoRA at 2e-3: &lt;0.5&gt;." in html
    assert "It is so." in html
    assert 'data-race="resume"' in html
    started: list[Any] = []
    monkeypatch.setattr("ftlab.race.start.start_detached", lambda *given: started.append(given))
    press(context, "resume", race.race_id)
    assert started
    assert newest(context) is not None


def test_a_failed_race_says_why(context: AppContext, race: RaceDirectory) -> None:
    race.write_result(RaceResult("failed", "The race cannot go on: torch was 1, and is 2."))
    assert "torch was 1, and is 2." in race_html(newest(context))


def test_a_page_gets_what_is_new_and_asks_sooner_while_a_race_is_open(
    context: AppContext, race: RaceDirectory
) -> None:
    assert poll(context, {"queue": ""}).html == {}
    news = poll(context, {"race": ""})
    tag, html = news.html["race"]
    assert "left of 10 min 00 s" in html
    assert news.seconds == 2.0
    race.write_result(RaceResult("done", sentence="LoRA."))
    ended = poll(context, {"race": tag})
    assert ended.seconds is None
    assert poll(context, {"race": ended.html["race"][0]}).html == {}


def test_without_a_race_the_page_says_what_one_does(context: AppContext) -> None:
    assert "No race yet." in race_html(newest(context))
    press(context, "stop", "nonsense")  # a warning, no error


def test_a_damaged_race_is_passed_over(context: AppContext, race: RaceDirectory) -> None:
    race.report({"event": "reading", "loss": "much"})
    assert newest(context) is None
    race.events_file.unlink()
    race.request_file.write_text("{")
    assert newest(context) is None
