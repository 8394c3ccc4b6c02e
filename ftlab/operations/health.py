"""Whether the app does its work, for a probe that asks every few seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab import __version__
from ftlab.errors import FtlabError
from ftlab.operations.folders import refusal
from ftlab.operations.queue_state import QueueState, queue_state
from ftlab.runs.store import RunStore

FRESH_SECONDS = 2.0
"""Within so much time all probes get the same answer, and the runs are looked at once."""


@dataclass(frozen=True)
class Health:
    """No paths and no names: it is told to whoever asks. `queue` is `None` if it is unreadable."""

    writable: bool
    queue: QueueState | None

    @property
    def is_ok(self) -> bool:
        return self.writable and self.queue is not None and self.queue.work != "missing"

    @property
    def status(self) -> str:
        return "ok" if self.is_ok else "failing"

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "version": __version__,
            "runs_folder_writable": self.writable,
            "dispatcher": self.queue.work if self.queue else "unknown",
            "queued": self.queue.queued if self.queue else None,
            "running": self.queue.running if self.queue else None,
        }


class HealthProbe:
    """Looks at one runs folder, at most once in `FRESH_SECONDS`."""

    def __init__(self, store: RunStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._turn = threading.Lock()
        self._last: tuple[float, Health] | None = None

    def health(self) -> Health:
        with self._turn:
            now = self._clock()
            if self._last is None or now - self._last[0] >= FRESH_SECONDS:
                self._last = (now, look(self._store.folder, self._store))
            return self._last[1]


def look(runs_folder: Path, store: RunStore) -> Health:
    """The health as it is now."""
    writable = refusal(runs_folder) is None
    try:
        return Health(writable, queue_state(runs_folder, store.runs()))
    except (FtlabError, OSError):
        return Health(writable, None)
