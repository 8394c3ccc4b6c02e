"""Formats of numbers and texts, and a dictionary of limited size."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ftlab.basics import units
from ftlab.basics.recent import Recent


@pytest.mark.parametrize(
    ("formatted", "value", "text"),
    [
        (units.format_share, 1.0, "100 %"),
        (units.format_share, 0.0182, "1.82 %"),
        (units.format_share, 0.123, "12.3 %"),
        (units.format_share, 0.00009, "0.009 %"),
        (units.format_share, 0.000001, "under 0.001 %"),
        (units.format_share, 0.0, "0.000 %"),
        (units.format_share, None, "–"),
        (units.format_share, math.nan, "–"),
        (units.format_count, 134_515_008, "134.5 M"),
        (units.format_count, 11_520, "11.5 k"),
        (units.format_count, 3_212_749_824, "3.2 G"),
        (units.format_count, 7, "7"),
        (units.format_bytes, 269_030_000, "269 MB"),
        (units.format_bytes, 9_824_405, "9.8 MB"),
        (units.format_bytes, 46_000, "46 kB"),
        (units.format_bytes, 2_110_000_000, "2.11 GB"),
        (units.format_seconds, 4.31, "4.3 s"),
        (units.format_seconds, 72.4, "1 min 12 s"),
        (units.format_seconds, 59.4, "59 s"),
        (units.format_signed, 0.1, "+0.10"),
        (units.format_signed, -0.25, "-0.25"),
        (units.format_signed, -0.001, "0.00"),
        (units.format_signed, 0, "0.00"),
        (units.format_signed, None, "–"),
    ],
)
def test_a_number_is_short_and_has_its_unit(
    formatted: Callable[[float | None], str], value: float | None, text: str
) -> None:
    assert formatted(value) == text


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
def test_a_part_is_in_the_unit_of_the_whole(done: float, total: float, text: str) -> None:
    assert units.format_part(done, total) == text


@pytest.mark.parametrize(("keys", "kept"), [("abc", ["b", "c"]), ("abac", ["a", "c"])])
def test_a_dictionary_of_limited_size_drops_the_entry_written_longest_ago(
    keys: str, kept: list[str]
) -> None:
    found: Recent[str, int] = Recent(2)
    for key in keys:
        found[key] = 1
    assert list(found) == kept
