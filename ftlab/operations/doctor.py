"""Every check in its order, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ftlab.devices import AUTO, resolve_device
from ftlab.errors import FtlabError
from ftlab.models.bundled import bundled_folder, is_fetched
from ftlab.operations.checks.device import check_torch, look_at_device
from ftlab.operations.checks.model import check_bundled
from ftlab.operations.checks.service import check_clock, check_port, check_queue, check_records
from ftlab.operations.checks.storage import CACHE_BYTES, RUNS_BYTES, check_disk, check_folder
from ftlab.operations.checks.versions import check_python, check_versions
from ftlab.operations.finding import Finding
from ftlab.operations.queue_state import queue_state
from ftlab.operations.requirements import own_requirements
from ftlab.paths import cache_folder, locks_folder
from ftlab.runs.store import RunStore


def examine(runs_folder: Path, host: str, port: int) -> Iterator[Finding]:
    """Each finding as soon as it is there: torch alone takes seconds."""
    yield check_python()
    yield from _guarded("libraries", lambda: [check_versions(own_requirements())])
    device = resolve_device(AUTO)
    yield look_at_device(device)
    yield check_torch(device)
    yield check_folder("runs folder", runs_folder, "FTLAB_RUNS", "--runs-dir")
    yield check_disk("runs disk", runs_folder, RUNS_BYTES)
    yield check_folder("cache folder", cache_folder(), "FTLAB_HOME")
    yield check_disk("cache disk", cache_folder(), 0 if is_fetched() else CACHE_BYTES)
    yield check_folder("locks folder", locks_folder(), "FTLAB_LOCKS")
    yield check_bundled(bundled_folder())
    yield from _guarded("runs", lambda: _of_runs(runs_folder))
    yield check_port(host, port)


def _of_runs(runs_folder: Path) -> list[Finding]:
    store = RunStore(runs_folder)
    runs = store.runs()
    return [
        check_records(runs, store.unreadable),
        check_queue(runs_folder, queue_state(runs_folder, runs)),
        check_clock(runs),
    ]


def _guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check that cannot even be made is a finding like others."""
    try:
        return check()
    except (FtlabError, OSError) as error:
        return [Finding(name, "fail", str(error), "see to the file or folder that is named")]
