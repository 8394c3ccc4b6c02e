"""What became of a worker that ended without a result: killed, crashed, or out of memory."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.system import PROC, read_proc
from ftlab.basics.units import format_bytes
from ftlab.jobs.ready import ForkedWorker
from ftlab.prediction.remedies import remedies
from ftlab.records.result import FinalStatus, Measures, RunResult
from ftlab.records.run import RunDirectory

_LAST_LINE_CHARACTERS = 200  # characters


def oom_kills(proc: Path = PROC, groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns how many processes the kernel's OOM killer has ended in this control group.

    The workers share the control group (cgroup v1 or v2), so kills elsewhere on the machine are not
    counted. If the group's counter cannot be read, returns the count of the whole machine.
    """
    for file in [*_group_files(proc, groups), proc / "vmstat"]:
        try:
            words = [line.split() for line in file.read_text().splitlines()]
            return next(int(value) for name, value in words if name == "oom_kill")
        except (OSError, ValueError, StopIteration):
            continue
    return 0


def _group_files(proc: Path, groups: Path) -> list[Path]:
    """The cgroup files with the OOM kill counter; in a container, the cgroup root is the group."""
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
    """The last phase ("" before the first) and step in a run's metrics, and the peak memory."""

    phase: str = ""
    step: int = 0
    bytes: int | None = None  # of the step that used most


def last_seen(directory: RunDirectory) -> LastSeen:
    events = directory.metrics()
    phases = [str(event["phase"]) for event in events if event.get("event") == "phase"]
    steps = [event for event in events if event.get("event") == "step"]
    sizes = [event.get("peak_bytes") or event.get("memory_bytes") for event in steps]
    step = steps[-1].get("step") if steps else 0
    return LastSeen(
        phases[-1] if phases else "",
        step if isinstance(step, int) else 0,
        max((size for size in sizes if isinstance(size, int)), default=None),
    )


def result_of_lost_worker(
    code: int,
    directory: RunDirectory,
    out_of_memory: bool,
    log: str = "",
    ended_by: str = "the kernel",
) -> RunResult:
    """Returns the result of a worker that wrote none; `code` is its exit code, and `log` what its
    launcher has of its output, where the run's own log is empty. If its machine was out of memory,
    it was `ended_by`."""
    tail = (directory.log_tail(2000).strip() or log.strip()).splitlines()
    last = f" Its last line: {tail[-1][:_LAST_LINE_CHARACTERS]}" if tail else ""
    lost = code == ForkedWorker.LOST
    if (lost or code == -signal.SIGKILL) and out_of_memory:
        return _out_of_memory(directory, ended_by)
    if lost:
        reason = f"The worker ended with no result, after the process that had forked it.{last}"
    elif code < 0:
        reason = f"The worker was killed from outside ({_name(-code)}).{last}"
    else:
        reason = f"The worker ended with status {code} and no result.{last}"
    return ended("failed", reason)


def _out_of_memory(directory: RunDirectory, ended_by: str) -> RunResult:
    seen = last_seen(directory)
    where = f" in the {seen.phase} phase" if seen.phase else ""
    where += f" after step {seen.step}" if seen.step and seen.phase == "train" else ""
    size = f"; its highest size seen was {format_bytes(seen.bytes)}" if seen.bytes else ""
    try:
        advice = remedies(directory.spec(), seen.phase)
    except FtlabError:
        advice = "Try a smaller batch, or a method that needs less."
    return ended(
        "out_of_memory",
        f"Out of memory{where}: {ended_by} ended the worker because its machine, or its container, "
        f"had none left{size}. {advice}",
        measures=Measures(steps_done=seen.step or None, peak_memory_bytes=seen.bytes),
    )


def ended(status: FinalStatus, reason: str, **more: Any) -> RunResult:
    return RunResult(status, reason, finished_at=time.time(), **more)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal has no name
