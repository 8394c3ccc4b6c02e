"""Model and data are looked at before anything is queued, and what is scored is what is said."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import InvalidRequest
from ftlab.basics.recent import Recent
from ftlab.jobs import inputs
from ftlab.jobs.inputs import check_inputs, look_at_inputs, must_ask
from ftlab.jobs.sweep_costs import scoring_of
from ftlab.methods.variant import Variant
from ftlab.models.resolve import ModelReach
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.experiment.fields import blocks_launch, launch_line, scored_html
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference, parse_task
from tests.fakes import make_run

SQL = TaskReference("bundled", "sql")


@pytest.fixture
def models() -> ModelReach:
    """A Hub that has every model but those of "gone"."""
    return ModelReach(lambda model: "It cannot be had." if model.startswith("gone/") else "")


@pytest.fixture
def asked(tiny_model: Path, task_file: Path) -> SweepRequest:
    return SweepRequest(
        str(tiny_model), parse_task(str(task_file)), (Variant("lora"),), TrainingSettings(steps=2)
    )


def bar(wanted: SweepRequest, models: ModelReach) -> str:
    found = look_at_inputs(wanted, models)
    return launch_line(wanted, found.errors, scored=found.scored)


def test_the_bar_says_how_many_the_file_has_and_the_field_says_why(
    asked: SweepRequest, models: ModelReach
) -> None:
    assert "4 test examples scored" in bar(asked, models)
    note = look_at_inputs(asked, models).words
    assert "4 examples are scored: the file has 4 test examples, not 64." in note


def test_the_bar_says_how_many_the_bundled_task_has(
    asked: SweepRequest, models: ModelReach
) -> None:
    many = replace(asked, task=SQL, settings=replace(asked.settings, eval_examples=5_000))
    assert "1,000 test examples scored" in bar(many, models)
    few = replace(many, settings=replace(asked.settings, eval_examples=8))
    assert "8 test examples scored" in bar(few, models)
    assert look_at_inputs(few, models).words == ""


def test_what_is_too_long_does_not_count(asked: SweepRequest, models: ModelReach) -> None:
    longest = max(len(line) for line in Path(asked.task.id).read_text().splitlines())
    rows = "".join(f"Repeat {'word ' * 200}{i},word\n" for i in range(20))
    file = Path(asked.task.id)
    file.write_text(file.read_text() + rows)
    assert longest < 40
    whole = look_at_inputs(replace(asked, settings=TrainingSettings(max_length=4_000)), models)
    part = look_at_inputs(asked, models)
    assert whole.scored is not None
    assert part.scored is not None
    assert part.scored.count < whole.scored.count == 6
    assert "longer than 256 tokens" in part.scored.reason


def test_the_bar_says_up_to_for_a_data_set_that_is_not_read_yet(models: ModelReach) -> None:
    wanted = SweepRequest("bundled", TaskReference("hub", "owner/unread"), (Variant("lora"),))
    assert "up to 64 test examples scored" in bar(wanted, models)
    assert must_ask(wanted, models)


def test_the_cost_of_scoring_is_that_of_the_examples_there_are(asked: SweepRequest) -> None:
    scoring = scoring_of(asked)
    assert scoring is not None
    assert scoring.rows == 4
    elsewhere = scoring_of(replace(asked, model="meta-llama/Llama-3.1-8B"))
    assert elsewhere is not None
    assert elsewhere.rows == 4


@pytest.mark.parametrize(
    ("text", "mapping", "words"),
    [
        ("prompt,completion\na,b\n", None, "The data have only 1 row; at least 3 are needed"),
        ("left,right\n" + "a,b\n" * 5, None, "No column is set for the prompt"),
        (
            "prompt,completion\na,b\nc,d\ne,f\n",
            ColumnMapping("prompt", "answer"),
            "task file has no column 'answer'; columns: prompt, completion",
        ),
        ("prompt,completion\n" + "a,\n" * 5, None, "Column 'completion' is empty in every row"),
    ],
)
def test_data_that_cannot_be_used_keep_launch_from_being_pressed(
    asked: SweepRequest, models: ModelReach, tmp_path: Path, text: str, mapping: Any, words: str
) -> None:
    file = tmp_path / "wrong.csv"
    file.write_text(text)
    wanted = replace(asked, task=replace(parse_task(str(file)), mapping=mapping))
    (error,) = look_at_inputs(wanted, models).errors
    assert (error.field, error.message[: len(words)]) == ("task.id", words)
    assert blocks_launch([error])
    assert words.split(";")[0] in bar(wanted, models).replace("&#39;", "'")


def test_a_length_that_no_example_fits_is_reported_at_its_field(
    asked: SweepRequest, models: ModelReach
) -> None:
    short = replace(asked, settings=TrainingSettings(max_length=16))
    (error,) = look_at_inputs(short, models).errors
    assert error.field == "settings.max_length"
    assert "Raise the maximum length" in error.message


def test_training_examples_that_are_all_too_long_are_found_when_launch_is_pressed(
    asked: SweepRequest, models: ModelReach
) -> None:
    file = Path(asked.task.id)
    rows = [f'"{"word " * 300}{i}",yes' for i in range(30)]
    file.write_text("prompt,completion\n" + "\n".join(rows) + "\n")
    with pytest.raises(InvalidRequest, match="longer than 256 tokens"):
        check_inputs(asked, models)


def test_an_unavailable_model_is_reported_after_the_hub_was_asked(
    asked: SweepRequest, models: ModelReach
) -> None:
    wanted = replace(asked, model="gone/model")
    assert must_ask(wanted, models)
    assert look_at_inputs(wanted, models).errors == ()
    with pytest.raises(InvalidRequest, match=r"It cannot be had\."):
        check_inputs(wanted, models)
    (error,) = look_at_inputs(wanted, models).errors  # as the form is checked from now on
    assert (error.field, error.message) == ("model", "It cannot be had.")
    assert not must_ask(wanted, models)


def test_a_data_set_is_read_when_launch_is_pressed_and_not_before(
    asked: SweepRequest, models: ModelReach, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def load(name: str, *rest: Any) -> list[dict[str, Any]]:
        read.append(name)
        return [{"left": f"a{i}", "right": "b"} for i in range(9)]

    monkeypatch.setattr(inputs, "load_hub_rows", load)
    monkeypatch.setattr(inputs, "_HUB_ROWS", Recent(2))
    wanted = replace(asked, task=TaskReference("hub", "owner/set"))
    assert look_at_inputs(wanted, models).errors == ()
    assert read == []
    with pytest.raises(InvalidRequest, match="No column is set for the prompt"):
        check_inputs(wanted, models)
    named = replace(wanted, task=replace(wanted.task, mapping=ColumnMapping("left", "right")))
    check_inputs(named, models)
    assert read == ["owner/set"]


def test_the_field_says_what_difference_so_many_examples_can_show(
    asked: SweepRequest, models: ModelReach, tmp_path: Path
) -> None:
    few = scored_html(asked, look_at_inputs(asked, models), [])
    assert "4 examples are scored" in few
    assert "With fewer than 10 test examples no difference in score is claimed." in few
    many = replace(asked, task=SQL)
    assert "64 examples and 1 seed can show" in scored_html(many, look_at_inputs(many, models), [])
    loss = replace(many, settings=replace(many.settings, eval_answers=False))
    assert scored_html(loss, look_at_inputs(loss, models), []) == "", "without answers no score"


def test_what_can_be_shown_follows_from_earlier_runs_of_the_task_and_of_its_model_first(
    asked: SweepRequest, models: ModelReach, tmp_path: Path
) -> None:
    many = replace(asked, task=SQL)
    for model, scores in (("bundled", [1.0, 0.0]), (asked.model, [1.0, 1.0])):
        for method, score in zip(("lora", "full"), scores, strict=True):
            samples = [{"score_after": score}] * 12
            make_run(
                tmp_path, method, model=model, task=SQL, sweep_id=sweep_of(model), samples=samples
            )
    runs = RunStore(tmp_path).runs()
    found = look_at_inputs(many, models)
    own = scored_html(many, found, runs)
    others = scored_html(many, found, [run for run in runs if run.spec.model != asked.model])
    assert smallest(own) < smallest(scored_html(many, found, [])) < smallest(others)


def smallest(said: str) -> float:
    (found,) = re.findall(r"a difference in score of about (0\.\d\d)", said)
    return float(found)


def sweep_of(model: str) -> str:
    return f"20260101-000000-{'aaaa' if model == 'bundled' else 'bbbb'}"
