"""Formats of numbers and texts, and a dictionary of limited size."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from ftlab.basics import units, words
from ftlab.basics.cards import Sheet, card_of, find_card
from ftlab.basics.devices import Device
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
        (units.format_seconds, 3_599, "59 min 59 s"),
        (units.format_seconds, 3_600, "1 h 00 min"),
        (units.format_seconds, 2 * 3_600 + 5 * 60 + 59, "2 h 05 min"),
        (units.format_bytes, 1_000_000_000, "1.00 GB"),
        (units.format_bytes, 999, "999 B"),
        (units.format_bytes, -46_000, "-46 kB"),
        (units.format_number, 1.239, "1.24"),
        (units.format_number, math.nan, "–"),
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


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (640e6, 702e6, "640–702 MB"),
        (900e6, 1.2e9, "900 MB–1.20 GB"),
        (1.204e9, 1.196e9, "1.20 GB"),
    ],
)
def test_a_range_has_its_unit_once_if_both_ends_have_the_same(
    low: float, high: float, text: str
) -> None:
    assert units.format_range(low, high) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (words.plural(1, "run"), "1 run"),
        (words.plural(0, "run"), "0 runs"),
        (words.plural(1_234, "run"), "1,234 runs"),
        (words.join_names(["a"]), "a"),
        (words.join_names(["a", "b", "c"]), "a, b and c"),
        (words.some_names(["a", "b", "c"], 3), "a, b and c"),
        (words.some_names(["a", "b", "c", "d"], 3), "a, b and 2 more"),
        (words.shorten("abcdef", 6), "abcdef"),
        (words.shorten("abcdefg", 6), "abcde…"),
        (words.rate_name(1e-4), "1e-4"),
        (words.rate_name(3.3e-5), "3.3e-5"),
        (words.rate_name(0.01), "0.01"),
        (words.rate_name(None), "–"),
        (words.did_you_mean("lorra", ["ia3", "lora"]), " Did you mean 'lora'?"),
        (words.did_you_mean("xyz", ["ia3", "lora"]), ""),
    ],
)
def test_names_and_counts_are_said_in_words(found: str, text: str) -> None:
    assert found == text


def test_a_card_has_the_memory_of_its_driver_less_the_context_and_the_rates_of_its_sheet() -> None:
    card = find_card(" RTX-4090 ")
    assert (card.memory_bytes, card.usable_bytes) == (
        24_564 * 1024**2,
        24_564 * 1024**2 - 5 * 10**8,
    )
    assert card.capability == (8, 9)
    assert card.sheet == Sheet(165.2e12, 82.6e12, 1008e9)


def test_a_card_of_this_machine_has_the_sheet_of_the_longest_name_in_its_own() -> None:
    def sheet(label: str) -> Sheet | None:
        return card_of(Device("cuda:0", label, 10**10)).sheet

    assert sheet("NVIDIA L40S") == find_card("l40s").sheet != find_card("l4").sheet
    assert sheet("An unknown card") is None


@pytest.mark.parametrize(("keys", "kept"), [("abc", ["b", "c"]), ("abac", ["a", "c"])])
def test_a_dictionary_of_limited_size_drops_the_entry_written_longest_ago(
    keys: str, kept: list[str]
) -> None:
    found: Recent[str, int] = Recent(2)
    for key in keys:
        found[key] = 1
    assert list(found) == kept
