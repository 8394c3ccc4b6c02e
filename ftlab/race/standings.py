"""How a race stands: each candidate's last loss and whether it goes on; read from its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ftlab.race.record import RaceDirectory, RaceRequest, RaceResult
from ftlab.records.job import JobStatus
from ftlab.records.result import OPEN

Place = Literal["in the final", "in the race", "to come", "left"]
PLACES: tuple[Place, ...] = ("in the final", "in the race", "to come", "left")
"""In the order in which they are shown."""


@dataclass(frozen=True)
class Standing:
    """A candidate: its losses on the tuning examples as (step, nats per token), and why it left
    ("" if it did not)."""

    label: str
    method: str
    place: Place = "to come"
    losses: tuple[tuple[int, float], ...] = ()
    reason: str = ""

    @property
    def step(self) -> int:
        """Of the last loss; 0 without one."""
        return self.losses[-1][0] if self.losses else 0

    @property
    def loss(self) -> float | None:
        return self.losses[-1][1] if self.losses else None


@dataclass(frozen=True)
class RaceView:
    """What a page or a terminal shows of a race.

    `elapsed` and `seconds` are of its time, without those in which it was cut off. `scored` seeds
    of the finalists were begun. `result` is `None` until it has ended.
    """

    race_id: str
    status: JobStatus
    standings: tuple[Standing, ...]
    elapsed: float
    seconds: float
    rung: int
    scored: int
    notes: tuple[str, ...]
    result: RaceResult | None
    others: tuple[Standing, ...] = ()
    """Methods that took no part."""
    base_loss: float | None = None
    """The untouched model's loss on the tuning examples; `None` if it is not known yet."""

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    def at(self, place: Place) -> list[Standing]:
        return [one for one in self.standings if one.place == place]


def view_race(race: RaceDirectory, now: float) -> RaceView:
    """Reads the race's files; `now` is in seconds since the epoch.

    Raises `FtlabError` if its request cannot be read.
    """
    request, events, status = race.request(), race.events(), race.status()
    standings, others = _standings(request, events)
    result = race.result()
    elapsed = _elapsed(events, now if status in OPEN else None, request.seconds)
    return RaceView(
        race.race_id,
        status,
        standings,
        result.seconds if result is not None and result.seconds else elapsed,
        request.seconds,
        next((int(event["step"]) for event in reversed(events) if event.get("event") == "rung"), 0),
        len({event["seed"] for event in events if event.get("event") == "final"}),
        tuple(str(event["sentence"]) for event in events if event.get("event") == "note"),
        result,
        others,
        next((event["loss"] for event in events if event.get("event") == "base"), None),
    )


def _standings(
    request: RaceRequest, events: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Standing, ...], tuple[Standing, ...]]:
    """The candidates, those that are ahead first; and the methods that took no part."""
    found = {
        variant.label: Standing(variant.label, variant.method)
        for variant in request.request.variants
    }
    others = []
    for event in events:
        kind, label = event.get("event"), str(event.get("label", ""))
        if kind == "left" and label not in found:
            others.append(Standing(label, "", "left", reason=str(event["reason"])))
        elif kind == "reading":
            losses = found[label].losses
            if event["loss"] is not None:
                losses = (*losses, (int(event["step"]), float(event["loss"])))
            found[label] = replace(
                found[label], place="in the race", losses=losses, reason=event["reason"]
            )
        elif kind == "left":
            found[label] = replace(found[label], place="left", reason=str(event["reason"]))
        elif kind == "no_time":
            for one in event["labels"]:
                reason = f"there was no time to train it to step {event['step']}"
                found[one] = replace(found[one], place="left", reason=reason)
        elif kind == "final":
            for one in event["finalists"]:
                found[one] = replace(found[one], place="in the final", reason="")
    order = sorted(found.values(), key=_ahead)
    return tuple(order), tuple(others)


def _ahead(one: Standing) -> tuple[int, int, bool, float]:
    return PLACES.index(one.place), -one.step, one.loss is None, one.loss or 0.0


def _elapsed(events: Sequence[Mapping[str, Any]], now: float | None, most: float) -> float:
    """Seconds of the race: those at its last report, and those since then while it is open."""
    elapsed = next((float(one["elapsed"]) for one in reversed(events) if "elapsed" in one), 0.0)
    if now is None or not any(event.get("event") == "start" for event in events):
        return min(most, elapsed)
    # While it was cut off its clock stood still.
    signs = [one for one in events if "elapsed" in one or one.get("event") in ("start", "again")]
    since = max(0.0, now - max(float(one["at"]) for one in signs))
    return min(most, elapsed + since)
