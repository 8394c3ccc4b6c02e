"""The dispatcher: starts queued runs, one at a time per device, each in a new process.

A run that may use several like devices gets one that is free.

It also classifies workers that exited without a result: killed, crashed, or out of memory.

Run as: python -m ftlab.jobs.dispatcher RUNS_FOLDER

It is small, does not import torch, is independent of the app, and exits when the queue is empty.
Whoever queues a run starts one; a file lock allows one per runs folder, and a second exits at once.
`ftlab.jobs.ready_parent` may fork it, which saves its imports.
"""

from __future__ import annotations

import errno
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from ftlab.basics.devices import Device, list_devices, memory_in_use
from ftlab.basics.errors import FtlabError
from ftlab.basics.leases import LEFT, Lease, LeaseLost, forget
from ftlab.basics.locks import FileLock, is_unused
from ftlab.basics.processes import (
    Started,
    end_process_group,
    is_alive,
    start_detached,
    worker_environment,
)
from ftlab.basics.system import PROC, read_proc
from ftlab.basics.units import format_bytes
from ftlab.jobs import ready
from ftlab.jobs.control import (
    control_folder,
    dispatcher_lock,
    is_for_another,
    requested_cancels,
    settle_cancel,
)
from ftlab.prediction.remedies import remedies
from ftlab.records.base_runs import complete
from ftlab.records.expected import read_expected
from ftlab.records.job import CANCELLED, bound_log
from ftlab.records.removal import clear_removed
from ftlab.records.result import FinalStatus, Measures, RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, needs_hub
from ftlab.records.store import Run, RunStore

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


def result_of_lost_worker(code: int, directory: RunDirectory, out_of_memory: bool) -> RunResult:
    """Returns the result of a worker that wrote none; `code` is its exit code."""
    tail = directory.log_tail(2000).strip().splitlines()
    last = f" Its last line: {tail[-1][:_LAST_LINE_CHARACTERS]}" if tail else ""
    lost = code == ready.ForkedWorker.LOST
    if (lost or code == -signal.SIGKILL) and out_of_memory:
        return _out_of_memory(directory)
    if lost:
        reason = f"The worker ended with no result, after the process that had forked it.{last}"
    elif code < 0:
        reason = f"The worker was killed from outside ({_name(-code)}).{last}"
    else:
        reason = f"The worker ended with status {code} and no result.{last}"
    return _ended("failed", reason)


def _out_of_memory(directory: RunDirectory) -> RunResult:
    seen = last_seen(directory)
    where = f" in the {seen.phase} phase" if seen.phase else ""
    where += f" after step {seen.step}" if seen.step and seen.phase == "train" else ""
    size = f"; its highest size seen was {format_bytes(seen.bytes)}" if seen.bytes else ""
    try:
        advice = remedies(directory.spec(), seen.phase)
    except FtlabError:
        advice = "Try a smaller batch, or a method that needs less."
    return _ended(
        "out_of_memory",
        f"Out of memory{where}: the kernel ended the worker because the machine, or its container, "
        f"had none left{size}. {advice}",
        measures=Measures(steps_done=seen.step or None, peak_memory_bytes=seen.bytes),
    )


def _ended(status: FinalStatus, reason: str, **more: Any) -> RunResult:
    return RunResult(status, reason, finished_at=time.time(), **more)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal has no name


def in_starting_order(
    runs: Sequence[Run], seconds: Callable[[Run], float] = lambda run: 0.0
) -> list[Run]:
    """Returns the open runs in the order in which they start: that of their ids, except that the
    first trained run of a sweep comes before the base runs, so that its loss is seen early.

    Where a sweep has several devices, its longest runs are next, so that all devices end at about
    one time; `seconds` is what is expected of a run.
    """
    begun = {
        run.spec.sweep_id for run in runs if not run.spec.is_base and run.status in _HAS_TRAINED
    }
    first: dict[str, Run] = {}
    for run in runs:
        if run.status == "queued" and not run.spec.is_base and run.spec.sweep_id not in begun:
            first.setdefault(run.spec.sweep_id, run)
    ordered: dict[str, Run] = {}
    for run in runs:
        if run.is_open:
            ahead = first.get(run.spec.sweep_id, run)
            ordered |= {ahead.run_id: ahead, run.run_id: run}
    early = {run.run_id for run in first.values()}
    return _longest_first(list(ordered.values()), early, seconds)


def _longest_first(
    runs: Sequence[Run], early: Collection[str], seconds: Callable[[Run], float]
) -> list[Run]:
    """Sorts the queued runs of each sweep that has several devices; base runs and `early` ones keep
    their places."""
    places: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        moves = run.status == "queued" and not run.spec.is_base and run.run_id not in early
        if moves and run.spec.devices:
            places.setdefault(run.spec.sweep_id, []).append(place)
    found = list(runs)
    for own in places.values():
        longest = sorted((runs[place] for place in own), key=seconds, reverse=True)
        for place, run in zip(own, longest, strict=True):
            found[place] = run
    return found


_HAS_TRAINED = frozenset({"running", *get_args(FinalStatus)}) - {"not_applicable"}
POLL_SECONDS = 0.4
_SECONDS_BETWEEN_LOOKS = 0.05  # at the workers: cheaper than a step, which reads the queue
FIRST_WORD_SECONDS = 300.0  # a worker writes its first line before its large imports
START_SECONDS = 60.0  # how long a start is retried while the system is out of resources
_FOR_NOW = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)

StartRun = Callable[[RunDirectory, str], Started]


def start_worker(directory: RunDirectory, device: str) -> Started:
    """Starts the worker of a run; another engine could be plugged in here.

    A run that needs the Hub's token is not forked: the parent has none. Raises `OSError`, and
    `StillImporting` while a parent imports: try again soon.
    """
    hub = needs_hub(directory.spec())
    return (None if hub else ready.fork_worker(directory, device)) or start_detached(
        "ftlab.jobs.run_worker",
        directory.log_file,
        worker_environment(hub),
        str(directory.path),
    )


@dataclass
class Child:
    """A worker that this dispatcher started."""

    process: Started
    directory: RunDirectory
    devices: tuple[str, ...]
    oom_kills_before: int
    since: float = field(default_factory=time.monotonic)
    began: float = field(default_factory=time.time)

    @property
    def is_to_go_on(self) -> bool:
        """Whether its result was put aside already, for the run to go on or begin anew."""
        try:
            written = self.directory.earlier_result_file.stat().st_mtime
        except OSError:
            return False
        return self.directory.is_waiting and written >= self.began


class Dispatcher:
    """Processes the queue of one runs folder; `step` is one polling step."""

    def __init__(
        self,
        folder: Path,
        start: StartRun = start_worker,
        count_oom_kills: Callable[[], int] = oom_kills,
        devices: Callable[[], Sequence[Device]] = list_devices,
    ) -> None:
        self._store = RunStore(folder)
        self._folder = folder
        self._start = start
        self._oom_kills = count_oom_kills
        self._devices = devices
        self._expected: dict[str, float] = {}
        self._lacks_expected = False
        self._ordered: tuple[list[Run], list[Run]] = ([], [])  # as read, and those that are open
        self._children: dict[str, Child] = {}
        self._refused_since: dict[str, float] = {}
        self._given_up: set[str] = set()

    def work(self) -> None:
        """Runs until the queue is empty. Returns soon if another dispatcher is running, here or on
        another machine that shares the folder.

        The queue is checked once more after the lock is released: a run may have been queued just
        before, when the dispatcher started for it still found the lock taken.
        """
        lock = dispatcher_lock(self._folder)
        while lock.try_acquire():
            lease = Lease(control_folder(self._folder))
            if not lease.acquire():
                lock.release()
                return
            clear_removed(self._folder)
            try:
                while self.step():
                    self._wait()
                    lease.renew()
            except LeaseLost as lost:
                print(f"ftlab: {lost}", flush=True)  # its workers go on: each has its own lease
                lock.release()
                return
            lease.release()
            lock.release()
            if not self.step_needed():
                return

    def _wait(self) -> None:
        """Waits until the next step, or until a worker ends: the next run starts at once."""
        until = time.monotonic() + POLL_SECONDS
        while time.monotonic() < until:
            if any(child.process.poll() is not None for child in self._children.values()):
                return
            time.sleep(min(POLL_SECONDS, _SECONDS_BETWEEN_LOOKS))

    def step_needed(self) -> bool:
        there = self._there()
        return any(not _is_for_another(run, there) for run in self._waiting())

    def _waiting(self) -> list[Run]:
        """The open runs, except those whose result could not be written: these are tried once."""
        runs = self._store.runs()
        if runs != self._ordered[0] or self._lacks_expected:
            self._lacks_expected = False
            self._ordered = runs, in_starting_order(runs, self._expected_seconds)
        open_runs = self._ordered[1]
        if self._given_up:
            open_runs = [run for run in open_runs if run.run_id not in self._given_up]
        return open_runs

    def step(self) -> bool:
        """Ends cancelled runs, records dead workers, starts runs; returns whether any is left."""
        self._reap()
        cancels = requested_cancels(self._folder)  # read first, so it names no newer run
        open_runs = self._waiting()
        for run in open_runs:
            if run.run_id in cancels:
                self._cancel(run)
        for run_id in cancels:
            settle_cancel(self._folder, run_id)
        there = self._there()
        open_runs = [
            run
            for run in open_runs
            if not _is_for_another(run, there) and (not cancels or run.run_id not in cancels)
        ]
        busy = {device for child in self._children.values() for device in child.devices}
        running = [run for run in open_runs if run.status == "running"]
        for run in running:
            busy |= set() if run.directory.elsewhere else set(run.spec.held)
        free: dict[str, bool] = {}
        for run in open_runs:
            if run.status == "running":
                bound_log(run.directory.log_file)
            if run.status != "queued" or run.run_id in self._children:
                continue  # a worker that was started has not said so yet
            devices = _devices_for(run.spec, there, busy, free)
            if devices:
                busy |= set(devices)
                self._start_run(run, devices)
            elif len(run.spec.held) > 1:  # no later run takes what it waits for
                busy |= set(run.spec.devices)
        return bool(open_runs or self._children)  # the next step records new deaths

    def _there(self) -> dict[str, Device]:
        """The devices of this machine."""
        return {device.id: device for device in self._devices()}

    def _expected_seconds(self, run: Run) -> float:
        """0 while nothing is known."""
        if run.run_id not in self._expected:
            expected = read_expected(run.directory)
            if expected is None:
                self._lacks_expected = True  # it may be written soon
                return 0.0
            self._expected[run.run_id] = expected.total
        return self._expected[run.run_id]

    def _start_run(self, run: Run, devices: tuple[str, ...]) -> None:
        if run.directory.status() != "queued" or _is_held(run.directory):
            return  # started meanwhile, by a dispatcher that was killed or by hand
        try:
            spec = run.directory.spec()
        except FtlabError:
            return  # somebody takes the run away
        kills = self._oom_kills()
        try:
            if devices != spec.held or devices[0] != spec.device:
                others = [one for one in spec.devices if one not in devices]
                ordered = (*devices, *others) if len(devices) > 1 else spec.devices
                run.directory.complete_spec(replace(spec, device=devices[0], devices=ordered))
            process = self._start(run.directory, devices[0])
        except ready.StillImporting:
            return  # stays queued until the next step
        except OSError as error:
            since = self._refused_since.setdefault(run.run_id, time.monotonic())
            if error.errno in _FOR_NOW and time.monotonic() - since < START_SECONDS:
                return  # stays queued until the next step
            reason = f"The worker could not be started: {error.strerror or error}."
            self._write(run.directory, _ended("failed", reason))
            return
        self._children[run.run_id] = Child(process, run.directory, devices, kills)

    def _reap(self) -> None:
        for run_id, child in list(self._children.items()):
            code = child.process.poll()
            if code is None:
                self._end_if_silent(child)
                continue
            del self._children[run_id]
            if code == LEFT:
                continue  # another machine has the run, or ended it
            worker = child.directory.worker()
            if (worker is not None and is_alive(*worker)) or _is_held(child.directory):
                continue  # another process has the run; ours found the lock taken and exited
            if not (child.directory.result_file.exists() or child.is_to_go_on):
                killed = self._oom_kills() > child.oom_kills_before
                self._write(child.directory, result_of_lost_worker(code, child.directory, killed))

    def _end_if_silent(self, child: Child) -> None:
        """Ends a worker that hangs before its first line; otherwise it would block the device."""
        if time.monotonic() - child.since < FIRST_WORD_SECONDS or child.directory.worker():
            return
        end_process_group(child.process.pid, child.process)
        waited = f"{FIRST_WORD_SECONDS:.0f} s"
        reason = f"The worker reported nothing for {waited} and was ended; its log may say why."
        self._write(child.directory, _ended("failed", reason))

    def _cancel(self, run: Run) -> None:
        child = self._children.pop(run.run_id, None)
        worker = run.directory.worker()
        pid = child.process.pid if child else worker[0] if worker else None
        if pid is None or (child is None and worker is not None and not is_alive(*worker)):
            began = run.directory.elsewhere is not None  # its worker there ends by itself
            reason = CANCELLED if began else "Cancelled before it started."
            self._write(run.directory, _ended("cancelled", reason))
            return
        before = memory_in_use(run.spec.device, pid)
        end_process_group(pid, child.process if child else None)
        after = memory_in_use(run.spec.device, pid)
        memory = {"before": before, "after": after}
        self._write(run.directory, _ended("cancelled", CANCELLED, memory_at_end=memory))

    def _write(self, directory: RunDirectory, result: RunResult) -> None:
        """Writes the result; if that fails, the run is not tried again."""
        directory.clear()  # also makes room
        try:
            directory.write_result(result)
            if directory.elsewhere is None:  # else its worker there looks for the result first
                forget(directory.path)
        except OSError:
            self._given_up.add(directory.run_id)
        with suppress(OSError, FtlabError):
            if directory.spec().is_base:
                complete(directory)  # runs that wait for its numbers get none


def _is_for_another(run: Run, there: Collection[str]) -> bool:
    return run.status == "queued" and is_for_another(run.directory, run.spec, there)


def _devices_for(
    spec: RunSpec, there: Mapping[str, Device], busy: Collection[str], free: dict[str, bool]
) -> tuple[str, ...]:
    """The devices on which the run may start now: one, or as many as it is divided over; none if it
    has to wait.

    `there` are those of this machine. `busy` are those that the folder's own runs use; `free` is
    filled with what was found of the others. Of like ones, those are taken that nobody else uses.
    If others use too many of them, the run waits for the next that are free; if none of its devices
    is the folder's, it waits in line for the first, so that a process that gives way does.
    """
    if not spec.devices:
        return () if spec.device in busy else (spec.device,)
    count = len(spec.held)
    may_use = [one for one in spec.devices if one in there]
    if len(may_use) < count:
        may_use = list(spec.held) if count > 1 else [spec.device]  # the worker says what is missing
    left = [one for one in may_use if one not in busy]
    found: list[str] = []
    for one in left:
        if one not in free:
            free[one] = one not in there or is_unused(there[one])
        if free[one]:
            found.append(one)
        if len(found) == count:
            return tuple(found)
    none_is_ours = len(left) == len(may_use)
    return tuple(left[:count]) if none_is_ours else ()


def _is_held(directory: RunDirectory) -> bool:
    """Whether a worker holds the run's lock, which it acquires before its first line, or one on
    another machine its lease."""
    if directory.elsewhere is not None:
        return True
    if not directory.lock_file.exists():
        return False  # not started, or the folder was deleted; a lock would create it again
    try:
        return FileLock(directory.lock_file).is_held_elsewhere()
    except OSError:
        return False


def main(arguments: list[str]) -> int:
    [folder] = arguments
    Dispatcher(Path(folder).resolve()).work()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
