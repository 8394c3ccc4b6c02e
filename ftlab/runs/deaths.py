"""What became of a worker that ended without a word: killed, crashed, or out of memory."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError
from ftlab.prediction.remedies import remedies
from ftlab.runs.directory import RunDirectory
from ftlab.runs.result import Measures, RunResult
from ftlab.system import PROC, read_proc
from ftlab.units import format_bytes

_LAST_WORDS = 200  # characters


def oom_kills(proc: Path = PROC, groups: Path = Path("/sys/fs/cgroup")) -> int:
    """How many processes the kernel has ended for want of memory where this one runs.

    In its control group, of either version, which its workers share: what goes on elsewhere on the
    machine is not theirs. Where that cannot be read, on the whole machine.
    """
    for file in [*_group_files(proc, groups), proc / "vmstat"]:
        try:
            words = [line.split() for line in file.read_text().splitlines()]
            return next(int(value) for name, value in words if name == "oom_kill")
        except (OSError, ValueError, StopIteration):
            continue
    return 0


def _group_files(proc: Path, groups: Path) -> list[Path]:
    """Where the kernel counts for this process's group; in a container its root is the group."""
    files = []
    for line in (read_proc("self/cgroup", proc) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        own = path.lstrip("/")
        if controllers == "":  # version 2 (cgroups(7))
            files += [groups / own / "memory.events", groups / "memory.events"]
        elif "memory" in controllers.split(","):
            root = groups / "memory"
            files += [root / own / "memory.oom_control", root / "memory.oom_control"]
    return files


@dataclass(frozen=True)
class LastSeen:
    """Where a run was when its metrics end: the phase ("" before the first), the step, and the
    highest memory of a step, in bytes; `None` where none is known."""

    phase: str = ""
    step: int = 0
    bytes: int | None = None


def last_seen(directory: RunDirectory) -> LastSeen:
    events = directory.metrics()
    phases = [str(event["phase"]) for event in events if event.get("event") == "phase"]
    steps = [event for event in events if event.get("event") == "step"]
    sizes = [size for event in steps if (size := _size(event)) is not None]
    step = steps[-1].get("step") if steps else 0
    return LastSeen(
        phases[-1] if phases else "",
        step if isinstance(step, int) else 0,
        max(sizes, default=None),
    )


def _size(event: dict[str, Any]) -> int | None:
    value = event.get("peak_bytes") or event.get("memory_bytes")
    return value if isinstance(value, int) else None


def result_of_death(code: int, directory: RunDirectory, out_of_memory: bool) -> RunResult:
    """The result of a worker that left none: `code` is what its process ended with."""
    tail = directory.log_tail(2000).strip().splitlines()
    last = f" Its last line: {tail[-1][:_LAST_WORDS]}" if tail else ""
    if code == -signal.SIGKILL and out_of_memory:
        return _out_of_memory(directory)
    if code < 0:
        reason = f"The worker was killed from outside ({_name(-code)}).{last}"
    else:
        reason = f"The worker ended with status {code} and no result.{last}"
    return RunResult("failed", reason, finished_at=time.time())


def _out_of_memory(directory: RunDirectory) -> RunResult:
    seen = last_seen(directory)
    where = f" in the {seen.phase} phase" if seen.phase else ""
    where += f" after step {seen.step}" if seen.step and seen.phase == "train" else ""
    size = f"; its highest size seen was {format_bytes(seen.bytes)}" if seen.bytes else ""
    try:
        advice = remedies(directory.spec(), seen.phase)
    except FtlabError:
        advice = "Try a smaller batch, or a method that needs less."
    return RunResult(
        "out_of_memory",
        f"Out of memory{where}: the kernel ended the worker because the machine, or its container, "
        f"had none left{size}. {advice}",
        measures=Measures(steps_done=seen.step or None, peak_memory_bytes=seen.bytes),
        finished_at=time.time(),
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal has no name of its own
