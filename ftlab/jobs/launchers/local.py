"""Runs as processes of this machine, one at a time on each of its devices."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ftlab.basics.devices import Device, list_devices, memory_in_use
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import is_unused
from ftlab.basics.processes import (
    Started,
    end_process_group,
    start_detached,
    worker_environment,
)
from ftlab.jobs import ready
from ftlab.jobs.control import is_for_another
from ftlab.jobs.launchers.launcher import Ended, NotNow
from ftlab.jobs.lost_worker import oom_kills
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, needs_hub

StartRun = Callable[[RunDirectory, str], Started]


def start_worker(directory: RunDirectory, device: str) -> Started:
    """Starts the worker of a run in a process of its own.

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


class LocalLauncher:
    """A job has the name of its run."""

    on = ""
    seconds_between_looks = 0.05  # cheaper than a step of the dispatcher, which reads the queue

    def __init__(
        self,
        start: StartRun = start_worker,
        count_oom_kills: Callable[[], int] = oom_kills,
        devices: Callable[[], Sequence[Device]] = list_devices,
    ) -> None:
        self._start, self._oom_kills, self._devices = start, count_oom_kills, devices
        self._started: dict[str, tuple[Started, int]] = {}  # and the OOM kills before

    def places(self) -> LocalPlaces:
        return LocalPlaces({device.id: device for device in self._devices()})

    def start(self, directory: RunDirectory, places: tuple[str, ...], number: int) -> str:
        spec = directory.spec()
        if places != spec.held or places[0] != spec.device:
            others = [one for one in spec.devices if one not in places]
            ordered = (*places, *others) if len(places) > 1 else spec.devices
            directory.complete_spec(replace(spec, device=places[0], devices=ordered))
        kills = self._oom_kills()
        try:
            process = self._start(directory, places[0])
        except ready.StillImporting:
            raise NotNow from None
        self._started[directory.run_id] = process, kills
        return directory.run_id

    def status(self, job: str) -> Ended | None:
        process, kills = self._started[job]
        code = process.poll()
        return None if code is None else Ended(code, out_of_memory=self._oom_kills() > kills)

    def cancel(self, job: str, directory: RunDirectory) -> Mapping[str, int | None]:
        """Also ends a worker that an earlier dispatcher started."""
        process, _ = self._started.get(job, (None, 0))
        worker = directory.worker()
        pid = process.pid if process else worker[0] if worker else None
        if pid is None:
            return {}
        device = ""
        with suppress(FtlabError):  # somebody takes the run away
            device = directory.spec().device
        before = memory_in_use(device, pid)
        end_process_group(pid, process)
        return {"before": before, "after": memory_in_use(device, pid)}

    def log(self, job: str) -> str:
        return ""


class LocalPlaces:
    """This machine's devices, as they are `there` at one moment."""

    def __init__(self, there: Mapping[str, Device]) -> None:
        self._there = there
        self._free: dict[str, bool] = {}  # as far as it was looked at

    def may_do(self, directory: RunDirectory, spec: RunSpec) -> bool:
        return not is_for_another(directory, spec, self._there)

    def for_run(self, spec: RunSpec, busy: Collection[str]) -> tuple[str, ...]:
        """Of like devices, those are taken that nobody else uses.

        If others use too many of them, the run waits for the next that are free; if none of its
        devices is the folder's, it waits in line for the first, so that a process that gives way
        does.
        """
        if not spec.devices:
            return () if spec.device in busy else (spec.device,)
        count = spec.settings.shard
        may_use = [one for one in spec.devices if one in self._there]
        if len(may_use) < count:
            may_use = list(spec.held) if count > 1 else [spec.device]  # its worker says what lacks
        left = [one for one in may_use if one not in busy]
        found: list[str] = []
        for one in left:
            if one not in self._free:
                self._free[one] = one not in self._there or is_unused(self._there[one])
            if self._free[one]:
                found.append(one)
            if len(found) == count:
                return tuple(found)
        none_is_ours = len(left) == len(may_use)
        return tuple(left[:count]) if none_is_ours else ()

    def wanted(self, spec: RunSpec) -> Collection[str]:
        return spec.devices
