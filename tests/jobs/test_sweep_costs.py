"""What a sweep is predicted from: its longest batch, its answers, and the memory that is free."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from pathlib import Path
from statistics import fmean

import pytest

from ftlab.basics.devices import Device
from ftlab.jobs import sweep_costs
from ftlab.jobs.inputs import (
    check_training_fits,
    formatter_of,
    load_data,
    measured_examples,
    scored_now,
)
from ftlab.jobs.launch import plan_sweep
from ftlab.jobs.sweep_costs import (
    Costing,
    Longest,
    SweepTimes,
    keep_expected,
    longest_of,
    scoring_of,
)
from ftlab.methods.variant import Variant
from ftlab.prediction.run_time import past_runs
from ftlab.records.expected import Expected, read_expected
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.formatting import BatchSize, Scoring, TooLong
from ftlab.tasks.reference import TaskReference, parse_task

GB = 1_000_000_000
CPU = Device("cpu", "CPU, 2 cores", 16 * GB)
GPU = Device("cuda:0", "A card", 24 * GB)


@pytest.fixture
def asked(tiny_model: Path, tmp_path: Path) -> SweepRequest:
    """A task whose examples have very different lengths, each trained on once alone."""
    rows = [f"{'a' * (3 * place)},{'b' * (30 - place)}" for place in range(1, 31)]
    file = tmp_path / "uneven.csv"
    file.write_text("prompt,completion\n" + "\n".join(rows) + "\n")
    request = SweepRequest(str(tiny_model), parse_task(str(file)), (Variant("lora"),), device="cpu")
    count = len(load_data(request.task)[2].train)
    settings = TrainingSettings(steps=count, batch_size=1, max_length=256, eval_examples=5)
    return replace(request, settings=settings)


def test_the_longest_batch_and_the_mean_tokens_are_those_of_the_examples(
    asked: SweepRequest,
) -> None:
    formatter = formatter_of(asked.model)
    assert formatter is not None
    examples = [formatter.format(one) for one in load_data(asked.task)[2].train]
    padded = [(8 * ceil(one.length / 8), len(one.completion_ids)) for one in examples]
    length, completion = max(padded)
    mean = fmean(length for length, _ in padded)
    assert longest_of(asked) == Longest(BatchSize(1, length, completion), mean, is_known=True)


def test_of_a_model_that_is_not_here_every_text_is_taken_to_be_as_long_as_allowed(
    asked: SweepRequest,
) -> None:
    settings = replace(asked.settings, batch_size=3, max_length=100)
    elsewhere = replace(asked, model="someone/not-here", settings=settings)
    assert longest_of(elsewhere) == Longest(BatchSize(3, 100, 3 * 99), 300, is_known=False)
    few = scored_now(elsewhere).count
    assert scoring_of(elsewhere) == Scoring(few, 100, 96)
    sql = replace(elsewhere, task=TaskReference("bundled", "sql"))
    many = replace(sql, settings=replace(settings, eval_examples=40))
    found = scoring_of(many)
    assert found is not None
    assert found.rows == 16, "no more at once"
    assert scoring_of(replace(sql, settings=replace(settings, eval_answers=False))) is None


def test_the_first_examples_of_the_asked_split_are_measured_without_those_that_are_too_long(
    asked: SweepRequest,
) -> None:
    _, _, data = load_data(asked.task)
    formatter = formatter_of(asked.model)
    assert formatter is not None
    for split, examples in (("held_out", data.held_out), ("tuning", data.tuning)):
        lengths = [formatter.format(one).length for one in examples[:2]]
        request = replace(
            asked,
            settings=replace(
                asked.settings, eval_split=split, eval_examples=2, max_length=min(lengths)
            ),
        )
        assert [one.length for one in measured_examples(request).formatted] == [min(lengths)]
        assert measured_examples(request).dropped == sum(one > min(lengths) for one in lengths)


def test_one_training_example_has_to_be_short_enough(asked: SweepRequest) -> None:
    formatter = formatter_of(asked.model)
    assert formatter is not None
    shortest = min(formatter.format(one).length for one in load_data(asked.task)[2].train)
    settings = replace(asked.settings, max_length=shortest)
    check_training_fits(replace(asked, settings=settings))
    with pytest.raises(TooLong):
        check_training_fits(replace(asked, settings=replace(settings, max_length=shortest - 1)))


@pytest.mark.parametrize(
    ("device", "free", "shard", "memory", "context"),
    [
        (CPU, 6 * GB, 1, 6 * GB, 560_000_000),
        (CPU, 6 * GB, 2, 3 * GB, 560_000_000),  # its processes share it
        (CPU, None, 1, 16 * GB, 560_000_000),
        (GPU, 20 * GB, 2, 20 * GB, 500_000_000),
    ],
)
def test_a_run_may_take_the_free_memory_of_its_device(
    device: Device, free: int | None, shard: int, memory: int, context: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sweep_costs, "free_bytes", lambda device: free)
    request = SweepRequest(settings=TrainingSettings(shard=shard))
    card = Costing(request, (), Longest(BatchSize(1, 1, 1), 1, True), (device,)).card
    assert (card.memory_bytes, card.context_bytes) == (memory, context)
    assert card.usable_bytes == memory - context


def test_what_is_expected_is_kept_beside_runs_that_wait(
    asked: SweepRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = Longest(BatchSize(1, 1, 1), 1, is_known=True)
    times = SweepTimes(Costing(asked, (), longest, (CPU,)), past_runs((), CPU), None)
    base, run = plan_sweep(asked)
    for spec in (base, run):
        RunDirectory(tmp_path / spec.run_id).write_spec(spec)
    RunDirectory(tmp_path / base.run_id).write_result(RunResult("done"))
    keep_expected(times, {}, (base, run), tmp_path)
    assert read_expected(RunDirectory(tmp_path / run.run_id)) is None, "nothing is known"
    known = Expected(train=40.0)
    monkeypatch.setattr(SweepTimes, "expected", lambda self, spec, found: known)
    keep_expected(times, {}, (base, run), tmp_path)
    assert read_expected(RunDirectory(tmp_path / run.run_id)) == known
    assert read_expected(RunDirectory(tmp_path / base.run_id)) is None, "it has ended"
