"""What every page shows of the queue, looked up and drawn once for all that ask within a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gradio.components.plot import PlotData

from ftlab.charts.loss import LossCurve, curve_points, loss_figure
from ftlab.errors import FtlabError
from ftlab.recent import Recent
from ftlab.runs.control import ensure_dispatcher, requested_cancels
from ftlab.runs.progress import ProgressBook
from ftlab.runs.store import RECENT_SECONDS, Run, RunStore
from ftlab.ui.experiment.queue_view import (
    SweepView,
    queue_heading,
    queue_html,
    sweep_choices,
    view_sweep,
)
from ftlab.ui.experiment.rates import is_tuning, suggested_html
from ftlab.ui.html import field_error

_DISPATCHER_SECONDS = 10
_MOST_SWEEPS = 20  # looked at by pages at about the same time


@dataclass(frozen=True)
class Drawing:
    """The loss curves of a sweep, and how far their axis of steps goes."""

    curves: tuple[LossCurve, ...] = ()
    steps: int = 0

    @cached_property
    def figure(self) -> PlotData:
        """As the browser gets them; drawn once, for all pages."""
        drawn = loss_figure(curve_points(self.curves), steps=self.steps)
        return PlotData(type="plotly", plot=str(drawn.to_json()))


@dataclass(frozen=True)
class Shown:
    """What a visitor's page shows at this moment: parts that are the same are not sent again."""

    heading: str = ""
    queue: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    drawing: Drawing | None = None
    busy: bool | None = None
    seconds: float = 0.0  # until the page asks again


class Keeper:
    """Sees to it that a queued run has a dispatcher; one for all visitors, who all tick."""

    def __init__(self, runs_folder: Path) -> None:
        self.runs_folder = runs_folder
        self._turn = threading.Lock()
        self._next = 0.0
        self._problem = ""

    def keep(self, runs: Sequence[Run]) -> str:
        """Looks after the dispatcher if a run waits; the sentence on why that failed, or ""."""
        if not any(run.status == "queued" for run in runs):
            return ""
        with self._turn:
            if time.monotonic() < self._next:  # the last one started may not be up yet
                return self._problem
            self._next = time.monotonic() + _DISPATCHER_SECONDS
            try:
                ensure_dispatcher(self.runs_folder)
                self._problem = ""
            except FtlabError as error:
                self._problem = str(error)
            return self._problem


class QueueWatch:
    """Looks at the queue for all pages of one app."""

    def __init__(self, store: RunStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._book = ProgressBook()
        self._keeper = Keeper(store.folder)
        self._turn = threading.Lock()
        self._last_suggested: tuple[tuple[tuple[str, int], ...], str] = ((), "")
        self._looks: Recent[str, tuple[float, Shown]] = Recent(_MOST_SWEEPS)

    def look(self, wanted: str) -> Shown:
        """The wanted sweep as it is now."""
        with self._turn:
            return self._look(wanted, self._store.runs())

    def glance(self, wanted: str) -> Shown:
        """As `look`, up to `RECENT_SECONDS` old: for pages that ask every few seconds."""
        with self._turn:
            last = self._looks.get(wanted)
            if last is not None and self._clock() - last[0] < RECENT_SECONDS:
                return last[1]
            return self._look(wanted, self._store.recent_runs())

    def _look(self, wanted: str, runs: Sequence[Run]) -> Shown:
        cancelling = requested_cancels(self._store.folder)
        view = view_sweep(runs, wanted, cancelling, self._book.read)
        problem = self._keeper.keep(runs)
        now = Shown(
            heading=queue_heading(view) + field_error([problem] if problem else []),
            queue=self._suggested(view) + queue_html(view),
            choices=tuple(sweep_choices(runs)),
            drawing=self._drawing(wanted, view),
            busy=any(run.is_open for run in runs),
        )
        self._looks[wanted] = self._clock(), now
        return now

    def _suggested(self, view: SweepView | None) -> str:
        """What the ladders of an ended sweep suggest; read once, as it reads what runs wrote."""
        if view is None or view.is_open or not is_tuning(view.runs):
            return ""
        known = tuple((run.run_id, run.ended_at) for run in view.runs)
        if self._last_suggested[0] != known:
            self._last_suggested = known, suggested_html(view.runs)
        return self._last_suggested[1]

    def _drawing(self, wanted: str, view: SweepView | None) -> Drawing:
        """The one from before where it is the same: it has its figure already."""
        if view is None:
            return Drawing()
        now = Drawing(view.curves(), max((way.steps for way in view.progress), default=0))
        before = self._looks[wanted][1].drawing if wanted in self._looks else None
        return before if before is not None and before == now else now
