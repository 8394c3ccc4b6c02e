"""What every tab is given: the runs folder, the store, the workers that answer, examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ftlab.access import EVERYTHING, Access
from ftlab.models.hub import HubReach
from ftlab.models.reach import ModelReach
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import HeldOut
from ftlab.prediction.client import Predictor
from ftlab.runs.store import RunStore


@dataclass(frozen=True)
class AppContext:
    """Shared by all visitors of one app; holds no visitor's state."""

    runs_folder: Path
    store: RunStore
    playground: PlaygroundClient
    held_out: HeldOut = field(default_factory=HeldOut)
    predictor: Predictor = field(default_factory=Predictor)
    access: Access = EVERYTHING
    hub: HubReach = field(default_factory=HubReach)
    models: ModelReach = field(default_factory=ModelReach)
