"""`send`: run a sweep as a job on Hugging Face's machines, and bring its runs back."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ftlab.basics.devices import list_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import DEVICES_VARIABLE
from ftlab.basics.units import format_bytes, format_seconds
from ftlab.basics.words import printable
from ftlab.commands import sweep
from ftlab.commands.options import add_runs_folder
from ftlab.commands.sweep_time import seconds_beforehand
from ftlab.commands.tables import output_console, print_table
from ftlab.commands.waiting import say
from ftlab.jobs.launchers.connect import DEVICES
from ftlab.jobs.launchers.flavors import Flavor, find_flavor
from ftlab.jobs.launchers.hub_errors import TOKEN, owner_of
from ftlab.jobs.launchers.hugging_face import (
    RESERVE_SECONDS,
    SWEEP,
    HuggingFaceJobs,
    SweepEnded,
)
from ftlab.records.run import check_writable
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.share.bundle import hub_api, token_of
from ftlab.share.sent_sweep import check_sendable, data_file, write_sent

NAME = "send"
SUMMARY = "run a sweep as a job of Hugging Face Jobs, and bring its runs back"
DESCRIPTION = f"""Runs a sweep on a machine of Hugging Face that is paid by the minute. Takes all
that `sweep` takes; says what the machine costs and asks before it starts anything. This code, the
sweep and your own data file, if it has one, go to a private data set repository of yours, which is
removed once the runs are back. They are then shown as from another machine.

Ctrl-C asks whether to cancel the job. It goes on without this command, and is billed, until it is
done or its time is over. The token is read from the environment only.

  {TOKEN}=… python -m ftlab send --flavor l4x1 --task my.csv --methods lora,qlora
  {TOKEN}=… python -m ftlab send --resume OWNER/JOB"""

_INSTALL_SECONDS = 600
"""About what it takes to start a machine and to install everything there."""

_TIMES, _UNKNOWN_HOURS = 3, 4.0
"""The job may take so many times as long as predicted; so long if that is not known."""

_PREDICTION_SECONDS = 90.0
_MOST_HOURS = 72.0
_POLL_SECONDS, _SILENT_SECONDS = 3.0, 600.0
_LATE_SECONDS = 60.0
"""Results of a job that was cancelled may come after its end."""

_JOB = re.compile(r"(?:https://huggingface\.co/jobs/)?([\w.-]{1,96}/)?([0-9a-zA-Z]{1,64})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    job = parser.add_argument_group("job")
    job.add_argument("--flavor", metavar="l4x1", help="machine, as `hf jobs hardware` lists them")
    job.add_argument(
        "--hours", type=float, metavar="N",
        help="end the job after so many hours at the latest (default: three times as long as "
        f"predicted, {_UNKNOWN_HOURS:g} if that is not known)",
    )  # fmt: skip
    job.add_argument("--yes", action="store_true", help="start without asking, for scripts")
    job.add_argument(
        "--resume", metavar="JOB", help="follow a job of `send` again, and fetch its runs; takes "
        "no other option but --runs-dir",
    )  # fmt: skip
    sweep.add_sweep(parser)
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    token = token_of()
    api = hub_api(token)
    jobs = HuggingFaceJobs(api, token)
    folder: Path = options.runs_dir.resolve()
    check_writable(folder)
    if options.resume is not None:
        job = _job_named(options.resume, lambda: owner_of(api, token))
        return _follow_and_fetch(jobs, job, None, folder)
    if not options.flavor:
        raise FtlabError("Name a machine with --flavor, as in l4x1; see `hf jobs hardware`.")
    owner = owner_of(api, token)
    flavor = find_flavor(api, options.flavor)
    say(flavor.sentence)
    request = _request_for(flavor, options)
    seconds = _time_and_cost(flavor, request, options.hours, RunStore(folder))
    file = data_file(request)
    if file is not None:
        say(f"'{file.name}' goes along, to a private data set repository of yours.")
    if flavor.dollars_an_hour is None and not options.yes:
        raise FtlabError("What this costs is not known, so nothing was started; --yes agrees.")
    if not options.yes and not _agreed("Start it?", "This costs money"):
        say("Nothing was started.")
        return 1
    with tempfile.TemporaryDirectory(prefix="ftlab-") as place:
        archive = Path(place) / SWEEP
        write_sent(request, archive)
        say(f"sending the sweep ({format_bytes(archive.stat().st_size)}) …")
        job = jobs.start(archive, owner, flavor.name, seconds)
    say(f"Started: https://huggingface.co/jobs/{job}")
    say(f"It goes on without this command; {_later(job)}")
    return _follow_and_fetch(jobs, job, flavor, folder)


def _later(job: str) -> str:
    return f"to follow it again and fetch its runs: python -m ftlab send --resume {job}"


def _job_named(text: str, owner: Callable[[], str]) -> str:
    found = _JOB.fullmatch(text.strip())
    if found is None:
        raise FtlabError(f"'{text[:80]}' is no job; name it as `send` did, as in OWNER/JOB.")
    return f"{(found[1] or owner()).rstrip('/')}/{found[2]}"


def _request_for(flavor: Flavor, options: argparse.Namespace) -> SweepRequest:
    """The checked request, for the devices of the flavor."""
    os.environ[DEVICES_VARIABLE] = DEVICES.dump_json(flavor.devices).decode()
    list_devices.cache_clear()
    request = sweep.request_from(options)
    check_sendable(request)
    valid, found = sweep.checked_with_inputs(request, options.match_parameters)
    if found.words:
        say(found.words)
    return valid


def _time_and_cost(
    flavor: Flavor, request: SweepRequest, hours: float | None, store: RunStore
) -> int:
    """Says both, and when the job is ended; returns the seconds until then."""
    if hours is not None and not 2 * RESERVE_SECONDS / 3600 <= hours <= _MOST_HOURS:
        raise FtlabError(f"--hours {hours:g} must be from 0.2 to {_MOST_HOURS:g}.")
    until = time.monotonic() + _PREDICTION_SECONDS

    def is_late() -> bool:
        return time.monotonic() > until

    say("predicting how long this takes …")
    try:
        predicted = seconds_beforehand([request], store, by_sheet=True, has_left=is_late)
    except FtlabError:  # the model's config is not here
        predicted = None
    if predicted is None:
        say("How long this sweep takes there is not known.")
    else:
        seconds = predicted + _INSTALL_SECONDS
        took = f"This takes about {format_seconds(seconds)} there, with installing"
        say(f"{took}{_dollars(flavor, seconds, ', and costs about')}.")
        hours = hours or math.ceil(2 * (_TIMES * predicted + 3 * _INSTALL_SECONDS) / 3600) / 2
    hours = min(hours or _UNKNOWN_HOURS, _MOST_HOURS)
    most = _dollars(flavor, 3600 * hours, ", so it costs at most")
    say(f"The job is ended after {hours:g} h at the latest{most} (--hours).")
    return round(3600 * hours)


def _dollars(flavor: Flavor, seconds: float, words: str) -> str:
    dollars = flavor.dollars(seconds)
    if dollars is None:
        return ""
    return f"{words} ${max(dollars, 0.01):.2f}"


def _agreed(question: str, why: str) -> bool:
    if not sys.stdin.isatty():
        raise FtlabError(f"{why}, and there is no terminal to ask on; add --yes to agree.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _follow_and_fetch(jobs: HuggingFaceJobs, job: str, flavor: Flavor | None, folder: Path) -> int:
    jobs.repo(job)  # refuses a job of somebody else's making before anything is shown of it
    log: list[str] = []
    is_cancelled = False
    try:
        ended = _ended(jobs, job, log)
    except KeyboardInterrupt:
        is_cancelled = _wants_to_cancel(job)
        if not is_cancelled:
            say(f"The job goes on, and is billed; {_later(job)}")
            return 130
        jobs.cancel(job)
        say("cancelling the job …")
        ended = _ended(jobs, job, log)
    if flavor is not None and ended.seconds is not None:
        took = f"The job ran for {format_seconds(ended.seconds)}"
        say(f"{took}{_dollars(flavor, ended.seconds, ', which costs about')}.")
    try:
        return _fetched(jobs, job, ended, log, folder)
    except KeyboardInterrupt:
        say(f"What is left on the Hub: {jobs.repo(job)}; {_later(job)}")
        raise


def _wants_to_cancel(job: str) -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return _agreed("\nCancel the job? What is done of it is fetched if it can be.", "")
    except (KeyboardInterrupt, EOFError):
        return False


def _ended(jobs: HuggingFaceJobs, job: str, log: list[str]) -> SweepEnded:
    """Prints the job's log, which continues `log`, until it has ended.

    Raises `FtlabError` if the Hub does not answer for ten minutes.
    """
    answered = time.monotonic()
    is_said = False
    while True:
        try:
            for number, line in enumerate(jobs.log(job)):
                answered = time.monotonic()
                if number >= len(log):
                    log.append(line)
                    print(printable(line), file=sys.stderr)
            ended = jobs.status(job)
            if ended is not None:
                return ended
            answered, is_said = time.monotonic(), False
        except FtlabError as error:
            if time.monotonic() - answered > _SILENT_SECONDS:
                raise FtlabError(f"{error} The job may go on; {_later(job)}") from None
            if not is_said:
                say(f"{error} Trying again …")
            is_said = True
        time.sleep(_POLL_SECONDS)


def _fetched(
    jobs: HuggingFaceJobs, job: str, ended: SweepEnded, log: list[str], folder: Path
) -> int:
    """Opens the job's runs, removes what is left on the Hub, and prints the results."""
    # Imported here because plotly is slow to import and the other commands do not need it.
    from ftlab.share.unpack import open_packed

    kept = f"They are kept in the private data set repository {jobs.repo(job)}; {_later(job)}"
    with tempfile.TemporaryDirectory(prefix="ftlab-") as place:
        try:
            file = _results(jobs, job, ended, Path(place))
            opened = None if file is None else open_packed(file, folder)
        except FtlabError as error:
            raise FtlabError(f"The results could not be fetched: {error} {kept}") from None
    _remove(jobs, job)
    if opened is None:
        raise FtlabError(_why_nothing(ended, log))
    print(opened.sentence)
    runs = RunStore(folder).sweep(opened.sweep_id)
    print_table([run for run in runs if not run.spec.is_base], output_console())
    print(f"python -m ftlab report {opened.sweep_id}")
    return 0 if all(run.status in ("done", "not_applicable") for run in runs) else 1


def _results(jobs: HuggingFaceJobs, job: str, ended: SweepEnded, place: Path) -> Path | None:
    until = time.monotonic() + (_LATE_SECONDS if ended.stage == "CANCELED" else 0)
    while True:
        file = jobs.results(job, place)
        if file is not None or time.monotonic() >= until:
            return file
        time.sleep(_POLL_SECONDS)


def _remove(jobs: HuggingFaceJobs, job: str) -> None:
    try:
        jobs.remove(job)
    except FtlabError as error:
        say(f"{error} The private data set repository {jobs.repo(job)} is left; remove it there.")


def _why_nothing(ended: SweepEnded, log: list[str]) -> str:
    last = " / ".join([line.strip() for line in log if line.strip()][-3:])[-600:]
    said = f" Its last lines: {last}" if last else ""
    if ended.stage == "COMPLETED":
        return f"The job has sent no results, or they were fetched before.{said}"
    if "time" in ended.message.lower():
        return f"The job's time was over before it sent results; give it more --hours.{said}"
    if ended.stage == "CANCELED":
        return f"The job was cancelled before it sent results.{said}"
    message = f" ({ended.message})" if ended.message else ""
    return f"The job failed{message}.{said}"
