"""Whether the runs show a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.report.card.difference import is_even, quality_difference, ranges_overlap
from tests.fakes import make_run
from tests.report.fakes import data_of, scored

FULL, LORA = "Full fine-tuning", "LoRA"
RIGHT_HALF, RIGHT_ALL = [1.0, 0.0] * 20, [1.0] * 40


def make_pair(
    folder: Path, full: list[float], lora: list[float], seeds: tuple[int, ...] = (0,)
) -> None:
    for seed in seeds:
        for method, scores in (("full", full), ("lora", lora)):
            measures = {"score_after": sum(scores) / len(scores)}
            make_run(folder, method, seed=seed, measures=measures, samples=scored(scores))


def test_a_gain_on_every_other_example_is_shown(tmp_path: Path) -> None:
    make_pair(tmp_path, RIGHT_HALF, RIGHT_ALL)
    found = quality_difference(data_of(tmp_path), "score_after", LORA, FULL)
    assert found.shown is True
    assert found.gain == pytest.approx(0.5)
    assert found.interval is not None
    assert 0.3 < found.interval.low < 0.5 < found.interval.high < 0.7
    assert found.interval.examples == 40


def test_one_example_more_of_forty_is_no_difference(tmp_path: Path) -> None:
    make_pair(tmp_path, RIGHT_HALF, [1.0, 1.0, *RIGHT_HALF[2:]])
    assert quality_difference(data_of(tmp_path), "score_after", LORA, FULL).shown is False


def test_other_examples_cannot_be_paired(tmp_path: Path) -> None:
    make_run(tmp_path, "full", samples=scored(RIGHT_HALF))
    make_run(tmp_path, "lora", samples=scored(RIGHT_ALL)[1:])
    found = quality_difference(data_of(tmp_path), "score_after", LORA, FULL)
    assert (found.shown, found.interval) == (None, None)


def test_a_handful_of_examples_shows_nothing(tmp_path: Path) -> None:
    make_pair(tmp_path, [0.0] * 3, [1.0] * 3)
    assert quality_difference(data_of(tmp_path), "score_after", LORA, FULL).shown is None


def test_without_examples_the_ranges_of_the_seeds_decide(tmp_path: Path) -> None:
    for seed, (full, lora) in enumerate(((0.7, 0.5), (0.8, 0.6))):
        make_run(tmp_path, "full", seed=seed, measures={"score_after": full}, samples=[])
        make_run(tmp_path, "lora", seed=seed, measures={"score_after": lora}, samples=[])
    data = data_of(tmp_path)
    assert quality_difference(data, "score_after", LORA, FULL).shown is True
    assert quality_difference(data, "eval_loss_after", LORA, FULL).shown is True


def test_seeds_that_overlap_are_no_difference_whatever_the_examples_say(tmp_path: Path) -> None:
    for seed, (full, lora) in enumerate(((0.5, 0.9), (0.95, 1.0))):
        for method, score, right in (("full", full, RIGHT_HALF), ("lora", lora, RIGHT_ALL)):
            make_run(
                tmp_path, method, seed=seed, measures={"score_after": score}, samples=scored(right)
            )
    found = quality_difference(data_of(tmp_path), "score_after", LORA, FULL)
    assert found.interval is not None
    assert found.interval.separates
    assert found.shown is False


def test_the_loss_is_paired_by_example_too(tmp_path: Path) -> None:
    make_run(tmp_path, "full", samples=scored(RIGHT_ALL, [1.0] * 40))
    make_run(tmp_path, "lora", samples=scored(RIGHT_ALL, [1.5] * 40))
    found = quality_difference(data_of(tmp_path), "eval_loss_after", LORA, FULL)
    assert found.shown is True
    assert found.gain == pytest.approx(0.09)  # that of the runs: over tokens, not examples


def test_samples_that_cannot_be_read_are_as_none(tmp_path: Path) -> None:
    make_pair(tmp_path, RIGHT_HALF, RIGHT_ALL)
    samples = next(tmp_path.glob("*-lora")) / "samples.jsonl"
    samples.unlink()
    samples.mkdir()
    assert quality_difference(data_of(tmp_path), "score_after", LORA, FULL).shown is None


def test_a_cost_is_even_within_two_decimals_or_the_range_of_the_seeds(tmp_path: Path) -> None:
    for seed, (full, lora) in enumerate(((100.0, 99.0), (90.0, 80.0))):
        make_run(
            tmp_path, "full", seed=seed, measures={"train_seconds": full, "adapter_bytes": 1000}
        )
        make_run(
            tmp_path, "lora", seed=seed, measures={"train_seconds": lora, "adapter_bytes": 1003}
        )
    table = data_of(tmp_path).table
    assert is_even(table, "train_seconds", LORA, FULL)
    assert is_even(table, "adapter_bytes", LORA, FULL)
    assert not is_even(table, "net_peak_memory_bytes", LORA, FULL)


def test_ranges_of_single_values_say_nothing() -> None:
    assert ranges_overlap([1.0], [2.0, 3.0]) is None
    assert ranges_overlap([1.0, 2.0], [2.0, 3.0]) is True
    assert ranges_overlap([1.0, 2.0], [2.1, 3.0]) is False
