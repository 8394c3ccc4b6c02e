"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from ftlab.basics import units


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "100 %"),
        (0.0182, "1.82 %"),
        (0.123, "12.3 %"),
        (0.00009, "0.009 %"),
        (0.000001, "under 0.001 %"),
        (0.0, "0.000 %"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_a_share_is_given_in_per_cent_and_never_reads_as_nothing(value, text):
    assert units.format_share(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(134_515_008, "134.5 M"), (11_520, "11.5 k"), (3_212_749_824, "3.2 G"), (7, "7")],
)
def test_a_count_is_short(value, text):
    assert units.format_count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(269_030_000, "269 MB"), (9_824_405, "9.8 MB"), (46_000, "46 kB"), (2_110_000_000, "2.11 GB")],
)
def test_bytes_are_counted_in_powers_of_ten(value, text):
    assert units.format_bytes(value) == text


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (1_234_000_000, 3_090_000_000, "1.2 of 3.1 GB"),
        (0, 16_060_000_000, "0.0 of 16.1 GB"),
        (12_340_000, 269_030_000, "12 of 269 MB"),
        (340_000, 3_400_000, "0.3 of 3.4 MB"),
        (46_000, 46_000, "46 of 46 kB"),
        (7, 90, "7 of 90 B"),
    ],
)
def test_a_part_is_in_the_unit_of_the_whole(done, total, text):
    assert units.format_part(done, total) == text


@pytest.mark.parametrize(("value", "text"), [(4.31, "4.3 s"), (72.4, "1 min 12 s"), (59.4, "59 s")])
def test_times_are_in_the_unit_that_fits(value, text):
    assert units.format_seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "+0.10"), (-0.25, "-0.25"), (-0.001, "0.00"), (0, "0.00"), (None, "–")],
)
def test_a_difference_has_its_sign_unless_it_reads_as_nothing(value, text):
    assert units.format_signed(value) == text
