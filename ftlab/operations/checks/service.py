"""What serves and works: the port of the app, the dispatcher, the records, the clock."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ftlab import units
from ftlab.operations.address import why_not_free
from ftlab.operations.finding import Finding
from ftlab.operations.queue_state import QueueState
from ftlab.runs.store import Run, UnreadableRun
from ftlab.words import plural

STUCK_SECONDS = 300.0
"""A dispatcher that works starts a run within a second of the device being free."""

_AHEAD_SECONDS = 120.0
_ANSWER_SECONDS = 3.0


def check_port(host: str, port: int) -> Finding:
    """Whether the app could listen there, or does so already."""
    name = "port"
    if not 1 <= port <= 65535:
        return Finding(name, "fail", f"{port} is no port", "choose one from 1 to 65535 with --port")
    reason = why_not_free(host, port)
    if not reason:
        return Finding(name, "ok", f"{host}:{port} is free")
    served = _served_by_ftlab(port)
    if served:
        return Finding(name, "ok", f"{host}:{port} is served by ftlab ({served})")
    return Finding(
        name, "fail", f"{host}:{port} cannot be used ({reason})", "choose another with --port"
    )


def _served_by_ftlab(port: int) -> str:
    """What an app of ours says of itself on that port of this machine; "" if it is none."""
    # No proxy of the environment: the question is to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/healthz", timeout=_ANSWER_SECONDS) as answer:
            told = json.loads(answer.read(10_000))
        return f"status {told['status']}" if "status" in told else ""
    except (OSError, ValueError, TypeError):
        return ""


def check_queue(runs_folder: Path, state: QueueState) -> Finding:
    """Whether somebody works on the runs that wait."""
    counts = f"{state.running} running, {state.queued} queued"
    name = "dispatcher"
    if state.work == "missing":
        found = f"{counts}, and no dispatcher is at work"
        return Finding(name, "fail", found, "start the app: it takes the queue up again")
    stuck = state.work == "working" and not state.running and state.waited_seconds > STUCK_SECONDS
    if stuck:
        pid = state.dispatcher_pid
        waited = units.format_seconds(state.waited_seconds)
        who = f"process {pid}" if pid else "the process `ftlab.runs.dispatcher`"
        found = f"{counts} for {waited} though the dispatcher lives"
        fix = f"see {runs_folder / '.ftlab' / 'dispatcher.log'}; end {who} and start the app"
        return Finding(name, "warn", found, fix)
    words = {"idle": "no run waits", "working": "at work", "starting": "on its way"}[state.work]
    return Finding(name, "ok", f"{words} ({counts})")


def check_records(runs: Sequence[Run], unreadable: Sequence[UnreadableRun]) -> Finding:
    if not unreadable:
        return Finding("runs", "ok", f"{plural(len(runs), 'record')}, all readable")
    first = unreadable[0]
    among = len(runs) + len(unreadable)
    found = f"{len(unreadable)} of {among} cannot be read: {first.run_id}: {first.reason}"
    return Finding("runs", "warn", found, "move these folders out of the runs folder")


def check_clock(runs: Sequence[Run], now: float | None = None) -> Finding:
    """Ids and order of runs come from the clock: one that went back puts new runs behind old."""
    now = time.time() if now is None else now
    newest = max((run.spec.created_at for run in runs), default=0.0)
    said = f"{datetime.fromtimestamp(now):%Y-%m-%d %H:%M}"
    if newest > now + _AHEAD_SECONDS:
        found = f"{said}, but a run was made at {datetime.fromtimestamp(newest):%Y-%m-%d %H:%M}"
        return Finding("clock", "warn", found, "set the clock: new runs sort behind that one")
    return Finding("clock", "ok", said)
