"""Workers that compute nothing, on devices that do not exist, by a clock that is told the time."""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ftlab.basics.devices import Device
from ftlab.basics.processes import start_time
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory

_LOOKS_UNTIL_FIRST_WORD = 2


@dataclass
class Worker:
    """Seems to run until its time is over; then its run is done. It says that it has begun when it
    is looked at for the second time, as a process needs its time to start."""

    machine: Machine
    directory: RunDirectory
    ends: float
    pid: int = field(default_factory=os.getpid)
    looks: int = 0

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks == _LOOKS_UNTIL_FIRST_WORD:
            word = {"event": "start", "pid": self.pid, "process_started": start_time(self.pid)}
            file = self.directory.metrics_file
            file.write_text(json.dumps(word) + "\n", encoding="utf-8")
        if self.machine.now < self.ends:
            return None
        self.directory.write_result(RunResult("done"))
        return 0


@dataclass
class Machine:
    """Starts workers; `seconds` are those of each run, `starting` those before it computes.

    `used` has, for each run in the order of their starts, its device and when it began and ended.
    """

    seconds: Mapping[str, float]
    devices: Sequence[str] = ("cpu",)
    starting: float = 0.0
    now: float = 0.0
    used: list[tuple[str, str, float, float]] = field(default_factory=list)
    _ends: list[float] = field(default_factory=list)

    def start(self, directory: RunDirectory, device: str) -> Worker:
        ends = self.now + self.starting + self.seconds[directory.run_id]
        self.used.append((directory.run_id, device, self.now + self.starting, ends))
        heapq.heappush(self._ends, ends)
        return Worker(self, directory, ends)

    def dispatcher(self, folder: Path) -> Dispatcher:
        cards = [Device(one, "Card", 24 * 10**9) for one in self.devices]
        return Dispatcher(folder, LocalLauncher(self.start, devices=lambda: cards))

    def work(self, folder: Path, look: float = 0.0) -> float:
        """Has a dispatcher work off the folder's queue, which notices an end after `look` seconds;
        returns the seconds."""
        dispatcher = self.dispatcher(folder)
        while dispatcher.step():
            for _ in range(1 + _LOOKS_UNTIL_FIRST_WORD):
                dispatcher.step()  # nothing has happened
            if self._ends:
                self.now = max(self.now, heapq.heappop(self._ends) + look)
        return self.now

    def busy_share(self) -> float:
        """The share of all devices' time in which they computed."""
        busy = sum(end - begin for _, _, begin, end in self.used)
        return busy / (len(self.devices) * self.now)
