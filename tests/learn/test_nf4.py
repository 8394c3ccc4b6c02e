"""NF4 in numpy against bitsandbytes, bit by bit."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

from ftlab.learn.nf4 import (
    EVEN,
    NF4,
    bits_per_weight,
    error_of,
    levels_used,
    normal_error,
    quantise,
)
from tests.learn.adapters import some


def test_the_levels_are_those_of_bitsandbytes():
    assert get_4bit_type("nf4", device="cpu").numpy().tolist() == NF4.tolist()


def test_the_levels_are_quantiles_of_the_normal_distribution():
    offset, quantile = 0.9677083, NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(offset, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(offset, 0.5, 8)[:-1]]
    levels = np.array(sorted([*below, 0, *above]))
    np.testing.assert_allclose(NF4, levels / levels.max(), atol=2e-7)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_codes_absmax_and_values_are_those_of_bitsandbytes(scale):
    weights = np.concatenate([some(8, 192) * np.float32(scale), np.zeros((1, 192), np.float32)])
    found = quantise(weights)
    packed, state = quantize_4bit(torch.from_numpy(weights), blocksize=64, quant_type="nf4")
    codes = found.codes.reshape(-1)
    assert packed.reshape(-1).tolist() == ((codes[::2] << 4) | codes[1::2]).tolist()
    assert state.absmax.tolist() == found.absmax.tolist()
    assert dequantize_4bit(packed, state).numpy().tolist() == found.restored.tolist()


def test_a_weight_between_two_levels_goes_to_the_nearer_one():
    middle = (NF4[9] + NF4[10]) / 2
    weights = np.array([1, middle - 1e-4, middle + 1e-4, -1, 0], np.float32)
    assert quantise(weights).codes.tolist() == [15, 9, 10, 0, 7]
    for weight, restored in zip(weights, quantise(weights).restored, strict=True):
        assert abs(restored - weight) == pytest.approx(np.abs(NF4 - weight).min(), abs=1e-6)


def test_even_levels_round_to_sevenths_of_absmax():
    weights = np.array([2.0, -2.0, 0.9, 0.1], np.float32)
    expected = np.round(weights / 2 * 7) / 7 * 2
    np.testing.assert_allclose(quantise(weights, EVEN).restored, expected, rtol=1e-6)


def test_every_block_has_its_own_scale_and_the_last_may_be_short():
    weights = np.concatenate([np.full(64, 3.0), np.full(10, -0.5)]).astype(np.float32)
    found = quantise(weights)
    assert found.absmax.tolist() == [3.0, 0.5]
    assert found.restored.tolist() == weights.tolist()


def test_nf4_errs_less_than_even_levels_on_normal_numbers():
    assert normal_error(NF4) == pytest.approx(0.092, abs=0.002)
    assert normal_error(EVEN) == pytest.approx(0.108, abs=0.002)


def test_errors_are_of_the_difference():
    found = error_of(np.array([3.0, -4.0], np.float32), np.array([3.0, -3.0], np.float32))
    assert (found.largest, found.rms) == (1.0, pytest.approx(math.sqrt(0.5)))
    assert found.relative == pytest.approx(1 / 5)
    zeros = np.zeros(3, np.float32)
    assert math.isnan(error_of(zeros, zeros).relative)


def test_bits_a_weight_are_those_of_the_paper():
    assert bits_per_weight() == 4.5
    assert bits_per_weight(double=True) == pytest.approx(4.127, abs=1e-3)
    assert bits_per_weight(block=128) == 4.25


def test_every_use_of_a_level_is_counted():
    assert levels_used(np.array([[0, 15], [15, 7]], np.uint8)).tolist() == [
        1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2,
    ]  # fmt: skip
