"""The smallest difference in score that a sweep can show, held against simulated sweeps."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from ftlab.basics.files import recorded_folder
from ftlab.methods.variant import Variant
from ftlab.records import differences
from ftlab.records.comparability import Scored
from ftlab.records.differences import Differences
from ftlab.records.power import (
    POWER,
    PRIOR,
    Discordance,
    Promise,
    ScoredRun,
    discordance_of,
    examples_needed,
    power,
    promise_of,
    smallest_difference,
    ways_to_show,
)
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run

SWEEPS = 400
SQL = TaskReference("bundled", "sql")


def shown_share(gain: float, examples: int, seeds: int, unsure: float) -> float:
    """In how many simulated sweeps the rule of `differences` shows a true difference of `gain`.

    A share `unsure` of the examples is answered right in half of the trainings, by the better
    variant more often; all others never or always.
    """
    drawn = random.Random(f"{examples} {seeds} {unsure}")
    higher = 0.5 + gain / unsure

    def right(is_better: bool, kind: float) -> float:
        if kind >= unsure:
            return float(kind >= (1 + unsure) / 2)
        return float(drawn.random() < (higher if is_better else 0.5))

    shown = 0
    for _ in range(SWEEPS):
        kinds = [drawn.random() for _ in range(examples)]
        scores = {
            name: [[right(name == "a", kind) for kind in kinds] for _ in range(seeds)]
            for name in "ab"
        }
        found = Differences(
            "score_after",
            {name: [(fmean(run), "") for run in runs] for name, runs in scores.items()},
            {
                name: {
                    (place, 0): fmean(of_one)
                    for place, of_one in enumerate(zip(*runs, strict=True))
                }
                for name, runs in scores.items()
            },
        )
        shown += found.between("a", "b").outcome == "better"
    return shown / SWEEPS


def as_scored(directories: Sequence[RunDirectory]) -> list[ScoredRun]:
    specs = [(directory.spec(), directory) for directory in directories]
    return [
        ScoredRun(spec.sweep_id, spec.label, spec.seed, str(directory.path))
        for spec, directory in specs
    ]


def rows_of(right: Sequence[int]) -> list[dict[str, float]]:
    return [{"score_after": float(one)} for one in right]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("examples", "seeds", "unsure"),
    [(32, 1, 0.6), (64, 3, 0.4), (500, 1, 0.3)],
)
def test_a_difference_of_the_size_that_is_named_is_shown_as_often_as_promised(
    examples: int, seeds: int, unsure: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(differences, "RESAMPLES", 1_000)
    within = unsure / 2  # two trainings disagree about half of the unsure examples
    gain = smallest_difference(examples, seeds, Discordance(within, within))
    assert gain is not None
    assert shown_share(gain, examples, seeds, unsure) == pytest.approx(POWER, abs=0.05)


def test_no_difference_is_shown_in_one_sweep_of_twenty_at_most() -> None:
    assert power(0.0, 64, 1, PRIOR) == pytest.approx(0.05, abs=0.01)
    assert power(0.0, 64, 3, PRIOR) < 0.05


def test_more_examples_and_a_second_and_third_seed_show_smaller_differences() -> None:
    some = [smallest_difference(examples, 1, PRIOR) for examples in (16, 64, 200, 1_000)]
    assert some == sorted(filter(None, some), reverse=True)
    assert some[1] == pytest.approx(2.8 * (PRIOR.between / 64) ** 0.5, rel=0.1)
    one, three = (smallest_difference(64, seeds, PRIOR) or 0 for seeds in (1, 3))
    assert three < one
    same = Discordance(between=0.2, within=0.0)
    again = [smallest_difference(64, seeds, same) for seeds in (1, 3)]
    assert again[1] == pytest.approx(again[0], abs=0.002), "seeds that agree add nothing"


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_examples_that_are_needed_show_the_difference_and_one_less_does_not(seeds: int) -> None:
    needed = examples_needed(0.05, seeds, PRIOR)
    assert needed is not None
    assert power(0.05, needed, seeds, PRIOR) >= POWER > power(0.05, needed - 1, seeds, PRIOR)


def test_a_difference_of_nothing_is_shown_by_no_number_of_examples() -> None:
    assert examples_needed(0.0, 1, PRIOR) is None
    assert ways_to_show(0.0, PRIOR) == []
    assert smallest_difference(9, 1, PRIOR) is None


def test_numbers_of_examples_are_rounded_up_to_two_digits() -> None:
    for way in ways_to_show(0.03, PRIOR):
        assert way.examples >= (examples_needed(0.03, way.seeds, PRIOR) or 0)
        assert set(str(way.examples)[2:]) <= {"0"}


def test_the_prior_is_that_of_the_recorded_sweeps() -> None:
    folders = sorted(folder for folder in recorded_folder().iterdir() if folder.is_dir())
    found = [
        discordance_of(
            as_scored(
                [
                    run.directory
                    for run in RunStore(folder).runs()
                    if run.spec.variant is not None and run.status == "done"
                ]
            )
        )
        for folder in folders
    ]
    assert all(one.pairs for one in found)
    between = sum(one.between * one.pairs for one in found) / sum(one.pairs for one in found)
    within = sum(one.within * one.pairs for one in found) / sum(one.pairs for one in found)
    assert (PRIOR.between, PRIOR.within) == pytest.approx((between, within), abs=0.006)


def test_variants_are_compared_within_a_sweep_and_seed_and_seeds_within_a_variant(
    tmp_path: Path,
) -> None:
    half, other, none = [1, 0] * 10, [1, 1, 0, 0] * 5, [0] * 20
    runs = [
        make_run(tmp_path, "lora", seed=0, samples=rows_of(half)),
        make_run(tmp_path, "lora", seed=1, samples=rows_of(other)),
        make_run(tmp_path, "full", seed=0, samples=rows_of(none)),
        make_run(tmp_path, "full", seed=2, samples=rows_of(none[:5])),
        make_run(tmp_path, "oft", sweep_id="20260101-000000-aaaa", samples=rows_of(other)),
    ]
    between, within = (PRIOR.between + 0.5) / 2, (PRIOR.within + 0.5) / 2
    assert discordance_of(as_scored(runs)) == Discordance(between, within, pairs=2)
    alone = discordance_of(as_scored(runs[1:3]))
    assert alone == PRIOR, "neither of one seed nor of one variant"
    once = discordance_of(as_scored([runs[0], runs[2]]))
    assert once == Discordance(between, between, pairs=1), "no repeats"


def test_the_words_say_what_can_be_shown_and_from_what_that_follows() -> None:
    assert Promise(64, 1, PRIOR).words == (
        "64 examples and 1 seed can show a difference in score of about 0.15; with 3 seeds, of "
        "about 0.11."
    )
    assert Promise(64, 3, PRIOR).words == (
        "64 examples and 3 seeds can show a difference in score of about 0.11."
    )
    assert Promise(9, 1, PRIOR).words == (
        "With fewer than 10 test examples no difference in score is claimed."
    )
    nothing = Promise(10, 1, Discordance(40.0, 40.0)).words
    assert nothing == "10 examples and 1 seed can show no difference in score."
    assert "the recorded sweeps, as this task has no scored runs" in Promise(64, 1, PRIOR).source
    seen = Promise(64, 1, Discordance(0.2, 0.1, pairs=7)).source
    assert "By 7 pairs of earlier runs of this task" in seen


def test_a_promise_follows_from_the_runs_of_the_task_on_the_model_if_there_are_any(
    tmp_path: Path,
) -> None:
    def pair(sweep: str, one: list[int], other: list[int], **made: Any) -> None:
        for method, scores in (("lora", one), ("full", other)):
            sweep_id, samples = f"20260101-000000-{sweep}", rows_of(scores)
            make_run(tmp_path, method, sweep_id=sweep_id, samples=samples, **made)

    none, fourth, half, ones = [0] * 20, [1, 0, 0, 0] * 5, [1, 0] * 10, [1] * 20
    pair("aaaa", none, fourth)
    pair("bbbb", none, half, model="owner/other")
    pair("cccc", none, ones, task=TaskReference("bundled", "medical"))
    pair("dddd", none, ones, status="failed")
    make_run(tmp_path, "base", sweep_id="20260101-000000-aaaa", samples=rows_of(ones))
    runs = RunStore(tmp_path).runs()
    asked = SweepRequest("bundled", SQL, (Variant("lora"),), seeds=(3, 4))
    found = promise_of(asked, Scored(64), runs)
    apart = (PRIOR.between + 0.25) / 2
    assert found == Promise(64, 2, Discordance(apart, apart, pairs=1))
    unseen = promise_of(replace(asked, model="owner/unseen"), Scored(64), runs)
    apart = (PRIOR.between + 0.25 + 0.5) / 3
    assert unseen == Promise(64, 2, Discordance(pytest.approx(apart), pytest.approx(apart), 2))
    assert promise_of(asked, None, runs) is None
    loss_alone = TrainingSettings(eval_answers=False)
    assert promise_of(replace(asked, settings=loss_alone), Scored(64), runs) is None


def test_many_seeds_cost_no_more_memory_than_a_few() -> None:
    tracemalloc.start()
    try:
        assert smallest_difference(64, 100_000, PRIOR) is not None
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
