"""How far an open run is, read from its metrics."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.runs.store import Run

PHASE_LABELS = {
    "": "queued",
    "start": "starting",
    "wait": "waiting for the device",
    "load": "loading",
    "train": "training",
    "evaluate": "evaluating",
    "save": "saving",
}


@dataclass(frozen=True)
class Progress:
    """One run's way: `fraction` in [0, 1], `eta_seconds` until it ends (`None`: not known yet)."""

    phase: str
    step: int
    steps: int
    loss: float | None
    fraction: float
    elapsed_seconds: float
    eta_seconds: float | None
    losses: tuple[tuple[int, float], ...]

    @property
    def label(self) -> str:
        return PHASE_LABELS.get(self.phase, self.phase)


def read_progress(run: Run, evaluation_seconds: float | None = None) -> Progress:
    """The run's way so far; `evaluation_seconds` is what evaluation took in a like run."""
    try:
        events = run.directory.metrics()
    except OSError:  # the others of the sweep are shown all the same
        events = []
    steps = [event for event in events if event.get("event") == "step"]
    total = 0 if run.spec.is_base else run.spec.settings.steps
    phase = _phase(events)
    done = int(steps[-1]["step"]) if steps else 0
    evaluated = _evaluated(events)
    fraction = _fraction(done, total, phase, evaluated, finished=not run.is_open)
    return Progress(
        phase=phase,
        step=done,
        steps=total,
        loss=float(steps[-1]["loss"]) if steps else None,
        fraction=fraction,
        elapsed_seconds=float(events[-1].get("elapsed", 0.0)) if events else 0.0,
        eta_seconds=_eta(run, events, steps, total, evaluation_seconds) if run.is_open else 0.0,
        losses=tuple((int(event["step"]), float(event["loss"])) for event in steps),
    )


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
        if way.eta_seconds is not None:
            remaining += way.eta_seconds
        elif ended:
            remaining += statistics.mean(ended)
        else:
            return None
    return remaining


def _phase(events: Sequence[dict[str, Any]]) -> str:
    phases = [str(event.get("phase", "")) for event in events if event.get("event") == "phase"]
    return phases[-1] if phases else "start" if events else ""


def _evaluated(events: Sequence[dict[str, Any]]) -> float:
    marks = [event for event in events if event.get("event") == "evaluate"]
    return marks[-1]["done"] / marks[-1]["total"] if marks else 0.0


def _fraction(done: int, total: int, phase: str, evaluated: float, finished: bool) -> float:
    """Training fills the first 80 %, evaluation the rest; a base run is evaluation alone."""
    if finished or phase == "save":
        return 1.0
    if total == 0:
        return evaluated
    return 0.8 * done / total + 0.2 * evaluated


def _eta(
    run: Run,
    events: Sequence[dict[str, Any]],
    steps: Sequence[dict[str, Any]],
    total: int,
    evaluation_seconds: float | None,
) -> float | None:
    evaluation = evaluation_seconds
    marks = [event for event in events if event.get("event") == "evaluate"]
    if marks:
        phases = (event for event in events if event.get("phase") == "evaluate")
        began = float(next(phases, marks[0]).get("elapsed", 0.0))  # its line may be damaged
        spent = max(0.1, marks[-1]["elapsed"] - began)
        return float(spent * (marks[-1]["total"] / max(1, marks[-1]["done"]) - 1))
    if run.spec.is_base or (steps and len(steps) >= total):
        return evaluation
    if not steps:
        return None
    step_seconds = statistics.median(event.get("seconds") or 0.0 for event in steps[-10:])
    return float(step_seconds * (total - len(steps)) + (evaluation or 0.0))
