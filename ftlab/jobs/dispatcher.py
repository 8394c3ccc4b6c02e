"""The dispatcher: starts queued runs, one at a time in each place that a launcher offers.

By default these are the devices of this machine (`ftlab.jobs.launchers`). It also sees to runs
whose workers ended without a result: they failed, or go on elsewhere if their machine is gone.

Run as: python -m ftlab.jobs.dispatcher RUNS_FOLDER

It is small, does not import torch, is independent of the app, and exits when the queue is empty.
Whoever queues a run starts one; a file lock allows one per runs folder, and a second exits at once.
`ftlab.jobs.ready_parent` may fork it, which saves its imports.
"""

from __future__ import annotations

import errno
import itertools
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from ftlab.basics.errors import FtlabError
from ftlab.basics.leases import LEFT, RENEW_SECONDS, Lease, LeaseLost, forget
from ftlab.basics.locks import FileLock
from ftlab.basics.processes import is_alive
from ftlab.jobs.control import (
    control_folder,
    dispatcher_lock,
    requested_cancels,
    settle_cancel,
)
from ftlab.jobs.launchers.launcher import (
    Ended,
    Job,
    Launcher,
    NotNow,
    Places,
    kind_of_launcher,
    launcher_named,
    read_job,
    where_runs_go,
    write_job,
)
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.jobs.lost_worker import ended, result_of_lost_worker
from ftlab.records.base_runs import complete
from ftlab.records.expected import read_expected
from ftlab.records.job import CANCELLED, bound_log
from ftlab.records.removal import clear_removed
from ftlab.records.result import FinalStatus, RunResult
from ftlab.records.resume import ask_to_resume, begin_anew
from ftlab.records.run import RunDirectory
from ftlab.records.store import Run, RunStore


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


class Turns:
    """Shares the devices between people: on each one the owners of waiting runs take turns.

    Whose run was started there longest ago is next, with that owner's runs in their order. What a
    dispatcher before this one started is not remembered.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], int] = {}
        self._numbers = itertools.count(1)

    def note(self, run: Run, places: Iterable[str]) -> None:
        """A run was started on these places."""
        number = next(self._numbers)
        self._last |= {(place, run.spec.owner): number for place in places}

    def in_turn(
        self, waiting: Sequence[Run], places: Places, busy: set[str]
    ) -> Iterator[tuple[Run, tuple[str, ...]]]:
        """Yields each run that can start now, with its places, which are added to `busy`.

        A run over several devices that lacks some keeps the others free when its turn has come.
        """
        lines: dict[str, deque[Run]] = {}
        for run in waiting:
            lines.setdefault(run.spec.owner, deque()).append(run)
        none_left = set[tuple[object, ...]]()  # `busy` only grows, so each wish is asked once
        while lines:
            for owner, line in list(lines.items()):
                while line and _wish(line[0]) in none_left:
                    line.popleft()
                if not line:
                    del lines[owner]
            if not lines:
                return
            wanted = {
                owner: places.for_run(line[0].spec, busy) or tuple(places.wanted(line[0].spec))
                for owner, line in lines.items()
            }
            owner = min(lines, key=lambda owner: self._since(owner, wanted[owner]))
            run = lines[owner].popleft()
            found = places.for_run(run.spec, busy)
            if found:
                busy |= set(found)
                yield run, found
                continue
            none_left.add(_wish(run))
            if run.spec.settings.shard > 1:
                busy |= set(wanted[owner])

    def _since(self, owner: str, places: Iterable[str]) -> int:
        return max((self._last.get((place, owner), 0) for place in places), default=0)


def _wish(run: Run) -> tuple[object, ...]:
    return run.spec.device, run.spec.devices, run.spec.settings.shard


_HAS_TRAINED = frozenset({"running", *get_args(FinalStatus)}) - {"not_applicable"}
POLL_SECONDS = 0.4
_SECONDS_BETWEEN_LOOKS = 0.05  # at the workers: cheaper than a step, which reads the queue
FIRST_WORD_SECONDS = 300.0  # a worker writes its first line before its large imports
START_SECONDS = 60.0  # how long a start is retried while the system is out of resources
_FOR_NOW = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)

LATE_SECONDS = 60.0
"""NFS keeps the list of a folder so long: a file that another machine wrote may be seen later."""

LAST_WORD_SECONDS = 2.0

AVOIDED_SECONDS = 15.0
"""A cluster may list a node that is gone for so long: it gets no other run meanwhile."""

MOST_LOSSES = 3
"""A run that was lost with its machine so often is not started again: it may be what ends them."""


@dataclass
class Child:
    """A job that executes a run in those places: one, or as many as it is divided over."""

    job: str
    directory: RunDirectory
    places: tuple[str, ...]
    ended: Ended | None = None
    over: float = 0.0
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

    def __init__(self, folder: Path, launcher: Launcher | None = None) -> None:
        self._store = RunStore(folder)
        self._folder = folder
        self._launcher = launcher or LocalLauncher()
        self._expected: dict[str, float] = {}
        self._lacks_expected = False
        self._ordered: tuple[list[Run], list[Run]] = ([], [])  # as read, and those that are open
        self._turns = Turns()
        self._children: dict[str, Child] = {}
        self._avoided: dict[str, float] = {}  # places, and until when
        self._losses: Counter[str] = Counter()
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
            self._find_jobs()
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

    def _find_jobs(self) -> None:
        """Takes over the jobs elsewhere that an earlier dispatcher started, also those which ended
        meanwhile."""
        if not self._launcher.on:
            return
        for run in self._store.runs():
            noted = read_job(run.directory) if run.is_open or run.status == "interrupted" else None
            if noted is not None:
                self._children[run.run_id] = Child(noted.job, run.directory, noted.places)

    def _wait(self) -> None:
        """Waits until the next step, or until a worker ends: the next run starts at once."""
        until = time.monotonic() + POLL_SECONDS
        between = self._launcher.seconds_between_looks
        if between >= POLL_SECONDS:
            time.sleep(between)
            return
        while time.monotonic() < until:
            if any(self._status(child) is not None for child in self._children.values()):
                return
            time.sleep(between)

    def _status(self, child: Child) -> Ended | None:
        if child.ended is None and self._launcher.on:
            child.ended = self._status_elsewhere(child)
        elif child.ended is None:
            child.ended = self._launcher.status(child.job)
        return child.ended

    def _status_elsewhere(self, child: Child) -> Ended | None:
        """As far as the run's folder says so, the launcher is not asked."""
        if child.directory.result_file.exists():
            return Ended(0)
        if child.directory.is_at_work:
            return None
        end = self._launcher.status(child.job)
        if end is None:
            return None
        child.over = child.over or time.monotonic()
        # A worker that ended by itself has written a result, which may be seen here later. One that
        # is lost may write its first line before it is ended, too.
        late = LATE_SECONDS if end.code in (0, 1) and not end.is_lost else LAST_WORD_SECONDS
        return end if time.monotonic() - child.over >= late else None

    def step_needed(self) -> bool:
        places = self._launcher.places()
        return any(self._is_ours(run, places) for run in self._waiting())

    def _is_ours(self, run: Run, places: Places) -> bool:
        """Whether this dispatcher's launcher is to execute the run, or does."""
        if run.queued_for != self._launcher.on:
            return False
        return run.status != "queued" or places.may_do(run.directory, run.spec)

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
        began = time.monotonic()
        self._reap()
        cancels = requested_cancels(self._folder)  # read first, so it names no newer run
        open_runs = self._waiting()
        for run in open_runs:
            if run.run_id in cancels:
                self._cancel(run)
        for run_id in cancels:
            settle_cancel(self._folder, run_id)
        places = self._launcher.places()
        open_runs = [
            run
            for run in open_runs
            if self._is_ours(run, places) and (not cancels or run.run_id not in cancels)
        ]
        busy = {place for child in self._children.values() for place in child.places}
        busy |= {place for place, until in self._avoided.items() if until > time.monotonic()}
        running = [run for run in open_runs if run.status == "running"]
        for run in running:
            busy |= set() if run.directory.elsewhere else set(run.spec.held)
            bound_log(run.directory.log_file)
        waiting = [
            run
            for run in open_runs  # a worker that was started may not have said so yet
            if run.status == "queued" and run.run_id not in self._children
        ]
        for run, found in self._turns.in_turn(waiting, places, busy):
            if time.monotonic() - began >= RENEW_SECONDS:  # the lease is renewed between
                break
            self._start_run(run, found)
            if run.run_id in self._children:
                self._turns.note(run, found)
        return bool(open_runs or self._children)  # the next step records new deaths

    def _expected_seconds(self, run: Run) -> float:
        """0 while nothing is known."""
        if run.run_id not in self._expected:
            expected = read_expected(run.directory)
            if expected is None:
                self._lacks_expected = True  # it may be written soon
                return 0.0
            self._expected[run.run_id] = expected.total
        return self._expected[run.run_id]

    def _start_run(self, run: Run, places: tuple[str, ...]) -> None:
        if run.directory.status() != "queued" or _is_held(run.directory):
            return  # started meanwhile, by a dispatcher that was killed or by hand
        noted = read_job(run.directory)
        number = noted.number + 1 if noted else 1
        try:
            job = self._launcher.start(run.directory, places, number)
            if self._launcher.on:
                write_job(run.directory, Job(job, places, number))
        except (NotNow, FtlabError):
            return  # stays queued until the next step, or somebody takes the run away
        except OSError as error:
            since = self._refused_since.setdefault(run.run_id, time.monotonic())
            if error.errno in _FOR_NOW and time.monotonic() - since < START_SECONDS:
                return  # stays queued until the next step
            reason = f"The worker could not be started: {error.strerror or error}."
            self._write(run.directory, ended("failed", reason))
            return
        self._children[run.run_id] = Child(job, run.directory, places)

    def _reap(self) -> None:
        for run_id, child in list(self._children.items()):
            end = self._status(child)
            if end is None:
                self._end_if_silent(child)
                continue
            directory = child.directory
            del self._children[run_id]
            if end.code == LEFT or _is_at_work(directory):
                continue  # another has the run, or ended it; ours found the lock taken and exited
            if directory.result_file.exists() or child.is_to_go_on:
                self._losses.pop(run_id, None)
            elif end.is_lost and directory.is_waiting:  # its worker had not begun
                until = time.monotonic() + AVOIDED_SECONDS
                self._avoided |= dict.fromkeys(child.places, until)
            elif end.is_lost and self._losses[run_id] + 1 < MOST_LOSSES:
                self._losses[run_id] += 1
                self._have_go_on(directory)
            else:
                log, on = self._launcher.log(child.job), self._launcher.on
                by = kind_of_launcher(on).title() if on else "the kernel"
                result = result_of_lost_worker(end.code, directory, end.out_of_memory, log, by)
                self._write(directory, result)

    def _have_go_on(self, directory: RunDirectory) -> None:
        """Has a run that was lost with its machine go on from its checkpoint, or begin anew."""
        print(f"ftlab: {directory.run_id} was lost with its machine; it goes on.", flush=True)
        with suppress(FtlabError):  # somebody resumed it, or takes it away
            try:
                ask_to_resume(directory)
            except FtlabError:
                begin_anew(directory)

    def _end_if_silent(self, child: Child) -> None:
        """Ends a worker that hangs before its first line; otherwise it would block the device."""
        if self._launcher.on:  # it may wait for its turn there
            return
        if time.monotonic() - child.since < FIRST_WORD_SECONDS or child.directory.worker():
            return
        self._launcher.cancel(child.job, child.directory)
        waited = f"{FIRST_WORD_SECONDS:.0f} s"
        reason = f"The worker reported nothing for {waited} and was ended; its log may say why."
        self._write(child.directory, ended("failed", reason))

    def _cancel(self, run: Run) -> None:
        child = self._children.pop(run.run_id, None)
        worker = run.directory.worker()
        is_alive_here = worker is not None and is_alive(*worker)
        if self._launcher.on and child is not None:
            self._write(run.directory, ended("cancelled", CANCELLED))  # its worker sees that, too
            self._launcher.cancel(child.job, run.directory)
        elif child is None and not is_alive_here:
            began = run.directory.elsewhere is not None  # its worker there ends by itself
            reason = CANCELLED if began else "Cancelled before it started."
            self._write(run.directory, ended("cancelled", reason))
        else:
            memory = self._launcher.cancel(child.job if child else run.run_id, run.directory)
            self._write(run.directory, ended("cancelled", CANCELLED, memory_at_end=memory))

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


def _is_at_work(directory: RunDirectory) -> bool:
    worker = directory.worker()
    return (worker is not None and is_alive(*worker)) or _is_held(directory)


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
    folder = Path(arguments[0]).resolve()
    try:
        launcher = launcher_named(where_runs_go(), folder)
    except FtlabError as error:
        print(f"ftlab: {error}", file=sys.stderr)
        return 1
    Dispatcher(folder, launcher).work()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
