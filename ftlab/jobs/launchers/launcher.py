"""The seam between the dispatcher and what executes its runs: processes here, Ray, or Slurm.

A launcher is one module. It starts a job for a run, and says how the job ended; everything else of
a run is in the run's folder, which its worker writes, wherever it is.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import read_record, write_atomically
from ftlab.basics.processes import DEVICES_VARIABLE
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec

ON_VARIABLE = "FTLAB_ON"
"""Says where the runs of a folder are executed: nothing for this machine, else as for `--on`."""


class NotNow(Exception):
    """The run cannot be started at this moment; it stays queued."""


@dataclass(frozen=True)
class Ended:
    """How a job ended. `code` is its exit status, negative for a signal.

    `is_lost`: not by the run's own doing, but with its machine; the run goes on elsewhere.
    """

    code: int
    out_of_memory: bool = False
    is_lost: bool = False


@dataclass(frozen=True)
class Job:
    """What is noted of a job elsewhere in its run's folder: its name, its places, and how often
    the run was started with it."""

    job: str
    places: tuple[str, ...]
    number: int


_JOB = TypeAdapter(Job)


def read_job(directory: RunDirectory) -> Job | None:
    """`None` if the run was never started elsewhere."""
    try:
        return read_record(_JOB, directory.job_file)
    except (FtlabError, OSError):
        return None


def write_job(directory: RunDirectory, job: Job) -> None:
    """Raises `OSError`."""
    write_atomically(directory.job_file, _JOB.dump_json(job))


class Places(Protocol):
    """Where runs can be executed now; each place takes one run at a time."""

    def may_do(self, directory: RunDirectory, spec: RunSpec) -> bool:
        """Whether a queued run is for one of these places at all."""

    def for_run(self, spec: RunSpec, busy: Collection[str]) -> tuple[str, ...]:
        """The places in which the run may start: one, or as many as it is divided over; none if it
        has to wait. `busy` are taken already."""

    def wanted(self, spec: RunSpec) -> Collection[str]:
        """The places of which a run over several waits for enough, so no later run takes them."""


class Launcher(Protocol):
    """Executes runs."""

    @property
    def on(self) -> str:
        """As `--on` names it; "" for this machine. Elsewhere, runs outlive the dispatcher and are
        found again by their jobs' names; one that is lost with its machine goes on by itself."""

    @property
    def seconds_between_looks(self) -> float:
        """How often it is cheap enough to ask for the status of jobs."""

    def places(self) -> Places:
        """Looks around; called once in each step of the dispatcher."""

    def start(self, directory: RunDirectory, places: tuple[str, ...], number: int) -> str:
        """Starts a run for the `number`-th time; returns the job's name.

        Raises `OSError` if that is impossible, and `NotNow`.
        """

    def status(self, job: str) -> Ended | None:
        """How the job ended; `None` while it waits or runs, or if nobody can say."""

    def cancel(self, job: str, directory: RunDirectory) -> Mapping[str, int | None]:
        """Ends the job; returns the bytes of memory in use before and after, as far as known."""

    def log(self, job: str) -> str:
        """The job's own output, which has why a worker could not even write the run's log."""


def launcher_named(on: str, folder: Path) -> Launcher:
    """The launcher for `--on`. Raises `FtlabError` for one that does not exist, or whose library is
    not installed."""
    if not on:
        from ftlab.jobs.launchers.local import LocalLauncher

        return LocalLauncher()
    kind = kind_of_launcher(on)
    try:
        if kind == "ray":
            from ftlab.jobs.launchers.ray import RayLauncher

            return RayLauncher(on, folder)
        from ftlab.jobs.launchers.slurm import SlurmLauncher

        return SlurmLauncher(on, folder)
    except ModuleNotFoundError as error:
        raise FtlabError(
            f"--on {on} needs the library '{error.name}': python -m pip install 'ftlab[{kind}]', "
            f"or -r requirements-{kind}.txt."
        ) from None


def kind_of_launcher(on: str) -> str:
    """Returns "ray" or "slurm"; raises `FtlabError` for anything else."""
    if on.startswith(("http://", "https://")):
        return "ray"
    if on.partition(":")[0] == "slurm":
        return "slurm"
    raise FtlabError(
        f"--on '{on[:80]}' is neither the address of a Ray cluster's dashboard, as in "
        "http://HEAD:8265, nor 'slurm' (with options: slurm:partition=gpu)."
    )


def label_of(on: str) -> str:
    """What `--on` names, for people: "Ray at http://HEAD:8265", "Slurm (partition=gpu)"."""
    if kind_of_launcher(on) == "ray":
        return f"Ray at {on}"
    options = on.partition(":")[2]
    return f"Slurm ({options})" if options else "Slurm"


def launcher_environment() -> dict[str, str]:
    """Variables for a process that starts runs elsewhere, or starts one that does."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == DEVICES_VARIABLE or (name.startswith("RAY_AUTH_") and where_runs_go())
    }


def where_runs_go() -> str:
    """What `--on`, or the environment, says: `ON_VARIABLE`, else `RAY_ADDRESS` if it is the address
    of a dashboard, as `ray job submit` takes it. Inside a Ray job it is another kind of address."""
    on = os.environ.get(ON_VARIABLE, "").strip()
    ray = os.environ.get("RAY_ADDRESS", "").strip()
    return (on or (ray if ray.startswith(("http://", "https://")) else "")).rstrip("/")
