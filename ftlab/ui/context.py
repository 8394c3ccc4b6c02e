"""What every tab is given: the runs folder, the store on it, and the playground's worker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ftlab.playground.client import PlaygroundClient
from ftlab.runs.store import RunStore


@dataclass(frozen=True)
class AppContext:
    """Shared by all visitors of one app; holds no visitor's state."""

    runs_folder: Path
    store: RunStore
    playground: PlaygroundClient
