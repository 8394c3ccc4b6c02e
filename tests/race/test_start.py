"""A race is planned from methods: neighbours, what applies, what fits; and wrong input is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.variant import Variant, parse_variant, trainable_parameters
from ftlab.models.dimensions import shape_of_model
from ftlab.prediction.question import Prediction, Question
from ftlab.race.candidates import LeftOut, all_candidates, in_turn, neighbours
from ftlab.race.record import RaceResult, RaceSettings, find_race, list_races
from ftlab.race.start import plan_race, resume_race, start_race
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference
from tests.race.invented import race_request


def request(model: Path, *methods: str, **more: Any) -> SweepRequest:
    return SweepRequest(
        model=str(model), variants=tuple(map(parse_variant, methods)), device="cpu", **more
    )


def test_a_method_has_its_neighbours_in_rate_and_in_size(tiny_model: Path) -> None:
    found = neighbours(parse_variant("lora"), str(tiny_model))
    assert found[0] == parse_variant("lora"), "the default comes first"
    default = parse_variant("lora").spec.rate_for
    rates = [one.learning_rate for one in found if one.learning_rate is not None]
    assert len(rates) == 2
    assert rates[0] < rates[1]
    assert default is not None
    shape = shape_of_model(str(tiny_model))
    assert shape is not None
    own = trainable_parameters(found[0], shape)
    sizes = [trainable_parameters(one, shape) for one in found if one.hyperparameters]
    assert own is not None
    assert sizes == [own // 2, 2 * own]


def test_a_rate_of_ones_own_is_the_middle_of_the_neighbours() -> None:
    found = neighbours(parse_variant("full:learning_rate=1e-4"), "bundled")
    assert [one.learning_rate for one in found] == [1e-4, 3.3e-5, 3e-4]


@pytest.mark.parametrize("method", METHODS)
def test_all_neighbours_are_different_and_can_be_asked_for(method: str, tiny_model: Path) -> None:
    found = neighbours(Variant(method), str(tiny_model))
    labels = [one.label for one in found]
    assert len(set(labels)) == len(labels) >= 3


def test_defaults_come_before_all_neighbours() -> None:
    variants, defaults = all_candidates([Variant("lora"), Variant("full")], "bundled")
    assert [variants[place] for place in defaults] == [Variant("lora"), Variant("full")]
    assert len(variants) == 5 + 3


def test_methods_of_every_family_take_turns_so_that_short_races_try_every_kind() -> None:
    order = [one.method for one in in_turn([Variant(method) for method in METHODS])]
    assert sorted(order) == sorted(METHODS)
    families = {METHODS[method].family for method in METHODS}
    assert {METHODS[method].family for method in order[: len(families)]} == families
    assert set(CORE) <= set(order[: len(families)])


def test_a_method_that_does_not_apply_to_the_model_is_left_out_with_the_reason(
    tiny_model: Path, tmp_path: Path
) -> None:
    asked = request(tiny_model, "lora", "bitfit")
    planned, left_out = plan_race(asked, RaceSettings(), RunStore(tmp_path))
    assert {variant.method for variant in planned.request.variants} == {"lora"}
    (left,) = left_out
    assert left.variant.method == "bitfit"
    assert "bias" in left.reason
    with pytest.raises(InvalidRequest, match=r"No method is left to race\. BitFit: .*bias"):
        plan_race(request(tiny_model, "bitfit"), RaceSettings(), RunStore(tmp_path))


class Predicts:
    """A predictor for which full fine-tuning needs 5 GB, and everything else 0.1 GB."""

    def __enter__(self) -> Predicts:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def ask(
        self, questions: Sequence[Question], has_left: Callable[[], bool]
    ) -> Iterator[tuple[int, Prediction]]:
        assert not has_left(), "there is time for predictions"
        for place, question in enumerate(questions):
            method = question.variant.method
            if method == "ia3":
                raise FtlabError("It took too long.")
            size = 5_000_000_000 if method == "full" else 100_000_000
            yield place, Prediction(method, method, peak_reserved_bytes=size)


def test_what_is_predicted_to_need_more_than_the_limit_is_left_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.race.start.Predictor", Predicts)
    said: list[str] = []
    asked = request(tiny_model, "full", "lora", "ia3", memory_limit=3_000_000_000)
    planned, left_out = plan_race(asked, RaceSettings(), RunStore(tmp_path), said.append)
    methods = {variant.method for variant in planned.request.variants}
    assert methods == {"lora", "ia3"}, "what cannot be predicted is held to the limit as it runs"
    assert left_out[0].reason.endswith("or more, and may take 3.00 GB")
    assert said == ["predicting the memory of 3 methods …"]
    with pytest.raises(
        InvalidRequest, match=r"No method is left to race\. Full fine-tuning: it needs 6"
    ):
        plan_race(replace(asked, variants=(Variant("full"),)), RaceSettings(), RunStore(tmp_path))


@pytest.mark.parametrize(
    ("settings", "steps", "words"),
    [
        (RaceSettings(minutes=0.1), 30, "Minutes is 0.1"),
        (RaceSettings(prefer="speed"), 30, "Prefer: 'speed' is none of: memory, time"),  # type: ignore[arg-type]
        (RaceSettings(), 0, "Steps is 0"),
    ],
)
def test_a_wrong_setting_is_named(
    settings: RaceSettings, steps: int, words: str, tiny_model: Path, tmp_path: Path
) -> None:
    asked = request(tiny_model, "lora", settings=TrainingSettings(steps=steps))
    with pytest.raises(InvalidRequest, match=words):
        plan_race(asked, settings, RunStore(tmp_path))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was started instead of a process."""
    found: list[tuple[Any, ...]] = []
    monkeypatch.setattr("ftlab.race.start.start_detached", lambda *given: found.append(given))
    return found


def test_a_started_race_is_found_by_its_id_and_says_who_takes_no_part(
    tmp_path: Path, started: list[tuple[Any, ...]]
) -> None:
    assert list_races(tmp_path) == []
    asked = race_request("lora", "full")
    left = LeftOut(Variant("bitfit"), "there are no biases")
    race = start_race(asked, [left], tmp_path, planned_seconds=12.3)
    assert race.request() == asked
    assert race.spent() == 12.3
    assert [(one["label"], one["reason"]) for one in race.events() if one["event"] == "left"] == [
        ("BitFit", "there are no biases")
    ]
    assert race.status() == "queued"
    assert [one.race_id for one in list_races(tmp_path)] == [race.race_id]
    assert find_race(tmp_path, race.race_id) == race
    assert race.runs_folder == tmp_path.resolve()
    assert started[0][0] == "ftlab.race.worker"
    with pytest.raises(FtlabError, match=f"There is no race 'x' in .*; races: {race.race_id}"):
        find_race(tmp_path, "x")


def test_only_a_race_that_ended_early_goes_on(
    tmp_path: Path, started: list[tuple[Any, ...]]
) -> None:
    race = start_race(race_request("lora"), [], tmp_path)
    with pytest.raises(FtlabError, match="is queued; only one that ended early can go on"):
        resume_race(race)
    assert race.begin()
    race.write_result(RaceResult("cancelled", "Cancelled by the person.", seconds=42.0))
    race.cancel_file.touch()
    resume_race(race)
    assert race.status() == "queued"
    assert race.spent() == 42.0, "its time goes on from there"
    assert not race.cancel_file.exists()
    assert len(started) == 2
    assert race.begin(), "another process takes it up"
    assert race.status() == "running"
    race.end("done")
    with pytest.raises(FtlabError, match="is done"):
        resume_race(race)


def test_while_a_race_is_open_no_other_starts_or_goes_on(
    tmp_path: Path, started: list[tuple[Any, ...]]
) -> None:
    first = start_race(race_request("lora"), [], tmp_path)
    with pytest.raises(FtlabError, match=f"The race {first.race_id} is under way; stop it first"):
        start_race(race_request("full"), [], tmp_path)
    assert first.begin()
    first.end("cancelled")
    second = start_race(race_request("full"), [], tmp_path)
    with pytest.raises(FtlabError, match=f"The race {second.race_id} is under way; stop it first"):
        resume_race(first)
    assert len(started) == 2


def test_a_race_that_was_begun_on_other_data_does_not_go_on(
    tmp_path: Path, started: list[tuple[Any, ...]]
) -> None:
    race = start_race(race_request("lora"), [], tmp_path)
    assert race.begin()
    race.report({"event": "ground", "same": {"data": "other"}, "machine": "A"})
    race.end("cancelled")
    with pytest.raises(FtlabError, match="cannot go on: data was other, and is"):
        resume_race(race)
    assert (race.status(), len(started)) == ("cancelled", 1)


def test_what_is_wrong_inside_a_file_is_said_before_a_race_starts(
    tiny_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "one.csv"
    file.write_text("prompt,completion\na,b\n")
    asked = request(tiny_model, "lora", task=TaskReference("file", str(file)))
    with pytest.raises(InvalidRequest, match="at least 3"):
        plan_race(asked, RaceSettings(), RunStore(tmp_path))


def test_the_operators_memory_limit_holds_for_a_race_that_asks_for_more(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.race.start.Predictor", Predicts)
    monkeypatch.setenv("FTLAB_MEMORY_LIMIT", "3GB")
    asked = request(tiny_model, "full", "lora", memory_limit=9_000_000_000)
    planned, left_out = plan_race(asked, RaceSettings(), RunStore(tmp_path))
    assert planned.request.memory_limit == 3_000_000_000
    assert [one.variant.method for one in left_out] == ["full"]


def test_a_race_whose_request_is_damaged_says_so(
    tmp_path: Path, started: list[tuple[Any, ...]]
) -> None:
    race = start_race(race_request("lora"), [], tmp_path)
    race.request_file.write_text(json.dumps({"request": 1}))
    with pytest.raises(FtlabError, match=r"race\.json"):
        race.request()
    race.request_file.unlink()
    with pytest.raises(FtlabError, match="is no race"):
        race.request()
