"""A dictionary that forgets what was written longest ago."""

from __future__ import annotations

from ftlab.basics.recent import Recent


def test_what_was_written_longest_ago_is_dropped() -> None:
    found: Recent[str, int] = Recent(2)
    for key in "abc":
        found[key] = 1
    assert list(found) == ["b", "c"]


def test_what_is_written_anew_stays() -> None:
    found: Recent[str, int] = Recent(2)
    for key in "abac":
        found[key] = 1
    assert list(found) == ["a", "c"]
