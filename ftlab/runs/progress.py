"""How far an open run is, read from its metrics: of a file that grows, only what is new."""

from __future__ import annotations

import json
import os
import statistics
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftlab import units
from ftlab.reading import open_plain
from ftlab.recent import Recent
from ftlab.runs.directory import MAX_LINES_BYTES
from ftlab.runs.events import is_sound
from ftlab.runs.store import Run
from ftlab.runs.thinning import ThinCurve

MOST_FOLLOWED = 200
"""Runs whose place in their metrics is remembered; each takes about 0.1 MB."""

_RECENT_STEPS = 10  # whose median is how long a step takes
_RECENT_REPORTS = 40  # of a download, about 20 s, whose mean is how fast it is

PHASE_LABELS = {
    "": "queued",
    "start": "starting",
    "download": "downloading",
    "wait": "waiting for the device",
    "load": "loading",
    "train": "training",
    "evaluate": "evaluating",
    "save": "saving",
}


@dataclass(frozen=True)
class Download:
    """Of the base model: bytes `done` of `total`, and the seconds until all are there.

    `eta_seconds` is `None` where nothing has come in lately.
    """

    done: int
    total: int
    eta_seconds: float | None

    @property
    def fraction(self) -> float:
        """In [0, 1]."""
        return min(1.0, max(0.0, self.done / self.total))

    @property
    def label(self) -> str:
        """As in "1.2 of 3.1 GB"."""
        return units.format_part(self.done, self.total)


@dataclass(frozen=True)
class Progress:
    """One run's way: `fraction` in [0, 1], `eta_seconds` until it ends (`None`: not known yet).

    `losses` are (step, nats a token), thinned to a bounded number as `ThinCurve` says. `download`
    is there while the base model is fetched, which is no part of the two: the run has not begun.
    """

    phase: str
    step: int
    steps: int
    loss: float | None
    fraction: float
    elapsed_seconds: float
    eta_seconds: float | None
    losses: tuple[tuple[int, float], ...]
    download: Download | None = None

    @property
    def label(self) -> str:
        return PHASE_LABELS.get(self.phase, self.phase)

    @property
    def left_seconds(self) -> float | None:
        """Until the download ends where there is one, else until the run does."""
        return self.eta_seconds if self.download is None else self.download.eta_seconds


def read_progress(run: Run, evaluation_seconds: float | None = None) -> Progress:
    """The run's way so far; `evaluation_seconds` is what evaluation took in a like run."""
    way = _Way()
    MetricsTail(run.directory.metrics_file).read_into(way)
    return way.progress(run, evaluation_seconds)


class ProgressBook:
    """Remembers how far each run's metrics were read, for a page that asks every two seconds."""

    def __init__(self, most: int = MOST_FOLLOWED) -> None:
        self._followed: Recent[Path, tuple[MetricsTail, _Way]] = Recent(most)
        self._turn = threading.Lock()

    def read(self, run: Run, evaluation_seconds: float | None = None) -> Progress:
        """As `read_progress`; only lines that were appended since are parsed."""
        path = run.directory.metrics_file
        with self._turn:
            tail, way = self._followed.get(path) or (MetricsTail(path), _Way())
            if tail.was_replaced():
                tail, way = MetricsTail(path), _Way()
            tail.read_into(way)
            self._followed[path] = (tail, way)
            return way.progress(run, evaluation_seconds)


class MetricsTail:
    """A file of JSON lines that only grows; a torn last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._file_id: tuple[int, int] | None = None

    def was_replaced(self) -> bool:
        """Whether the file is another one than was read, or has become shorter."""
        if self._file_id is None:
            return False
        try:
            stamp = self._path.stat()
        except OSError:
            return True
        return (stamp.st_dev, stamp.st_ino) != self._file_id or stamp.st_size < self._offset

    def read_into(self, way: _Way) -> None:
        """Gives every whole line since the last time to the way."""
        try:
            with open_plain(self._path) as file:
                stamp = os.fstat(file.fileno())
                self._file_id = stamp.st_dev, stamp.st_ino
                if stamp.st_size > MAX_LINES_BYTES:
                    return
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and is_sound(event):
                way.take(event)


@dataclass
class _Way:
    """What is kept of the events so far."""

    began: bool = False
    phase: str = ""
    step: int = 0
    loss: float | None = None
    elapsed: float = 0.0
    evaluation_began: float | None = None
    evaluated: tuple[int, int, float] | None = None  # examples done, of how many, when
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))
    downloads: deque[tuple[float, int, int]] = field(  # when, bytes done, of how many
        default_factory=lambda: deque(maxlen=_RECENT_REPORTS)
    )
    curve: ThinCurve = field(default_factory=ThinCurve)

    def take(self, event: dict[str, Any]) -> None:
        self.began = True
        self.elapsed = float(event.get("elapsed") or 0.0)
        kind = event.get("event")
        if kind == "phase":
            self.phase = str(event.get("phase", ""))
            if self.phase == "evaluate" and self.evaluation_began is None:
                self.evaluation_began = self.elapsed
            self.downloads.clear()
        elif kind == "step":
            self.step, self.loss = int(event["step"]), float(event["loss"])
            self.step_seconds.append(float(event.get("seconds") or 0.0))
            self.curve.add(self.step, self.loss)
        elif kind == "evaluate":
            self.evaluated = int(event["done"]), int(event["total"]), self.elapsed
        elif kind == "download":
            self.downloads.append((self.elapsed, int(event["done"]), int(event["total"])))

    def progress(self, run: Run, evaluation_seconds: float | None) -> Progress:
        total = 0 if run.spec.is_base else run.spec.settings.steps
        return Progress(
            phase=self.phase or ("start" if self.began else ""),
            step=self.step,
            steps=total,
            loss=self.loss,
            fraction=self._fraction(total, finished=not run.is_open),
            elapsed_seconds=self.elapsed,
            eta_seconds=self._eta(run, total, evaluation_seconds) if run.is_open else 0.0,
            losses=self.curve.points(whole=not run.is_open),
            download=self._download() if run.status == "running" else None,
        )

    def _download(self) -> Download | None:
        if self.phase != "download" or not self.downloads:
            return None
        first_at, first, _ = self.downloads[0]
        at, done, total = self.downloads[-1]
        rate = (done - first) / (at - first_at) if at > first_at else 0.0
        return Download(done, total, (total - done) / rate if rate > 0 else None)

    def _fraction(self, total: int, finished: bool) -> float:
        """Training fills the first 80 %, evaluation the rest; a base run is evaluation alone."""
        if finished:
            return 1.0
        evaluated = self.evaluated[0] / max(1, self.evaluated[1]) if self.evaluated else 0.0
        return 0.8 * self.step / total + 0.2 * evaluated if total else evaluated

    def _eta(self, run: Run, total: int, evaluation_seconds: float | None) -> float | None:
        if self.evaluated is not None and self.evaluation_began is not None:
            done, examples, at = self.evaluated
            spent = max(0.1, at - self.evaluation_began)
            return spent * (examples / max(1, done) - 1)
        if run.spec.is_base or (self.step and self.step >= total):
            return evaluation_seconds
        if not self.step_seconds:
            return None
        step_seconds = statistics.median(self.step_seconds)
        return step_seconds * (total - self.step) + (evaluation_seconds or 0.0)


def sweep_eta(runs: Sequence[Run], progress: Sequence[Progress]) -> float | None:
    """Seconds until the last run of the sweep ends, from the runs that ended; `None`: unknown."""
    ended = [
        run.result.measures.total_seconds
        for run in runs
        if run.result is not None and run.result.measures.total_seconds and not run.spec.is_base
    ]
    remaining = 0.0
    for run, way in zip(runs, progress, strict=True):
        if not run.is_open:
            continue
        if way.download is not None:
            if way.download.eta_seconds is None:
                return None
            remaining += way.download.eta_seconds
        if way.eta_seconds is not None:
            remaining += way.eta_seconds
        elif ended:
            remaining += statistics.mean(ended)
        else:
            return None
    return remaining
