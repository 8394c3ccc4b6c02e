"""What a page is built on, with predictions that start no process."""

from __future__ import annotations

from pathlib import Path

from ftlab.playground.client import PlaygroundClient
from ftlab.prediction.client import Predictor
from ftlab.records.store import RunStore
from ftlab.tabs.context import AppContext
from tests.prediction.fakes import SizedPredictor


def page_context(
    runs: Path, predictor: Predictor | None = None, recorded: Path | None = None
) -> AppContext:
    """A page on the runs; by default every prediction is 1 GB."""
    return AppContext(
        runs,
        RunStore(runs, recorded),
        PlaygroundClient(runs),
        predictor=predictor or SizedPredictor(lambda question: 1),
    )
