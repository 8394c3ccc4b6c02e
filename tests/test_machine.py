"""A machine that lacks something says so, and what to do."""

from __future__ import annotations

from tests.machine import too_busy, too_little_disk


def test_a_full_disk_is_named_with_what_is_needed_and_the_way_out() -> None:
    assert "0.2 GB are free" in too_little_disk(200_000_000)
    assert "TMPDIR=" in too_little_disk(200_000_000)
    assert too_little_disk(50_000_000_000) == ""


def test_a_busy_machine_is_named_only_where_others_take_the_cores() -> None:
    assert "9 threads ran or waited on 2 cores" in too_busy(9.2, 2)
    assert too_busy(2.5, 2) == ""
