"""What a job of `send` executes: the sweep that was sent, and the way of its results back.

Run as: python -m ftlab.commands.send_job OWNER/NAME ENDS

in the folder that was sent, with the token in the environment. The sweep is ended at the Unix time
ENDS, or when the job is cancelled; what is done by then is sent all the same. A job that has sent
its results ends with status 0.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ftlab.basics.errors import FtlabError
from ftlab.commands.sweep import checked_with_inputs, run_sweep
from ftlab.commands.waiting import say
from ftlab.jobs.launchers.hub_errors import hub_errors
from ftlab.jobs.launchers.hugging_face import RESULTS
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.bundle import hub_api, token_of
from ftlab.share.pack import pack_sweep
from ftlab.share.sent_sweep import read_sent

_TRIES = 3
_SECONDS_BETWEEN = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    repo, ends = sys.argv[1:] if arguments is None else arguments
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _end_sweep)
    signal.alarm(max(1, int(float(ends) - time.time())))
    folder = Path.cwd()
    try:
        try:
            run_sweep(*checked_with_inputs(read_sent(folder)), folder / "runs")
        except (FtlabError, KeyboardInterrupt) as error:
            say(str(error) or "The job was ended before its sweep began.")
        _ignore_signals()
        token = token_of()
        _send(_packed(folder), repo, hub_api(token), token)
    except FtlabError as error:
        say(str(error))
        return 2
    return 0


def _end_sweep(number: int, frame: Any) -> NoReturn:
    """As Ctrl-C does; a second signal changes nothing."""
    _ignore_signals()
    say("The time of this job is over." if number == signal.SIGALRM else "The job is cancelled.")
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    signal.alarm(0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _packed(folder: Path) -> Path:
    """The sweep's runs as one file, with their adapters. Raises `FtlabError` if there is none."""
    store = RunStore(folder / "runs")
    sweeps = {run.spec.sweep_id for run in store.runs()}
    if not sweeps:
        raise FtlabError("No run was started, so there is nothing to send back.")
    packed = pack_sweep(sweep_data(store, sweeps.pop()), folder / RESULTS, adapters=True)
    for sentence in packed.left_out:
        say(sentence)
    say(packed.sentence)
    return packed.path


def _send(file: Path, repo: str, api: Any, token: str) -> None:
    for left in reversed(range(_TRIES)):
        try:
            with hub_errors("take the results", token):
                api.upload_file(
                    path_or_fileobj=str(file), path_in_repo=RESULTS,
                    repo_id=repo, repo_type="dataset",
                )  # fmt: skip
            return
        except FtlabError as error:
            if not left:
                raise
            say(f"{error} Trying again …")
            time.sleep(_SECONDS_BETWEEN)


if __name__ == "__main__":
    sys.exit(main())
