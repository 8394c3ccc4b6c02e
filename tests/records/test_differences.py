"""Whether the runs of a sweep show a difference: the rule that page, report and card read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

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


def make_pair(folder: Path, key: str, full: Sequence[float], lora: Sequence[float]) -> None:
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


def test_of_what_is_counted_any_difference_is_shown(tmp_path: Path) -> None:
    make_pair(tmp_path, "adapter_bytes", [1003], [1000])
    assert difference(tmp_path, "adapter_bytes").outcome == "better"
    assert difference(tmp_path, "adapter_bytes").ratio == pytest.approx(1000 / 1003)


def test_the_same_count_is_no_difference_and_no_doubt(tmp_path: Path) -> None:
    make_pair(tmp_path, "adapter_bytes", [1000], [1000])
    found = difference(tmp_path, "adapter_bytes")
    assert (found.outcome, found.doubt) == ("even", "")


@pytest.mark.parametrize(
    ("key", "lora", "outcome"),
    [
        ("train_seconds", 90.0, "even"),
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


def test_it_says_why_a_time_is_no_difference(tmp_path: Path) -> None:
    make_pair(tmp_path, "train_seconds", [100.0], [97.0])
    assert difference(tmp_path, "train_seconds").doubt == (
        "no difference shown (1 run each; two runs of one spec differ by up to 35 % "
        "in the recorded sweeps)"
    )


def test_repeats_in_the_sweep_say_what_runs_of_one_spec_differ_by(tmp_path: Path) -> None:
    make_pair(tmp_path, "train_seconds", [99.0, 100.0, 101.0], [89.0, 90.0, 91.0])
    assert difference(tmp_path, "train_seconds").outcome == "better", "0.90x, of steady runs"


def test_repeats_that_scatter_hide_a_difference_though_their_ranges_are_apart(
    tmp_path: Path,
) -> None:
    make_pair(tmp_path, "train_seconds", [100.0, 120.0, 150.0], [70.0, 95.0, 99.0])
    assert difference(tmp_path, "train_seconds").doubt == (
        "no difference shown (3 runs each; means of so many runs of one spec differ by up to 56 % "
        "in this sweep)"
    )


def test_the_repeats_of_all_variants_count_for_one_that_ran_once(tmp_path: Path) -> None:
    for seed in range(3):
        for method in ("qlora", "prompt_tuning"):
            make_run(tmp_path, method, seed=seed, measures={"train_seconds": 50.0 + seed / 10})
    make_pair(tmp_path, "train_seconds", [100.0], [97.0])
    assert difference(tmp_path, "train_seconds").outcome == "better"


def test_too_few_repeats_are_no_measure_of_how_runs_scatter(tmp_path: Path) -> None:
    make_pair(tmp_path, "train_seconds", [100.0, 100.1], [97.0, 97.1])
    assert "23 % in the recorded sweeps" in difference(tmp_path, "train_seconds").why


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


def test_a_handful_of_examples_shows_nothing(tmp_path: Path) -> None:
    make_scored(tmp_path, [0.0] * 3, [1.0] * 3)
    assert difference(tmp_path).outcome == "unknown"
    few = PairedDifference(0.5, 0.4, 0.6, examples=9)
    assert (few.is_shown, few.rises, few.falls) == (False, False, False)


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


@pytest.mark.parametrize(
    ("full", "lora", "outcome"),
    [
        ((0.7, 0.8), (0.5, 0.6), "worse"),
        ((0.5, 0.6), (0.7, 0.8), "better"),
        ((0.1, 0.3), (0.2, 0.4), "even"),
        ((0.1,), (0.3, 0.4), "unknown"),
    ],
)
def test_without_examples_the_ranges_of_the_seeds_decide(
    tmp_path: Path, full: tuple[float, ...], lora: tuple[float, ...], outcome: str
) -> None:
    make_pair(tmp_path, "score_after", full, lora)
    assert difference(tmp_path).outcome == outcome


def test_seeds_that_overlap_are_no_difference_whatever_the_examples_say(tmp_path: Path) -> None:
    for seed, (full, lora) in enumerate(((0.5, 0.9), (0.95, 1.0))):
        for method, score, right in (("full", full, HALF), ("lora", lora, ALL)):
            make_run(
                tmp_path, method, seed=seed, measures={"score_after": score}, samples=scored(right)
            )
    paired = paired_scores(tmp_path)
    assert paired is not None
    assert paired.is_shown
    assert difference(tmp_path).doubt == "no difference shown (their seeds overlap)"


@pytest.mark.parametrize("value", [None, 0, -5])
def test_what_is_not_measured_or_has_no_ratio_is_unknown(tmp_path: Path, value: int | None) -> None:
    make_run(tmp_path, "full", measures={"net_peak_memory_bytes": value})
    make_run(tmp_path, "lora")
    found = difference(tmp_path, "net_peak_memory_bytes")
    assert (found.outcome, math.isnan(found.ratio)) == ("unknown", True)


def test_runs_that_are_not_done_say_nothing(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", status="failed")
    assert difference(tmp_path, "adapter_bytes").why == "not measured for both"


def test_a_paired_difference_is_after_minus_before_with_its_ends() -> None:
    found = paired_difference([1.0] * 10, [1.5] * 10)
    assert found == PairedDifference(0.5, 0.5, 0.5, 10)
    assert found.measures("score_gain") == {
        "score_gain": 0.5,
        "score_gain_low": 0.5,
        "score_gain_high": 0.5,
    }


def test_with_tokens_long_examples_count_for_more_as_in_the_loss_itself() -> None:
    found = paired_difference([2.0, 2.0, 2.0], [1.0, 2.0, 2.0], tokens=[8, 1, 1])
    assert found is not None
    assert found.mean == pytest.approx(-0.8)
    assert -1.0 <= found.low < found.mean < found.high <= 0.0


@pytest.mark.parametrize(
    ("before", "after"),
    [([1.0], [2.0]), ([1.0, None], [2.0, 2.0]), ([1.0, math.nan], [2.0, 2.0]), ([], [1.0, 2.0])],
)
def test_what_cannot_be_paired_is_no_difference(before: list, after: list) -> None:
    assert paired_difference(before, after) is None


def test_a_paired_difference_is_shown_only_where_its_whole_interval_lies_on_one_side() -> None:
    fell, rose = PairedDifference(-0.1, -0.17, -0.03, 40), PairedDifference(0.4, 0.2, 0.6, 40)
    assert (fell.falls, fell.rises, fell.is_shown) == (True, False, True)
    assert (rose.falls, rose.rises, rose.is_shown) == (False, True, True)
    assert not PairedDifference(-0.05, -0.12, 0.02, 40).is_shown
    assert not PairedDifference(0.05, -0.02, 0.12, 40).is_shown
