"""Runs on the tuning split: what they measure, what they leave out, and what a ladder reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.jobs.launch import enqueue_sweep, plan_sweep, validate
from ftlab.jobs.tuning import Point, ladders_of, latest_ladders, tuned_of
from ftlab.methods.variant import Variant
from ftlab.records.comparability import comparability_of_runs
from ftlab.records.result import Measures
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest, dump_spec, load_spec
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.share.learning_rates import document
from ftlab.share.model_card import spec_rows
from ftlab.tasks.reference import TaskReference, load, parse_task
from ftlab.training.run import RunRecord, execute
from tests.fakes import SWEEP, make_run

TUNING = TrainingSettings(eval_split="tuning", eval_answers=False)
LATER = "20261126-080000-ef56"


def request(**settings: object) -> SweepRequest:
    return SweepRequest(
        "bundled",
        TaskReference("bundled", "sql"),
        (Variant("lora", learning_rate=1e-3), Variant("lora", learning_rate=3e-3)),
        TrainingSettings(**settings),  # type: ignore[arg-type]
        device="cpu",
    )


def make_rung(
    folder: Path, rate: float, loss: float | None, sweep: str = SWEEP, **run: object
) -> RunDirectory:
    """A run of a ladder; without a loss it diverged."""
    rows = [{"index": i, "loss_after": loss} for i in range(4)]
    return make_run(
        folder, "lora", "diverged" if loss is None else "done", sweep_id=sweep, learning_rate=rate,
        measures={"eval_loss_after": loss}, samples=rows, settings=TUNING, **run,
    )  # type: ignore[arg-type]  # fmt: skip


def measure(spec: RunSpec, folder: Path) -> tuple[Measures, list[dict[str, object]], list[str]]:
    directory, record = RunDirectory(folder / spec.run_id), RunRecord()
    directory.write_spec(spec)
    execute(spec, directory, record, lambda event: None)
    return record.measures, directory.samples(), record.notes


def test_a_run_on_the_tuning_split_sees_no_held_out_example_and_its_loss_needs_no_answers(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    task = parse_task(str(task_file))
    settings = replace(TUNING, eval_examples=3, max_length=128)
    asked = SweepRequest(
        str(tiny_model), task, (Variant("lora"),), settings, dtype_policy="fp32", device="cpu"
    )
    base = plan_sweep(asked)[0]
    quick, rows, notes = measure(base, tmp_path / "quick")
    data = load(task)[1]
    assert [row["reference"] for row in rows] == [e.completion for e in data.tuning[:3]]
    assert (
        [row["prompt"][-1]["content"] for row in rows]
        == [  # type: ignore[index]
            example.question for example in data.tuning[:3]
        ]
    )
    assert all("answer_before" not in row and "score_before" not in row for row in rows)
    assert quick.score_before is None
    assert any("tuning examples" in note for note in notes)
    assert any("there is no score" in note for note in notes)
    scored = replace(base, settings=replace(settings, eval_answers=True))
    slow, rows, _ = measure(scored, tmp_path / "slow")
    assert slow.eval_loss_before == quick.eval_loss_before
    assert slow.score_before is not None
    assert all("answer_before" in row for row in rows)


def test_a_spec_names_the_split_only_where_it_is_not_the_usual_one() -> None:
    usual, tuning = (plan_sweep(request(**given))[-1] for given in ({}, {"eval_split": "tuning"}))
    assert "eval_split" not in json.loads(dump_spec(usual))["settings"]
    assert json.loads(dump_spec(tuning))["settings"]["eval_split"] == "tuning"
    assert load_spec(dump_spec(tuning)) == tuning


def test_a_split_that_there_is_not_is_named() -> None:
    errors = validate(request(eval_split="test"))
    assert [error.field for error in errors] == ["settings.eval_split"]


def test_the_panel_says_on_which_split_a_run_was_measured() -> None:
    spec = plan_sweep(request(eval_split="tuning", eval_answers=False))[-1]
    assert ("Tuning split", "64 examples, their loss alone") in spec_rows(spec)
    assert ("Held out", "64 examples") in spec_rows(plan_sweep(request())[-1])


def test_what_was_measured_on_tuning_examples_is_called_so_where_runs_are_compared(
    tmp_path: Path,
) -> None:
    make_rung(tmp_path, 1e-3, 0.9)
    make_rung(tmp_path, 3e-3, 0.5)
    assert "64 tuning examples" in comparability_of_runs(RunStore(tmp_path).runs()).same


def test_runs_that_go_on_with_a_sweep_share_its_id_and_its_base_run(tmp_path: Path) -> None:
    first = enqueue_sweep(request(), tmp_path)
    asked = replace(request(), variants=(Variant("lora", learning_rate=9e-3),))
    (further,) = enqueue_sweep(asked, tmp_path, onto=first)
    assert further.sweep_id == first[0].sweep_id
    assert further.base_run_id == first[0].run_id
    assert further.run_id.endswith("-03-lora")


def test_a_ladder_is_read_from_its_runs_lowest_rate_first_seeds_together(tmp_path: Path) -> None:
    make_run(tmp_path, "base", settings=TUNING, measures={"eval_loss_before": 2.5})
    make_rung(tmp_path, 3e-3, 0.5)
    make_rung(tmp_path, 1e-3, 0.9)
    make_rung(tmp_path, 1e-3, 0.7, seed=1)
    make_run(tmp_path, status="failed", seed=1, learning_rate=9e-3, settings=TUNING)
    make_rung(tmp_path, 9e-3, None)
    found = tuned_of(RunStore(tmp_path).runs())
    assert found is not None
    assert found.points == (
        Point(1e-3, "done", (0.9, 0.7), (0.8,) * 4),
        Point(3e-3, "done", (0.5,), (0.5,) * 4),
        Point(9e-3, "diverged", (), found.points[2].examples),
    )
    assert (found.base_loss, found.suggestion.rate) == (2.5, 3e-3)


@pytest.mark.parametrize(
    "other", [{"method": "dora"}, {"method": "lora", "hyperparameters": {"r": 4}}]
)
def test_runs_that_differ_by_more_than_the_rate_are_no_ladder(
    other: dict[str, object], tmp_path: Path
) -> None:
    make_rung(tmp_path, 3e-3, 0.5)
    make_run(tmp_path, learning_rate=1e-3, settings=TUNING, **other)  # type: ignore[arg-type]
    assert tuned_of(RunStore(tmp_path).runs()) is None


def test_a_sweep_may_hold_a_ladder_of_each_of_its_variants(tmp_path: Path) -> None:
    make_run(tmp_path, "base", settings=TUNING, measures={"eval_loss_before": 2.5})
    make_run(
        tmp_path, "base", settings=TUNING, base_precision="nf4", measures={"eval_loss_before": 3.5}
    )
    make_rung(tmp_path, 3e-3, 0.5)
    make_rung(tmp_path, 1e-3, 0.9)
    for rate, loss in ((1e-3, 0.4), (3e-3, 0.8)):
        make_run(
            tmp_path, "qlora", learning_rate=rate, settings=TUNING,
            measures={"eval_loss_after": loss},
        )  # fmt: skip
    lora, qlora = ladders_of(RunStore(tmp_path).runs())
    assert (lora.variant.method, lora.base_loss, lora.suggestion.rate) == ("lora", 2.5, 3e-3)
    assert (qlora.variant.method, qlora.base_loss, qlora.suggestion.rate) == ("qlora", 3.5, 1e-3)
    assert latest_ladders(RunStore(tmp_path).runs()) == [lora, qlora]
    assert tuned_of(RunStore(tmp_path).runs()) is None


def test_the_newest_ladder_on_the_tuning_split_counts(tmp_path: Path) -> None:
    make_rung(tmp_path, 1e-3, 0.9)
    make_rung(tmp_path, 3e-3, 0.5, sweep=LATER)
    make_run(tmp_path, "lora", sweep_id="20261127-080000-ef56", learning_rate=9e-3)
    (found,) = latest_ladders(RunStore(tmp_path).runs())
    assert [point.rate for point in found.points] == [3e-3]


def test_the_document_holds_rule_conditions_and_ladders_and_how_far_a_default_lies_behind(
    tmp_path: Path,
) -> None:
    default = Variant("lora").spec.learning_rate
    for rate, loss in ((default / 4, None), (default, 0.6), (2 * default, 0.5), (4 * default, 0.7)):
        make_rung(tmp_path, rate, loss)
    text = document(latest_ladders(RunStore(tmp_path).runs()), "python -m ftlab tune --method lora")
    assert "    python -m ftlab tune --method lora\n" in text
    assert "- Measured on: 64 tuning examples\n" in text
    assert "at most 1 % higher" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| LoRA |")]
    assert ": diverged" in row
    assert ": 0.500**" in row
    assert "has a loss 20.0 % above that at" in text


def test_the_document_has_no_word_on_defaults_that_are_the_suggestion(tmp_path: Path) -> None:
    make_rung(tmp_path, Variant("lora").spec.learning_rate, 0.5)
    assert "not the suggestion" not in document(latest_ladders(RunStore(tmp_path).runs()), "")
