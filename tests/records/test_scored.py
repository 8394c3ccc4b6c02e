"""How many examples are scored is what the data have, not what the settings ask for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs.launch import needed_bytes, plan_sweep
from ftlab.methods.variant import Variant
from ftlab.records.comparability import (
    SCORED,
    Scored,
    comparability_of_runs,
    scored_by,
    scored_of,
    scored_words,
)
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.share.model_card import spec_rows
from ftlab.tasks.reference import TaskReference, load, parse_task
from tests.fakes import make_run

SQL = TaskReference("bundled", "sql")


def asking(task: TaskReference, examples: int, split: Any = "held_out") -> SweepRequest:
    settings = TrainingSettings(eval_examples=examples, eval_split=split)
    return SweepRequest("bundled", task, (Variant("lora"),), settings)


def said(task: TaskReference, examples: int, **more: Any) -> tuple[int, str]:
    scored = scored_of(asking(task, examples, **more), load(task)[1])
    return scored.count, scored_words(scored)


def run_of(folder: Path, **made: Any) -> Run:
    make_run(folder, **made)
    (run,) = RunStore(folder).runs()
    return run


@pytest.mark.parametrize(
    ("asked", "split", "scored", "sentence"),
    [
        (8, "held_out", 8, ""),
        (1_000, "held_out", 1_000, ""),
        (201, "tuning", 200, "200 examples are scored: the task has 200 tuning examples, not 201."),
        (
            5_000, "held_out", 1_000,
            "1,000 examples are scored: the task has 1,000 test examples, not 5,000.",
        ),
    ],
)  # fmt: skip
def test_of_a_bundled_task_no_more_than_the_split_has_are_scored(
    asked: int, split: Any, scored: int, sentence: str
) -> None:
    assert said(SQL, asked, split=split) == (scored, sentence)


def test_a_file_says_how_many_examples_are_missing_or_too_long(task_file: Path) -> None:
    task = parse_task(str(task_file))
    fewer = "4 examples are scored: the file has 4 test examples, not 64."
    assert said(task, 64) == (4, fewer)
    scored = scored_of(asking(task, 3), load(task)[1], too_long=1)
    assert scored == Scored(2, "1 of 3 test examples is longer than 256 tokens")
    both = scored_of(asking(task, 9), load(task)[1], too_long=2)
    assert scored_words(both) == (
        "2 examples are scored: the file has 4 test examples, not 9, and 2 of 4 test "
        "examples are longer than 256 tokens."
    )


def test_a_run_says_what_it_scored_and_what_was_asked_for(tmp_path: Path) -> None:
    run = run_of(tmp_path, environment={SCORED: 6}, settings=TrainingSettings(eval_examples=8))
    assert scored_by(run) == 6
    assert ("Test examples", "6 examples (8 were asked for)") in spec_rows(run.spec, scored_by(run))


def test_an_older_record_is_counted_by_its_samples_where_a_note_says_there_were_fewer(
    tmp_path: Path,
) -> None:
    samples = [{"index": index, "prompt": "p", "answer": "a"} for index in range(6)]
    notes = ["The task has 6 test examples, so that many were scored, not 64."]
    assert scored_by(run_of(tmp_path / "fewer", samples=samples, notes=notes)) == 6
    assert scored_by(run_of(tmp_path / "all", samples=samples)) == 64


@pytest.mark.parametrize("status", ["queued", "running", "failed"])
def test_a_run_that_ended_before_scoring_has_no_count(tmp_path: Path, status: Any) -> None:
    run = run_of(tmp_path, status=status)
    assert scored_by(run) is None
    assert "eval_examples" not in run.conditions


def test_runs_are_compared_by_scored_and_not_by_requested_examples(tmp_path: Path) -> None:
    for method, asked in (("full", 8), ("lora", 64)):
        settings = TrainingSettings(eval_examples=asked)
        make_run(tmp_path, method, settings=settings, environment={SCORED: 6})
    found = comparability_of_runs(RunStore(tmp_path).runs())
    assert "6 test examples" in found.same
    assert found.is_like


def test_needed_disk_space_counts_only_existing_examples() -> None:
    specs = plan_sweep(asking(SQL, 100_000))
    few = [replace(spec, settings=replace(spec.settings, eval_examples=200)) for spec in specs]
    assert list(map(needed_bytes, specs)) == list(map(needed_bytes, few))
