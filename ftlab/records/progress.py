"""The progress of an open run, read from its metrics; and curves with a bounded number of points.

A curve divides the steps into buckets of equal width. Each bucket keeps its lowest and its highest
point, which covers the same area on the screen as a line through all points. When there are too
many buckets, each pair of neighbours is merged.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ftlab.basics import units
from ftlab.basics.files import open_plain
from ftlab.basics.recent import Recent
from ftlab.records.expected import Expected, read_expected
from ftlab.records.result import ANSWERING, RunResult, is_sound
from ftlab.records.resume import newest_checkpoint
from ftlab.records.run import MAX_LINES_BYTES
from ftlab.records.store import Run

MOST_BUCKETS = 300
"""At most twice as many points: about one per pixel of the page's figures."""

Point = tuple[int, float]
Place = TypeVar("Place", str, int)


class ThinCurve:
    """Collects the points of a run one by one, in the order of its steps.

    The first and the last point are always kept. A repeated step replaces its first occurrence and
    all later points, because a resumed run does these steps again.
    """

    def __init__(self, most_buckets: int = MOST_BUCKETS) -> None:
        self._most = most_buckets
        self._width = 1
        self._buckets: dict[int, _Bucket] = {}
        self._first: Point | None = None
        self._last: Point | None = None

    def add(self, step: int, value: float) -> None:
        if self._last is not None and step <= self._last[0]:
            self._forget_from(step)
        point = (step, value)
        self._first = self._first or point
        self._last = point
        self._buckets.setdefault(step // self._width, _Bucket()).add(point)
        while len(self._buckets) > self._most:
            self._width *= 2
            self._fill([kept for bucket in self._buckets.values() for kept in bucket.points()])

    def points(self, whole: bool = True) -> tuple[Point, ...]:
        """The kept points by step: two per bucket at most, one more for a gap, and both ends.

        If not `whole`, the bucket that is still being filled is left out if it is wider than one
        step, so that the figure of a long run changes once per bucket and not at every step.
        """
        kept = {point[0]: point for bucket in self._buckets.values() for point in bucket.points()}
        kept |= {end[0]: end for end in (self._first, self._last) if end is not None}
        last = max(self._buckets, default=0) * self._width
        until = math.inf if whole or self._width == 1 else max(1, last)
        return tuple(kept[step] for step in sorted(kept) if step < until)

    def _fill(self, points: Iterable[Point]) -> None:
        self._buckets = {}
        for point in points:
            self._buckets.setdefault(point[0] // self._width, _Bucket()).add(point)

    def _forget_from(self, step: int) -> None:
        earlier = [point for point in self.points() if point[0] < step]
        self._first = earlier[0] if earlier else None
        self._last = earlier[-1] if earlier else None
        self._fill(earlier)


class _Bucket:
    """The lowest and the highest point of neighbouring steps, and the first non-finite one."""

    __slots__ = ("gap", "high", "low")

    def __init__(self) -> None:
        self.low: Point | None = None
        self.high: Point | None = None
        self.gap: Point | None = None

    def add(self, point: Point) -> None:
        if not math.isfinite(point[1]):
            self.gap = self.gap or point
            return
        if self.low is None or point[1] < self.low[1]:
            self.low = point
        if self.high is None or point[1] > self.high[1]:
            self.high = point

    def points(self) -> Iterator[Point]:
        return (point for point in (self.low, self.high, self.gap) if point is not None)


MOST_FOLLOWED = 200
"""Number of runs whose read position in the metrics is cached; each takes about 0.1 MB."""

_RECENT_STEPS = 10  # the median of these is the step time
_RECENT_REPORTS = 40  # download reports, about 20 s; their mean is the download speed

PHASE_LABELS = {
    "": "queued",
    "start": "starting",
    "download": "downloading",
    "wait": "waiting for the device",
    "load": "loading",
    "train": "training",
    "evaluate": "evaluating",
    "save": "saving",
    ANSWERING: "measuring answering",
}


@dataclass(frozen=True)
class Download:
    """The base model's download: `done` of `total` bytes, and the estimated remaining seconds.

    `eta_seconds` is `None` if no bytes arrived recently.
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
    """One run's progress: `fraction` in [0, 1], `eta_seconds` until it ends (`None`: unknown).

    `losses` are (step, nats per token), reduced to a bounded number by `ThinCurve`. `download` is
    set while the base model is downloaded; `fraction` and `eta_seconds` do not include it.
    `step_seconds` is the time of a step lately; `None` before the first one.
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
    step_seconds: float | None = None

    @property
    def label(self) -> str:
        return PHASE_LABELS.get(self.phase, self.phase)

    @property
    def left_seconds(self) -> float | None:
        """Seconds until the download ends if there is one, else until the run ends."""
        return self.eta_seconds if self.download is None else self.download.eta_seconds


@dataclass(frozen=True)
class Later:
    """How long the phases after training are expected to take, in seconds; `None`: unknown.

    `pace` is what the sweep's ended runs took, over what was expected of them.
    """

    evaluation: float | None = None
    answering: float | None = None
    pace: float = 1.0


def later_phases(result: RunResult) -> Later:
    """How long they took in a run that ended."""
    took = {name: phase.seconds for name, phase in result.phases.items()}
    return Later(took.get("evaluate"), took.get(ANSWERING))


def later_of(runs: Sequence[Run]) -> Later:
    """The longest of what they took in runs of one sweep that ended, and the pace of these."""
    ended = [later_phases(run.result) for run in runs if run.result is not None]
    return Later(
        max((one.evaluation for one in ended if one.evaluation is not None), default=None),
        max((one.answering for one in ended if one.answering is not None), default=None),
        pace_of(runs),
    )


def pace_of(runs: Iterable[Run]) -> float:
    """Measured over expected seconds of the runs that are done; 1 if none has both."""
    both = [
        (took, expected)
        for run in runs
        if run.status == "done" and run.result is not None and not run.spec.is_base
        if (took := run.result.measures.total_seconds)
        if (expected := run.result.measures.predicted_total_seconds)
    ]
    if not both:
        return 1.0
    return sum(took for took, _ in both) / sum(expected for _, expected in both)


def read_progress(run: Run, later: Later = Later()) -> Progress:
    """The run's progress; `later` is that of a similar run."""
    return ProgressBook().read(run, later)


def resumed_seconds(run: Run, later: Later = Later()) -> float | None:
    """Seconds that a run which ended early takes from its newest checkpoint until its end.

    The steps after the checkpoint are taken at the run's own pace; what comes before and after
    them is as in `later`, or else as it was expected; a start that was not predicted counts as
    nothing. `None` if the pace, or the time of scoring, is not known.
    """
    checkpoint, way = newest_checkpoint(run.directory), read_progress(run)
    expected = read_expected(run.directory)
    evaluation = later.evaluation
    if evaluation is None and expected is not None:
        evaluation = later.pace * expected.evaluate
    answering = later.answering if run.spec.settings.measure_answering else 0.0
    if checkpoint is None or way.step_seconds is None or evaluation is None or answering is None:
        return None
    start = later.pace * expected.other if expected is not None else 0.0
    return start + way.step_seconds * (way.steps - checkpoint.step) + evaluation + answering


class ProgressBook:
    """Caches how far each run's metrics were read, for a page that polls every two seconds."""

    def __init__(self, most: int = MOST_FOLLOWED) -> None:
        self._followed: Recent[Path, tuple[MetricsTail, _Way]] = Recent(most)
        self._turn = threading.Lock()

    def read(self, run: Run, later: Later = Later()) -> Progress:
        """Like `read_progress`, but parses only the lines appended since the last call."""
        path = run.directory.metrics_file
        with self._turn:
            tail, way = self._followed.get(path) or (MetricsTail(path), _Way())
            if tail.was_replaced():
                tail, way = MetricsTail(path), _Way()
            tail.read_into(way)
            if run.is_open and way.expected is None:  # a launch writes it after the spec
                way.expected = read_expected(run.directory)
            self._followed[path] = (tail, way)
            return way.progress(run, later)


class MetricsTail:
    """Reads an append-only JSON Lines file; an incomplete last line is read once it is complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._file_id: tuple[int, int] | None = None

    def was_replaced(self) -> bool:
        """Whether the file was replaced by another one, or has become shorter."""
        if self._file_id is None:
            return False
        try:
            stamp = self._path.stat()
        except OSError:
            return True
        return (stamp.st_dev, stamp.st_ino) != self._file_id or stamp.st_size < self._offset

    def read_into(self, way: _Way) -> None:
        """Passes every complete line since the last call to `way`."""
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
    """The state accumulated from the events so far, and what was expected of the run."""

    expected: Expected | None = None
    began: bool = False
    phase: str = ""
    step: int = 0
    loss: float | None = None
    elapsed: float = 0.0
    waited: float = 0.0  # elapsed time when the device was free and the model here
    evaluation_began: float | None = None
    evaluated: tuple[int, int, float] | None = None  # examples done, total, elapsed time
    answering_began: float | None = None
    answered: tuple[int, int, float] | None = None  # ways done, total, elapsed time
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))
    downloads: deque[tuple[float, int, int]] = field(  # elapsed time, bytes done, total
        default_factory=lambda: deque(maxlen=_RECENT_REPORTS)
    )
    curve: ThinCurve = field(default_factory=ThinCurve)

    def take(self, event: dict[str, Any]) -> None:
        self.began = True
        self.elapsed = float(event.get("elapsed") or 0.0)
        kind = event.get("event")
        if kind == "phase":
            if self.phase in ("wait", "download"):
                self.waited = self.elapsed
            self.phase = str(event.get("phase", ""))
            if self.phase == "evaluate" and self.evaluation_began is None:
                self.evaluation_began = self.elapsed
            elif self.phase == ANSWERING:
                self.answering_began = self.elapsed
            self.downloads.clear()
        elif kind == "step":
            self.step, self.loss = int(event["step"]), float(event["loss"])
            self.step_seconds.append(float(event.get("seconds") or 0.0))
            self.curve.add(self.step, self.loss)
        elif kind == "evaluate":
            self.evaluated = int(event["done"]), int(event["total"]), self.elapsed
        elif kind == ANSWERING:
            self.answered = int(event["done"]), int(event["total"]), self.elapsed
        elif kind == "download":
            self.downloads.append((self.elapsed, int(event["done"]), int(event["total"])))

    def progress(self, run: Run, later: Later) -> Progress:
        total = 0 if run.spec.is_base else run.spec.settings.steps
        answers = run.spec.settings.measure_answering and not run.spec.is_base
        return Progress(
            phase=self.phase or ("start" if self.began else ""),
            step=self.step,
            steps=total,
            loss=self.loss,
            fraction=self._fraction(total, answers, finished=not run.is_open),
            elapsed_seconds=self.elapsed,
            eta_seconds=self._eta(run, total, answers, later) if run.is_open else 0.0,
            losses=self.curve.points(whole=not run.is_open),
            download=self._download() if run.status == "running" else None,
            step_seconds=statistics.median(self.step_seconds) if self.step_seconds else None,
        )

    def _download(self) -> Download | None:
        if self.phase != "download" or not self.downloads:
            return None
        first_at, first, _ = self.downloads[0]
        at, done, total = self.downloads[-1]
        rate = (done - first) / (at - first_at) if at > first_at else 0.0
        return Download(done, total, (total - done) / rate if rate > 0 else None)

    def _fraction(self, total: int, answers: bool, finished: bool) -> float:
        """Training is the first 80 %, evaluation the rest; a base run is evaluation only.

        Where answering is measured, it is the last quarter.
        """
        if finished:
            return 1.0
        evaluated = self.evaluated[0] / max(1, self.evaluated[1]) if self.evaluated else 0.0
        known = 0.8 * self.step / total + 0.2 * evaluated if total else evaluated
        answered = self.answered[0] / self.answered[1] if self.answered else 0.0
        return 0.75 * known + 0.25 * answered if answers else known

    def _eta(self, run: Run, total: int, answers: bool, later: Later) -> float | None:
        if self.answering_began is not None:
            left = _left(self.answering_began, self.answered)
            return later.answering if left is None else left
        answering = (later.answering or 0.0) if answers else 0.0
        left = _left(self.evaluation_began, self.evaluated)
        if left is not None:
            after = self.expected.between if self.expected is not None else 0.0
            return left + answering if left else after + answering
        evaluation = later.evaluation
        if evaluation is None and self.expected is not None:
            evaluation = later.pace * self.expected.evaluate
        if self.evaluation_began is not None or (self.step and self.step >= total):
            return None if evaluation is None else evaluation + answering
        if self.step_seconds:
            step_seconds = statistics.median(self.step_seconds)
            return step_seconds * (total - self.step) + (evaluation or 0.0) + answering
        if self.expected is not None:
            return self._expected_left(self.expected, later.pace) + answering
        return evaluation + answering if run.spec.is_base and evaluation is not None else None

    def _expected_left(self, expected: Expected, pace: float) -> float:
        """Seconds left of a run that has not measured its own pace: at least those of its phases.

        Waiting for the device is not the run's own time.
        """
        if not self.began:
            return pace * expected.total + expected.between
        begun = 0.0 if self.phase in ("wait", "download") else self.elapsed - self.waited
        return max(pace * (expected.train + expected.evaluate), pace * expected.total - begun)


def _left(began: float | None, counted: tuple[int, int, float] | None) -> float | None:
    """The seconds left of a phase, from what it has done (done, total, elapsed time)."""
    if began is None or counted is None:
        return None
    done, total, at = counted
    return max(0.1, at - began) * (total / max(1, done) - 1)


def progress_of(runs: Sequence[Run], book: ProgressBook) -> list[Progress]:
    """Returns every run's progress; later phases are assumed to take as long as in ended runs."""
    later = later_of(runs)
    return [book.read(run, later) for run in runs]


def sweep_eta(runs: Sequence[Run], progress: Sequence[Progress]) -> float | None:
    """Seconds until the sweep's last run ends, estimated from finished runs; `None`: unknown.

    The runs are taken to have all their devices to themselves.
    """
    left = seconds_left(runs, progress)
    return None if left is None else max(busy_seconds(left).values(), default=0.0)


def seconds_left(
    runs: Sequence[Run], progress: Sequence[Progress]
) -> list[tuple[Run, float]] | None:
    """The seconds left of each open run of a sweep; `None` if those of one are not known."""
    ended = [
        run.result.measures.total_seconds + (later_phases(run.result).answering or 0.0)
        for run in runs
        if run.result is not None and run.result.measures.total_seconds and not run.spec.is_base
    ]
    found = []
    for run, way in zip(runs, progress, strict=True):
        if not run.is_open:
            continue
        left = way.eta_seconds
        if left is None and ended:
            left = statistics.mean(ended)
        if way.download is not None and left is not None:
            before = way.download.eta_seconds
            left = None if before is None else left + before
        if left is None:
            return None
        found.append((run, left))
    return found


def busy_seconds(left: Sequence[tuple[Run, float]]) -> dict[str, float]:
    """Seconds until each device has done its part of the open runs, of which `left` says what is
    left: a run that has a device goes on there, the others begin as in `seconds_together`."""
    busy: dict[str, float] = {}
    for run, seconds in sorted(left, key=lambda one: (one[0].status != "running", -one[1])):
        may_use = (run.spec.device,) if run.status == "running" else run.spec.may_use
        _begin_on_the_first_free(seconds, may_use, busy)
    return busy


def seconds_together(seconds: Iterable[float], devices: int = 1) -> float:
    """Seconds until runs have ended that take so long each and share like devices: the longest
    first, each on the next device that is free, as the dispatcher starts them."""
    busy: dict[int, float] = {}
    for one in sorted(seconds, reverse=True):
        _begin_on_the_first_free(one, range(devices), busy)
    return max(busy.values(), default=0.0)


def _begin_on_the_first_free(
    seconds: float, may_use: Iterable[Place], busy: dict[Place, float]
) -> None:
    place = min(may_use, key=lambda one: busy.get(one, 0.0))
    busy[place] = busy.get(place, 0.0) + seconds
