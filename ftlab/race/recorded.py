"""An exhaustive sweep, recorded so that races can be replayed against it without training.

Every candidate is trained to both rungs, as in a race that drops nobody, and then as a finalist
with the first seed; the few with the best scores with all seeds. One JSON file a task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ftlab.basics.files import write_atomically
from ftlab.methods.variant import Variant


@dataclass(frozen=True)
class RecordedReading:
    """A candidate at a rung: losses of each tuning example in nats per token, and `seconds` since
    the rung before. `losses` is empty if it has none; `reason` says why."""

    candidate: int
    step: int
    seconds: float
    losses: tuple[float, ...] = ()
    tokens: tuple[float, ...] = ()
    costs: dict[str, float] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class RecordedScore:
    """A candidate trained as a finalist: the score of each test example, in [0, 1]."""

    candidate: int
    seed: int
    seconds: float
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Recording:
    """One task. `base_loss` is the untouched model's on the tuning examples. `environment` has
    machine and versions."""

    task: str
    steps: int
    variants: tuple[Variant, ...]
    defaults: tuple[int, ...]
    base_loss: float | None
    readings: tuple[RecordedReading, ...]
    scores: tuple[RecordedScore, ...]
    environment: dict[str, Any]

    @property
    def seconds(self) -> float:
        """What the sweep takes: every candidate as a finalist, and the best with all seeds."""
        return sum(one.seconds for one in self.scores)


_RECORDING: TypeAdapter[Recording] = TypeAdapter(Recording)


def write_recording(recording: Recording, path: Path) -> None:
    write_atomically(path, _RECORDING.dump_json(recording))


def read_recording(path: Path) -> Recording:
    return _RECORDING.validate_json(path.read_bytes())
