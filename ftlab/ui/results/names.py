"""Short names for people of what is long in a record."""

from __future__ import annotations

import re
import time

_SWEEP = re.compile(r"(\d{8}-\d{6})-([0-9a-z]+)")


def sweep_name(sweep_id: str) -> str:
    """20261125-120304-ab12 -> "25 Nov 12:03 ab12"; any other id as it is."""
    match = _SWEEP.fullmatch(sweep_id)
    if match is None:
        return sweep_id
    try:
        made = time.strptime(match[1], "%Y%m%d-%H%M%S")
    except ValueError:
        return sweep_id
    return f"{made.tm_mday} {time.strftime('%b %H:%M', made)} {match[2]}"


def sweep_label(sweep_id: str, task: str, *more: str) -> str:
    """A sweep in a list, as in "25 Nov 12:03 ab12, SQL, 4 runs"."""
    return ", ".join([sweep_name(sweep_id), task, *more])


def run_name(run_id: str) -> str:
    """20261125-120304-ab12-03-lora -> "ab12-03"; any other id as it is."""
    match = re.fullmatch(_SWEEP.pattern + r"-(\d+)-.*", run_id)
    return f"{match[2]}-{match[3]}" if match else run_id
