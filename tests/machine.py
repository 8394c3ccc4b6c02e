"""What the machine of a test run lacks: disk, or cores that nothing else uses."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

NEEDED_BYTES = 3_000_000_000
"""What all tests leave in the temporary folder until they end, and an environment of the wheel."""
BUSY = 2.0
"""Waiting threads a core: two test processes with the runs that they start make about one."""


def too_little_disk(free: int) -> str:
    """The sentence that says so; "" if that many bytes are enough."""
    if free >= NEEDED_BYTES:
        return ""
    return (
        f"{free / 1e9:.1f} GB are free in {tempfile.gettempdir()}, and the tests write up to "
        f"{NEEDED_BYTES / 1e9:.0f} GB there: free some, or name another folder with TMPDIR=FOLDER."
    )


def too_busy(load: float, cores: int) -> str:
    """The sentence that says so; "" if others leave the cores to the tests."""
    if load < BUSY * cores:
        return ""
    return (
        f"{load:.0f} threads ran or waited on {cores} cores: other processes are at work. Stop "
        "them, and run what failed again: python -m pytest --last-failed"
    )


def check_disk() -> None:
    """Ends the session before its first test where the disk is too small."""
    if why := too_little_disk(shutil.disk_usage(tempfile.gettempdir()).free):
        pytest.exit(why, returncode=pytest.ExitCode.USAGE_ERROR)


def say_if_busy(reporter: pytest.TerminalReporter) -> None:
    """Under failures, what may have been their cause."""
    why = too_busy(os.getloadavg()[0], os.cpu_count() or 1)
    if why and reporter.stats.get("failed"):
        reporter.write_line(why)
