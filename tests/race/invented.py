"""A race whose curves are invented: what each candidate's loss is, and what its steps take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftlab.methods.variant import Variant, parse_variant
from ftlab.race.conduct import Conductor, rungs
from ftlab.race.record import RaceRequest, RaceSettings
from ftlab.race.runner import Reading
from ftlab.records.recommendation import Preference
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings

EXAMPLES = 32


def race_request(
    *variants: str,
    defaults: int | None = None,
    minutes: float = 10.0,
    prefer: Preference = "score",
    **settings: Any,
) -> RaceRequest:
    parsed: tuple[Variant, ...] = tuple(map(parse_variant, variants))
    return RaceRequest(
        SweepRequest(variants=parsed, settings=TrainingSettings(**settings), seeds=(0, 1, 2)),
        RaceSettings(minutes, prefer),
        tuple(range(len(parsed) if defaults is None else defaults)),
    )


@dataclass
class InventedRunner:
    """Each candidate's loss is `loss(candidate, step)`, `None` if it diverges."""

    loss: Callable[[int, int], float | None]
    step_seconds: Callable[[int], float] = lambda candidate: 1.0
    score_seconds: float = 20.0
    costs: Callable[[int], dict[str, float]] = lambda candidate: {}
    base_loss: float | None = 3.0
    elapsed: float = 0.0
    trained: list[tuple[int, int]] = field(default_factory=list)
    scored: list[tuple[tuple[int, ...], int]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    is_kept: bool = False
    completed: dict[int, float] = field(default_factory=dict)

    def train(self, candidates: Sequence[int], step: int, until: float) -> Iterator[Reading]:
        for candidate in candidates:
            took = step * self.step_seconds(candidate)
            if self.elapsed + took > until:
                self.elapsed = max(self.elapsed, until)
                return
            self.elapsed += took
            self.trained.append((candidate, step))
            loss = self.loss(candidate, step)
            if loss is None:
                yield Reading(candidate, reason="The loss is not a number at step 2.")
                continue
            each = tuple(loss + 0.01 * (place % 5) for place in range(EXAMPLES))
            yield Reading(
                candidate, loss, each, (1.0,) * EXAMPLES, self.costs(candidate),
                is_kept=self.is_kept,
            )  # fmt: skip

    def score(self, candidates: Sequence[int], seed: int, until: float) -> bool:
        took = self.score_seconds * len(candidates)
        if self.elapsed + took > until:
            self.elapsed = max(self.elapsed, until)
            return False
        self.elapsed += took
        self.scored.append((tuple(candidates), seed))
        return True

    def leave(self, candidate: int) -> None:
        self.left.append(candidate)


class KeepBest:
    """A decider that keeps the best third, and gives what it completed to `completed`."""

    def __init__(self, completed: dict[int, float]) -> None:
        self._completed = completed

    def decide(self, step: int, values: Any) -> list[int]:
        known = sorted((value, one) for one, value in values.items() if value is not None)
        return [one for _, one in known[: max(1, len(known) // 3)]]

    def finish(self, values: Any) -> None:
        self._completed |= values


def conducted(
    request: RaceRequest, runner: InventedRunner
) -> tuple[Conductor, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    steps = rungs(request.request.settings.steps)
    conductor = Conductor(request, steps, runner, KeepBest(runner.completed), events.append)
    conductor.run()
    return conductor, events
