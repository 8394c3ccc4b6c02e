"""What a seed changes in all variants alike is told apart from what it changes in each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ftlab.basics.files import recorded_folder
from ftlab.records import claims, transfer
from ftlab.records.recommendation import MEASURES, Measure
from ftlab.records.run import run_directories
from ftlab.records.seed_variance import (
    SeedsSeen,
    SeedVariance,
    pooled,
    seed_variance,
    seeds_seen,
)

OTHERWISE = SeedVariance(2.0, 0.25)


def runs(
    drawn: np.random.Generator, variants: int, seeds: int, common: float, own: float
) -> list[np.ndarray]:
    """Scores (seeds, 50 examples) with these variances of a run's mean."""
    alike = drawn.normal(0, math.sqrt(common), (seeds, 1))
    return [
        at + alike + drawn.normal(0, math.sqrt(own), (seeds, 1)) + np.zeros((seeds, 50))
        for at in range(variants)
    ]


def test_both_parts_are_found() -> None:
    drawn = np.random.default_rng(0)
    found = [
        seed_variance(runs(drawn, 6, 3, 2.0, 1.0), [(0, 1, 2)] * 6, OTHERWISE) for _ in range(600)
    ]
    assert np.mean([one.own for one in found]) == pytest.approx(1.0, rel=0.05)
    assert np.mean([one.common for one in found]) == pytest.approx(2.0, rel=0.15)
    assert {one.freedom for one in found} == {10}
    assert all(one.common_freedom <= 3 or one.common == 0 for one in found)  # of three seeds


def test_both_parts_are_found_where_runs_are_missing() -> None:
    drawn = np.random.default_rng(1)
    found = []
    for _ in range(600):
        whole = runs(drawn, 6, 3, 2.0, 1.0)
        some = [whole[0][[0]], whole[1][[0, 2]], *whole[2:]]
        found.append(seed_variance(some, [(0,), (0, 2), *[(0, 1, 2)] * 4], OTHERWISE))
    assert np.mean([one.own for one in found]) == pytest.approx(1.0, rel=0.07)
    assert np.mean([one.common for one in found]) == pytest.approx(2.0, rel=0.15)


def test_with_many_seeds_the_common_part_is_that_of_the_sweep_whatever_others_had() -> None:
    drawn = np.random.default_rng(0)
    seeds = [range(60)] * 3
    found = [seed_variance(runs(drawn, 3, 60, 0.5, 1.0), seeds, OTHERWISE) for _ in range(100)]
    assert np.mean([one.common for one in found]) == pytest.approx(0.5, rel=0.15)


def test_the_order_of_a_variants_runs_does_not_matter() -> None:
    scores = runs(np.random.default_rng(2), 4, 3, 2.0, 1.0)
    turned = [scores[0][[2, 0, 1]], *scores[1:]]
    one = seed_variance(scores, [(0, 1, 2)] * 4, OTHERWISE)
    other = seed_variance(turned, [(2, 0, 1), *[(0, 1, 2)] * 3], OTHERWISE)
    assert (one.common, one.own) == pytest.approx((other.common, other.own))


def test_without_repeats_the_variance_of_others_is_used() -> None:
    scores = runs(np.random.default_rng(0), 12, 1, 1.0, 1.0)
    found = seed_variance(scores, [(0,)] * 12, OTHERWISE)
    assert found == OTHERWISE
    assert found.is_of_others


def test_two_variants_with_three_seeds_cannot_tell_the_parts_apart_and_count_all_as_own() -> None:
    scores = runs(np.random.default_rng(0), 2, 3, 4.0, 0.01)
    found = seed_variance(scores, [(0, 1, 2)] * 2, OTHERWISE)
    assert found.common == 0
    assert found.own == pytest.approx(np.mean([one[:, 0].var(ddof=1) for one in scores]))
    assert found.freedom == 4


def test_chance_in_single_answers_is_not_what_a_seed_changes() -> None:
    drawn = np.random.default_rng(0)
    seen = [
        seeds_seen([drawn.normal(0, 1, (3, 20)) for _ in range(4)], [(0, 1, 2)] * 4)
        for _ in range(300)
    ]
    assert np.mean([one.own for one in seen if one]) == pytest.approx(0, abs=0.005)
    assert np.mean([one.whole for one in seen if one]) == pytest.approx(0, abs=0.005)


def of_recorded(measure: Measure) -> list[SeedsSeen]:
    """What the recorded sweeps say."""
    found = []
    for sweep in sorted(path for path in recorded_folder().iterdir() if path.is_dir()):
        folders: dict[str, dict[int, str]] = {}
        for directory in run_directories(sweep):
            spec = directory.spec()
            if not spec.is_base:
                folders.setdefault(spec.label, {})[spec.seed] = str(directory.path)
        read = [measure.of_runs(list(own.values())) for own in folders.values()]
        scores = [one for one in read if one is not None]
        assert len(scores) == len(folders) > 2
        seen = measure.seeds_seen(scores, [tuple(own) for own in folders.values()])
        assert seen is not None
        found.append(seen)
    return found


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.key)
def test_the_variance_of_others_is_that_of_the_recorded_sweeps_and_studies(
    measure: Measure,
) -> None:
    studies = (transfer.read_transfer(), claims.read_claims())
    shipped = [one for record in studies if record for one in record.seeds_seen[measure.key]]
    assert len(shipped) > 1
    found = pooled([*of_recorded(measure), *shipped])
    assert found.own == pytest.approx(measure.of_seeds.own, rel=0.05)
    assert found.common == pytest.approx(measure.of_seeds.common, rel=0.05, abs=1e-5)
