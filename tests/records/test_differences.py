"""Whether the runs of a sweep show a difference: the rule that page, report and card read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from ftlab.basics.files import recorded_folder
from ftlab.records.differences import (
    RECORDED_SPREAD,
    Difference,
    PairedDifference,
    differences_of,
    paired_difference,
    pooled_spread,
)
from ftlab.records.store import RunStore
from tests.fakes import make_run, make_sweep
from tests.share.fakes import data_of, scored

FULL, LORA = "Full fine-tuning", "LoRA"
HALF, ALL = [1.0, 0.0] * 20, [1.0] * 40


def make_pair(folder: Path, key: str, full: Sequence[Any], lora: Sequence[Any]) -> None:
    """A run of each a value, without examples; the seeds count from 0."""
    for method, values in (("full", full), ("lora", lora)):
        for seed, value in enumerate(values):
            make_run(folder, method, seed=seed, measures={key: value}, samples=[])


def make_scored(folder: Path, full: list[float], lora: list[float]) -> None:
    """One run each, whose examples got those scores."""
    for method, scores in (("full", full), ("lora", lora)):
        measures = {"score_after": sum(scores) / len(scores)}
        make_run(folder, method, measures=measures, samples=scored(scores))


def difference(folder: Path, key: str = "score_after") -> Difference:
    """LoRA against full fine-tuning."""
    return differences_of(data_of(folder).table, key).between(LORA, FULL)


def paired_scores(folder: Path) -> PairedDifference | None:
    return differences_of(data_of(folder).table, "score_after").paired(LORA, FULL)


@pytest.mark.parametrize(
    ("key", "full", "lora", "outcome", "doubt"),
    [
        ("adapter_bytes", [1003], [1000], "better", ""),
        ("adapter_bytes", [1000], [1000], "even", ""),
        (
            "train_seconds", [100.0], [97.0], "even",
            "no difference shown (1 run each; two runs of one spec differ by up to 35 % "
            "in the recorded sweeps)",
        ),
        ("train_seconds", [99.0, 100.0, 101.0], [89.0, 90.0, 91.0], "better", ""),
        (
            "train_seconds", [100.0, 120.0, 150.0], [70.0, 95.0, 99.0], "even",
            "no difference shown (3 runs each; means of so many runs of one spec differ by up to "
            "56 % in this sweep)",
        ),
        (
            "train_seconds", [100.0, 100.1], [97.0, 97.1], "even",
            "no difference shown (2 runs each; means of so many runs of one spec differ by up to "
            "23 % in the recorded sweeps)",
        ),
        ("score_after", [0.7, 0.8], [0.5, 0.6], "worse", ""),
        ("score_after", [0.5, 0.6], [0.7, 0.8], "better", ""),
        (
            "score_after", [0.1, 0.3], [0.2, 0.4], "even",
            "no difference shown (their repeats overlap)",
        ),
        ("score_after", [0.1], [0.3, 0.4], "unknown", ""),
        ("net_peak_memory_bytes", [None], [100], "unknown", ""),
        ("net_peak_memory_bytes", [0], [100], "unknown", ""),
        ("net_peak_memory_bytes", [-5], [100], "unknown", ""),
    ],
    ids=[
        "counts differ", "counts are the same", "within the recorded repeats", "steady repeats",
        "scattered repeats with separate ranges", "too few repeats", "worse scores of seeds",
        "better scores of seeds", "overlapping seeds", "one seed", "not measured", "zero",
        "below zero",
    ],
)  # fmt: skip
def test_values_of_runs_show_a_difference_or_the_reason_why_not(
    tmp_path: Path, key: str, full: list[Any], lora: list[Any], outcome: str, doubt: str
) -> None:
    make_pair(tmp_path, key, full, lora)
    found = difference(tmp_path, key)
    assert (found.outcome, found.doubt) == (outcome, doubt)
    has_ratio = (full[0] or 0) > 0
    assert math.isnan(found.ratio) != has_ratio
    if has_ratio:
        assert found.ratio == pytest.approx(fmean(lora) / fmean(full))


@pytest.mark.parametrize(
    ("key", "lora", "outcome"),
    [
        ("train_seconds", 76.0, "even"),
        ("train_seconds", 73.0, "better"),
        ("train_seconds", 133.0, "even"),
        ("train_seconds", 136.0, "worse"),
        ("tokens_per_second", 133.0, "even"),
        ("tokens_per_second", 136.0, "better"),
        ("net_peak_memory_bytes", 97, "even"),
        ("net_peak_memory_bytes", 95, "better"),
    ],
)
def test_single_runs_must_differ_by_more_than_the_recorded_runs_of_one_spec(
    tmp_path: Path, key: str, lora: float, outcome: str
) -> None:
    make_pair(tmp_path, key, [100], [lora])
    assert difference(tmp_path, key).outcome == outcome


def test_the_repeats_of_all_variants_count_for_one_that_ran_once(tmp_path: Path) -> None:
    for seed in range(3):
        for method in ("qlora", "prompt_tuning"):
            make_run(tmp_path, method, seed=seed, measures={"train_seconds": 50.0 + seed / 10})
    make_pair(tmp_path, "train_seconds", [100.0], [97.0])
    assert difference(tmp_path, "train_seconds").outcome == "better"


def test_the_spread_of_the_recordings_is_the_one_that_is_stated(tmp_path: Path) -> None:
    shipped = RunStore(tmp_path, recorded_folder()).table()
    for key, deviation in RECORDED_SPREAD.items():
        groups = shipped.groupby(["sweep_id", "variant"])[key]
        found = pooled_spread(values.tolist() for _, values in groups)
        assert found.freedom == 32
        assert deviation == pytest.approx(found.deviation, rel=0.01)


def test_the_limit_of_two_single_runs_is_that_of_the_standard(tmp_path: Path) -> None:
    make_pair(tmp_path, "train_seconds", [100.0], [97.0])
    limit = differences_of(data_of(tmp_path).table, "train_seconds").spread.limit(1, 1)
    assert math.log(limit) == pytest.approx(2.77 * RECORDED_SPREAD["train_seconds"], rel=0.01)


def test_a_gain_on_every_other_example_is_shown(tmp_path: Path) -> None:
    make_scored(tmp_path, HALF, ALL)
    found = difference(tmp_path)
    assert (found.outcome, found.value - found.other) == ("better", 0.5)
    paired = paired_scores(tmp_path)
    assert paired is not None
    assert 0.3 < paired.low < 0.5 < paired.high < 0.7
    assert paired.examples == 40


def test_one_example_more_of_forty_is_no_difference(tmp_path: Path) -> None:
    make_scored(tmp_path, HALF, [1.0, 1.0, *HALF[2:]])
    assert difference(tmp_path).doubt == (
        "no difference shown (95 % interval 0.00 to +0.07 over 40 examples)"
    )


def test_other_examples_cannot_be_paired(tmp_path: Path) -> None:
    make_run(tmp_path, "full", samples=scored(HALF))
    make_run(tmp_path, "lora", samples=scored(ALL)[1:])
    assert difference(tmp_path).outcome == "unknown"
    assert paired_scores(tmp_path) is None


def test_too_few_examples_show_no_difference(tmp_path: Path) -> None:
    make_scored(tmp_path, [0.0] * 3, [1.0] * 3)
    assert difference(tmp_path).outcome == "unknown"


def test_the_loss_is_paired_by_example_too(tmp_path: Path) -> None:
    make_run(tmp_path, "full", samples=scored(ALL, [1.0] * 40))
    make_run(tmp_path, "lora", samples=scored(ALL, [1.5] * 40))
    found = difference(tmp_path, "eval_loss_after")
    assert found.outcome == "worse"
    assert found.value - found.other == pytest.approx(0.09), "of the runs: a mean over tokens"


def test_samples_that_cannot_be_read_are_as_none(tmp_path: Path) -> None:
    make_scored(tmp_path, HALF, ALL)
    samples = next(tmp_path.glob("*-lora")) / "samples.jsonl"
    samples.unlink()
    samples.mkdir()
    assert difference(tmp_path).outcome == "unknown"


def test_overlapping_seeds_show_no_difference_even_if_the_examples_do(tmp_path: Path) -> None:
    for seed, (full, lora) in enumerate(((0.5, 0.9), (0.95, 1.0))):
        for method, score, right in (("full", full, HALF), ("lora", lora, ALL)):
            make_run(
                tmp_path, method, seed=seed, measures={"score_after": score}, samples=scored(right)
            )
    paired = paired_scores(tmp_path)
    assert paired is not None
    assert paired.is_shown
    assert difference(tmp_path).doubt == "no difference shown (their repeats overlap)"


def test_runs_that_are_not_done_say_nothing(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", status="failed")
    assert difference(tmp_path, "adapter_bytes").why == "not measured for both"


def test_a_paired_difference_is_after_minus_before_with_its_ends() -> None:
    found = paired_difference([1.0] * 10, [1.5] * 10)
    assert found == PairedDifference(0.5, 0.5, 0.5, 10)
    ends = {"score_gain": 0.5, "score_gain_low": 0.5, "score_gain_high": 0.5}
    assert found.measures("score_gain") == ends


def test_with_tokens_long_examples_have_more_weight_as_in_the_loss_itself() -> None:
    found = paired_difference([2.0, 2.0, 2.0], [1.0, 2.0, 2.0], tokens=[8, 1, 1])
    assert found is not None
    assert found.mean == pytest.approx(-0.8)
    assert -1.0 <= found.low < found.mean < found.high <= 0.0


@pytest.mark.parametrize(
    ("before", "after"),
    [([1.0], [2.0]), ([1.0, None], [2.0, 2.0]), ([1.0, math.nan], [2.0, 2.0]), ([], [1.0, 2.0])],
)
def test_values_that_cannot_be_paired_give_no_difference(before: list, after: list) -> None:
    assert paired_difference(before, after) is None


@pytest.mark.parametrize(
    ("interval", "falls", "rises"),
    [
        ((-0.1, -0.17, -0.03, 40), True, False),
        ((0.4, 0.2, 0.6, 40), False, True),
        ((-0.05, -0.12, 0.02, 40), False, False),
        ((0.05, -0.02, 0.12, 40), False, False),
        ((0.5, 0.4, 0.6, 9), False, False),
    ],
    ids=["below zero", "above zero", "holds zero from below", "holds zero", "few examples"],
)
def test_a_paired_difference_is_shown_only_if_its_whole_interval_is_on_one_side_of_zero(
    interval: tuple[float, float, float, int], falls: bool, rises: bool
) -> None:
    found = PairedDifference(*interval)
    assert (found.falls, found.rises, found.is_shown) == (falls, rises, falls or rises)
