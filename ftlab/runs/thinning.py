"""A curve of any length as a bounded number of its own points, so that every spike stays visible.

The steps are cut into buckets of equal width. Each keeps its lowest and its highest point, which is
what a line through all of them would fill on the screen. When there are too many buckets, each two
neighbours become one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

MOST_BUCKETS = 300
"""Twice as many points at most: about one a pixel of the page's figures."""

Point = tuple[int, float]


class ThinCurve:
    """Takes the points of a run one by one, in the order of its steps.

    The first and the last point are always kept. A step that comes again takes the place of the
    first one and of all after it: a run that was resumed did these steps anew.
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
            self._merge()

    def points(self, whole: bool = True) -> tuple[Point, ...]:
        """What is kept, by step: at most two points a bucket, one more for a gap, and both ends.

        Not `whole`: without the bucket that is still being filled, if it is wider than a step, so
        that what is drawn of a long run changes once a bucket and not at every step.
        """
        kept = {point[0]: point for bucket in self._buckets.values() for point in bucket.points()}
        for end in (self._first, self._last):
            if end is not None:
                kept[end[0]] = end
        last = max(self._buckets, default=0) * self._width
        until = math.inf if whole or self._width == 1 else max(1, last)
        return tuple(kept[step] for step in sorted(kept) if step < until)

    def _merge(self) -> None:
        self._width *= 2
        merged: dict[int, _Bucket] = {}
        for bucket in self._buckets.values():
            for step, value in bucket.points():
                merged.setdefault(step // self._width, _Bucket()).add((step, value))
        self._buckets = merged

    def _forget_from(self, step: int) -> None:
        earlier = [point for point in self.points() if point[0] < step]
        self._buckets = {}
        self._first = earlier[0] if earlier else None
        self._last = earlier[-1] if earlier else None
        for point in earlier:
            self._buckets.setdefault(point[0] // self._width, _Bucket()).add(point)


class _Bucket:
    """The lowest and the highest point of some neighbouring steps, and one that is no number."""

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
