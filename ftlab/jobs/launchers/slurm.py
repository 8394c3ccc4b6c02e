"""Runs as jobs of Slurm, submitted by submitit; Slurm decides where and when each is executed."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ftlab.basics.devices import CPU
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.processes import python_environment
from ftlab.jobs.control import control_folder, note_trouble
from ftlab.jobs.launchers.launcher import Ended, NotNow
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec

AT_ONCE = 16
"""How many jobs wait or run in Slurm at a time, unless `at_once` says so."""

_OF_SBATCH = {
    "partition": "slurm_partition", "account": "slurm_account", "qos": "slurm_qos",
    "constraint": "slurm_constraint", "minutes": "timeout_min", "cpus": "cpus_per_task",
    "memory_gb": "mem_gb",
}  # fmt: skip
_OWN = {"card", "at_once", "cluster"}
_NUMBERS = ("at_once", "minutes", "cpus", "memory_gb")

_LOST = {"NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "TIMEOUT", "DEADLINE", "NO PROCESS AND NO RESULT"}
"""Ended by Slurm, not by itself: the run goes on in another job. The last is of submitit's."""

_ENDED = {
    "COMPLETED": Ended(0), "FINISHED": Ended(1), "FAILED": Ended(1), "INTERRUPTED": Ended(-9),
    "CANCELLED": Ended(-15), "OUT_OF_MEMORY": Ended(-9, out_of_memory=True),
}  # fmt: skip


def read_options(on: str) -> dict[str, str]:
    """Reads "slurm:partition=gpu,card=l40s". Raises `FtlabError` for an option that is none."""
    options = {}
    for part in filter(None, on.partition(":")[2].split(",")):
        name, _, value = part.partition("=")
        if name not in {*_OF_SBATCH, *_OWN} or not value:
            known = ", ".join(sorted({*_OF_SBATCH, *_OWN} - {"cluster"}))
            raise FtlabError(f"'{part[:60]}' of --on is not NAME=VALUE with a name of: {known}.")
        if name in _NUMBERS and not (value.isdigit() and int(value)):
            raise FtlabError(f"'{part[:60]}' of --on must be a whole number above 0.")
        options[name] = value
    return options


class SlurmLauncher:
    """A job has Slurm's number. `cluster=local` executes jobs here, as submitit's tests do."""

    seconds_between_looks = 2.0

    def __init__(self, on: str, folder: Path) -> None:
        import submitit

        self.on, self._options = on, read_options(on)
        self._runs, self._folder = folder, control_folder(folder) / "slurm"
        self._submitit = submitit
        self._known: dict[str, Any] = {}

    def _executor(self, spec: RunSpec) -> Any:
        chosen = {
            _OF_SBATCH[name]: int(value) if name in _NUMBERS else value
            for name, value in self._options.items()
            if name in _OF_SBATCH
        }
        chosen.setdefault("timeout_min", 24 * 60)
        if spec.device != CPU:
            chosen["gpus_per_node"] = spec.settings.shard
        cluster = self._options.get("cluster", "slurm")
        executor = self._submitit.AutoExecutor(folder=str(self._folder), cluster=cluster)
        executor.update_parameters(name=f"ftlab-{spec.run_id}", **chosen)
        return executor

    def places(self) -> SlurmPlaces:
        return SlurmPlaces(int(self._options.get("at_once", AT_ONCE)))

    def start(self, directory: RunDirectory, places: tuple[str, ...], number: int) -> str:
        root = python_environment()["PYTHONPATH"]
        command = [
            "env", f"PYTHONPATH={root}",
            sys.executable, "-m", "ftlab.jobs.node", "run", str(directory.path),
        ]  # fmt: skip
        function = self._submitit.helpers.CommandFunction(command, verbose=False)
        try:
            job = self._executor(directory.spec()).submit(function)
        except FtlabError:
            raise
        except Exception as error:  # no sbatch here, or Slurm refuses it: it may not for ever
            note_trouble(self._runs, f"Slurm takes no job: {one_line(error)[:300]}")
            raise NotNow from None
        note_trouble(self._runs, "")
        self._known[job.job_id] = job
        return str(job.job_id)

    def _job(self, name: str) -> Any:
        if name not in self._known:  # of an earlier dispatcher
            is_local = self._options.get("cluster") == "local"
            kind = self._submitit.LocalJob if is_local else self._submitit.SlurmJob
            self._known[name] = kind(folder=str(self._folder), job_id=name)
        return self._known[name]

    def status(self, job: str) -> Ended | None:
        state = str(self._job(job).state).partition(" by ")[0].rstrip("+")
        if state in _LOST:
            return Ended(-9, is_lost=True)
        return _ENDED.get(state)

    def cancel(self, job: str, directory: RunDirectory) -> Mapping[str, int | None]:
        with suppress(OSError):  # its worker sees the run's result, too
            self._job(job).cancel(check=False)
        return {}

    def log(self, job: str) -> str:
        with suppress(OSError):
            return f"{self._job(job).stdout() or ''}\n{self._job(job).stderr() or ''}"
        return ""


class SlurmPlaces:
    def __init__(self, most: int) -> None:
        self._most = most

    def may_do(self, directory: RunDirectory, spec: RunSpec) -> bool:
        return True

    def for_run(self, spec: RunSpec, busy: Collection[str]) -> tuple[str, ...]:
        free = (place for n in range(self._most) if (place := f"slurm/{n}") not in busy)
        return tuple(islice(free, 1))

    def wanted(self, spec: RunSpec) -> Collection[str]:
        return ()
