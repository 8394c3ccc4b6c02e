"""A matrix cut down to a low rank, against what the theorems say."""

import numpy as np
import pytest

from ftlab.learn.matrices import (
    decompose,
    effective_rank,
    kept,
    missed,
    product_values,
    rank_for,
    stored,
)

M, N = 24, 40


@pytest.fixture
def matrix():
    return np.random.default_rng(3).standard_normal((M, N)).astype(np.float32)


def test_at_full_rank_the_product_is_the_matrix(matrix):
    np.testing.assert_allclose(decompose(matrix).product(M), matrix, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 5, 23])
def test_the_error_is_the_root_of_the_squared_singular_values_left_out(matrix, rank):
    cut = decompose(matrix)
    found = np.linalg.norm(matrix - cut.product(rank))
    assert found == pytest.approx(np.sqrt((cut.values[rank:] ** 2).sum()), rel=1e-5)
    assert missed(cut.values, rank) == pytest.approx(found / np.linalg.norm(matrix), rel=1e-5)


def test_no_other_matrix_of_that_rank_comes_closer(matrix):
    rng = np.random.default_rng(4)
    cut = decompose(matrix)
    best = np.linalg.norm(matrix - cut.product(3))
    b, a = cut.factors(3)
    for _ in range(20):
        near = (b + 0.05 * rng.standard_normal(b.shape)) @ (a + 0.05 * rng.standard_normal(a.shape))
        assert np.linalg.norm(matrix - near) > best


def test_energy_kept_and_error_missed_belong_together(matrix):
    values = decompose(matrix).values
    for rank in (1, 7, M):
        assert kept(values, rank) + missed(values, rank) ** 2 == pytest.approx(1)


def test_b_and_a_are_as_wide_as_the_rank_and_equally_large(matrix):
    b, a = decompose(matrix).factors(4)
    assert b.shape == (M, 4)
    assert a.shape == (4, N)
    np.testing.assert_allclose(np.linalg.norm(b, axis=0), np.linalg.norm(a, axis=1), rtol=1e-5)
    assert b.size + a.size == stored((M, N), 4) == 4 * (M + N)


def test_only_the_terms_asked_for_are_kept_but_all_singular_values(matrix):
    cut = decompose(matrix, top=6)
    assert cut.top == 6
    assert len(cut.values) == M
    np.testing.assert_allclose(cut.product(6), decompose(matrix).product(6), atol=1e-5)


def test_no_change_at_all_is_held_whole_and_misses_nothing():
    cut = decompose(np.zeros((3, 5), np.float32))
    assert kept(cut.values, 1) == 1
    assert missed(cut.values, 1) == 0
    assert rank_for(cut.values, 0.9) == 0
    assert effective_rank(cut.values) == 0


def test_the_rank_for_a_share_is_the_smallest_that_holds_it():
    values = np.array([3.0, 2.0, 1.0])  # energies 9, 4, 1 of 14
    assert [rank_for(values, share) for share in (0.5, 9 / 14, 0.65, 0.95, 1.0)] == [1, 1, 2, 3, 3]


def test_the_effective_rank_counts_equal_directions_and_hardly_those_that_are_small():
    assert effective_rank(np.ones(5)) == pytest.approx(5)
    assert effective_rank(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert 1 < effective_rank(np.array([1.0, 0.01])) < 1.1


@pytest.mark.parametrize("rank", [1, 4, 30])
def test_the_singular_values_of_a_product_come_from_its_small_core(rank):
    rng = np.random.default_rng(5)
    b = rng.standard_normal((M, rank)).astype(np.float32)
    a = rng.standard_normal((rank, N)).astype(np.float32)
    found = product_values(b, a)
    expected = np.linalg.svd(b.astype(np.float64) @ a.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(expected[len(found) :], 0, atol=1e-9)
