"""Which learning rate of a ladder to take, and whether to look further.

The rule: of the rates whose runs are all done, the lowest mean loss on the tuning split after the
last step. Every rate within noise of it is as good, and the smallest of them is taken: a smaller
rate is the safer one in a longer run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ftlab.runs.result import Status
from ftlab.runs.statistics import paired_interval
from ftlab.tuning.ladder import beyond
from ftlab.words import join_names, rate_name

NOISE = 0.01
"""Share of the lowest loss within which another loss is no worse, whatever the examples say."""

EXTENSIONS = 2
"""A ladder whose suggestion lies at its end goes on by one rate, so many times at most."""


@dataclass(frozen=True)
class Point:
    """One rate. `losses` are in nats a token, one a seed; `examples` each example's own, means of
    the seeds. `status` is "done" where every seed's run is, else the worst of them."""

    rate: float
    status: Status = "done"
    losses: tuple[float, ...] = ()
    examples: tuple[float, ...] = ()

    @property
    def loss(self) -> float | None:
        """The mean of the seeds; `None` where a run is not done."""
        return fmean(self.losses) if self.status == "done" and self.losses else None


@dataclass(frozen=True)
class Suggestion:
    """`rate` is `None` where no rate can be suggested; `reason` says why in a sentence."""

    rate: float | None
    reason: str


def suggest(points: Sequence[Point]) -> Suggestion:
    """The rate to take of a sorted ladder."""
    done = [point for point in points if point.loss is not None]
    if not done:
        return Suggestion(None, _nothing(points))
    best = min(done, key=_loss)
    alike = [point for point in done if point is best or _within_noise(point, best)]
    chosen = min(alike, key=lambda point: point.rate)
    reason = f"{rate_name(best.rate)} has the lowest loss, {_loss(best):.3f}."
    if chosen is not best:
        names = join_names([rate_name(point.rate) for point in alike])
        reason = (
            f"{names} lie within noise ({_loss(chosen):.3f} against {_loss(best):.3f}): "
            "the smallest is taken."
        )
    end = _end(points, chosen.rate)
    if end:
        reason += f" It is the {end} of the ladder: a {end[:-3]}er rate may do better."
    return Suggestion(chosen.rate, reason)


def extension(points: Sequence[Point]) -> float | None:
    """The rate to try next: beyond the end at which the suggestion lies, or below rates that all
    diverged; `None` where there is no need."""
    rates = [point.rate for point in points]
    rate = suggest(points).rate
    if rate is None:
        diverged = bool(points) and all(point.status == "diverged" for point in points)
        return beyond(rates, up=False) if diverged else None
    end = _end(points, rate)
    return beyond(rates, up=end == "highest") if end else None


def _end(points: Sequence[Point], rate: float) -> str:
    """ "lowest" or "highest" where the rate is that of the ladder, "" inside it."""
    if rate == points[0].rate:
        return "lowest"
    return "highest" if rate == points[-1].rate else ""


def _within_noise(point: Point, best: Point) -> bool:
    """Whether the loss is too close to the best to be called worse.

    Too close: by `NOISE`, or the 95 % interval of the difference, a bootstrap paired by example,
    holds zero.
    """
    if _loss(point) - _loss(best) <= NOISE * _loss(best):
        return True
    if len(point.examples) != len(best.examples) or len(best.examples) < 2:
        return False
    return paired_interval(best.examples, point.examples)[1] <= 0


def _loss(point: Point) -> float:
    assert point.loss is not None
    return point.loss


def _nothing(points: Sequence[Point]) -> str:
    statuses = {point.status for point in points}
    if statuses == {"diverged"}:
        return f"Every run diverged, also at {rate_name(points[0].rate)}; try lower rates."
    if statuses == {"not_applicable"}:
        return "The method is not applicable to this model."
    return "No rate has all of its runs done; see the reasons of the runs."
