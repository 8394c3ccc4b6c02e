"""How many examples are scored: what the settings ask for, and what the data have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftlab.errors import FtlabError
from ftlab.runs.spec import SweepRequest
from ftlab.settings.training import EVAL_SPLITS, TrainingSettings
from ftlab.tasks.spec import Example, TaskData
from ftlab.words import plural

if TYPE_CHECKING:
    from ftlab.runs.store import Run

SCORED = "scored_examples"
"""Where a run's environment says how many examples it scored."""

_OWNERS = {"bundled": "task", "file": "file", "hub": "data set"}


@dataclass(frozen=True)
class Scored:
    """`count` examples of the split are scored. `reason` says why it is not the number asked for;
    empty where it is."""

    count: int
    reason: str = ""


def measured_split(data: TaskData, settings: TrainingSettings) -> tuple[Example, ...]:
    """All examples of the split that the settings score."""
    return data.tuning if settings.eval_split == "tuning" else data.held_out


def scored_of(request: SweepRequest, data: TaskData, too_long: int = 0) -> Scored:
    """What a sweep will score; `too_long` of the examples asked for do not fit the length."""
    settings = request.settings
    split = EVAL_SPLITS[settings.eval_split]
    there = len(measured_split(data, settings))
    asked = settings.eval_examples
    reasons = []
    if there < asked:
        owner = _OWNERS[request.task.kind]
        reasons.append(f"the {owner} has {plural(there, f'{split} example')}, not {asked:,}")
    if too_long:
        of = plural(min(asked, there), f"{split} example")
        verb = "is" if too_long == 1 else "are"
        reasons.append(f"{too_long:,} of {of} {verb} longer than {settings.max_length:,} tokens")
    return Scored(min(asked, there) - too_long, ", and ".join(reasons))


def scored_words(scored: Scored) -> str:
    """As in "6 examples are scored: the file has 6 held-out examples, not 8."

    Empty where as many are scored as were asked for.
    """
    if not scored.reason:
        return ""
    verb = "is" if scored.count == 1 else "are"
    return f"{plural(scored.count, 'example')} {verb} scored: {scored.reason}."


def scored_by(run: Run) -> int | None:
    """How many examples the run scored; `None` of a run that did not come that far."""
    if run.result is None:
        return None
    known = run.result.environment.get(SCORED)
    if type(known) is int:
        return known
    if run.status != "done":
        return None
    asked = run.spec.settings.eval_examples
    # Older records say it in a note alone, and only where the data had fewer than were asked for.
    if not any("were scored, not" in note or "left out" in note for note in run.result.notes):
        return asked
    try:
        return len(run.directory.samples()) or asked
    except (OSError, FtlabError):
        return asked
