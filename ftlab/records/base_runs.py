"""Base runs: the untouched model, measured once per base precision, is every run's "before".

The first run of a sweep trains before its base run, so that its loss is seen early; where a sweep
has several devices, others train beside it. Until the base run has ended, such a run's result says
`WAITS`; `complete` then adds the numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftlab.records.differences import (
    PairedDifference,
    Row,
    mean_of,
    paired_difference,
    score_against_whole,
    why_score_fell,
)
from ftlab.records.result import OPEN, LineWriter, RunResult
from ftlab.records.run import RunDirectory, run_directories, write_json_lines
from ftlab.records.spec import RunSpec
from ftlab.settings.training import CURVE_EXAMPLES

GENERAL_TEXT_HASH = "general_text_hash"
"""The key in a run's environment for the hash of the unrelated text."""

WAITS = "The base run has not run yet; the numbers before training are added when it has."
GAVE_NOTHING = "The base run gave no numbers, so there is nothing to compare with."

_TAKEN = ("eval_loss_before", "score_before", "general_loss_before")


Ended = Mapping[str, RunResult]
"""Results of base runs that have ended and are not written yet, by run id."""

NOTHING: Ended = {}


@dataclass(frozen=True)
class Quality:
    """Fields of `Measures`, the rows of samples.jsonl, and notes on them."""

    measures: Mapping[str, Any]
    rows: Sequence[dict[str, Any]]
    notes: Sequence[str]


@dataclass(frozen=True)
class General:
    """The loss on unrelated text: of each passage in nats a token, its tokens, the text's hash."""

    losses: Sequence[float]
    tokens: Sequence[int]
    text: str


def against_base(
    spec: RunSpec,
    runs_folder: Path,
    rows: Sequence[dict[str, Any]],
    general: General,
    ended: Ended = NOTHING,
) -> Quality:
    """Returns what the run's base run adds: the "before", and the changes with their intervals.

    `rows` are those of the trained run. Without numbers of the base run they are returned as they
    are, with a note that says why. A run on a quantised base also waits for the sweep's base run
    that is not quantised, if there is one.
    """
    directory = RunDirectory(runs_folder / spec.base_run_id) if spec.base_run_id else None
    whole = None if spec.base_precision is None else _whole_base(spec, runs_folder)
    if any(one and one.run_id not in ended and _is_open(one) for one in (directory, whole)):
        return Quality({}, rows, (WAITS,))
    base = _done(directory, ended)
    if base is None:
        return Quality({}, rows, (GAVE_NOTHING,))
    result, before = base
    rows = [{**before.get(row["index"], {}), **row} for row in rows]
    measures: dict[str, float | None] = {key: getattr(result.measures, key) for key in _TAKEN}
    score, loss = _paired(rows, "score"), _paired(rows, "loss", [row["tokens"] for row in rows])
    unrelated = None
    if result.environment.get(GENERAL_TEXT_HASH) == general.text:
        unrelated = paired_difference(result.general_losses, general.losses, general.tokens)
    for key, change in (
        ("score_gain", score), ("loss_change", loss), ("general_loss_change", unrelated),
    ):  # fmt: skip
        measures |= change.measures(key) if change else {}
    notes = []
    if spec.base_precision is not None and all("score_after" in row for row in rows):
        notes.append(_against_whole(spec.base_precision, _done(whole, ended), rows))
    if score is not None and score.falls:
        notes.append(why_score_fell(score, loss, unrelated, rows, spec.learning_rate))
    return Quality(measures, rows, notes)


def untouched_point(
    spec: RunSpec, runs_folder: Path, tokens: Sequence[int], ended: Ended = NOTHING
) -> dict[str, Any]:
    """Returns the first point of a run's curve: the base run's numbers on the first test examples.

    `tokens` are those with loss of each of these examples. Without numbers it has no loss.
    """
    directory = RunDirectory(runs_folder / spec.base_run_id) if spec.base_run_id else None
    base = _done(directory, ended)
    rows = [base[1].get(index, {}) for index in range(len(tokens))] if base else []
    loss = mean_of([row.get("loss_before") for row in rows], tokens)
    return curve_event(0, loss, mean_of([row.get("score_before") for row in rows]))


def curve_event(step: int, loss: float | None, score: float | None) -> dict[str, Any]:
    """Returns a point as written to metrics.jsonl; step 0 is the untrained model."""
    is_finite = loss is not None and math.isfinite(loss)
    return {
        "event": "evaluation", "step": step, "loss": loss if is_finite else None, "score": score,
    }  # fmt: skip


def complete(base: RunDirectory, ended: RunResult | None = None) -> None:
    """Adds the numbers of an ended base run to the runs of its sweep that ended before it.

    `ended` is its result if it is not written yet: with the result of its last run a sweep has
    ended, and then all its numbers are there.
    """
    spec = base.spec()
    ending = NOTHING if ended is None else {spec.run_id: ended}
    for directory in run_directories(base.path.parent):
        if not directory.run_id.startswith(spec.sweep_id):
            continue
        result = directory.result()
        if result is not None and WAITS in result.notes:
            run = directory.spec()
            is_compared = run.base_precision is not None and spec.base_precision is None
            if run.base_run_id == spec.run_id or is_compared:
                _complete(directory, run, result, ending)


def settle(directory: RunDirectory) -> None:
    """Adds the numbers of a base run to runs of its sweep that ended at the same moment.

    To be called after a result was written: neither of two processes that write theirs at one time
    has seen that of the other.
    """
    spec, result = directory.spec(), directory.result()
    if spec.is_base:
        complete(directory)
    elif spec.base_run_id and result is not None and WAITS in result.notes:
        base = RunDirectory(directory.path.parent / spec.base_run_id)
        if base.result() is not None:
            complete(base)


def _complete(directory: RunDirectory, spec: RunSpec, result: RunResult, ended: Ended) -> None:
    folder, rows = directory.path.parent, directory.samples()
    general = General(
        result.general_losses,
        result.general_tokens,
        str(result.environment.get(GENERAL_TEXT_HASH)),
    )
    found = against_base(spec, folder, rows, general, ended)
    if WAITS in found.notes:
        return
    notes = [*found.notes, *(note for note in result.notes if note != WAITS)]
    write_json_lines(directory.samples_file, found.rows)
    directory.complete_result(
        replace(
            result,
            measures=replace(result.measures, **found.measures),
            notes=tuple(notes),
        )
    )
    if spec.settings.eval_every:
        tokens = [row["tokens"] for row in rows[:CURVE_EXAMPLES]]
        point = untouched_point(spec, folder, tokens, ended)
        if point["loss"] is not None and not _has_untouched_point(directory):
            with LineWriter(directory.metrics_file) as metrics:
                metrics.append(point | {"at": round(time.time(), 3), "elapsed": 0.0})


def _has_untouched_point(directory: RunDirectory) -> bool:
    """Whether the first point of the run's curve has a loss already."""
    return any(
        event.get("event") == "evaluation" and event.get("step") == 0 and event.get("loss")
        for event in directory.metrics()
    )


def _is_open(directory: RunDirectory) -> bool:
    return directory.spec_file.exists() and directory.status() in OPEN


def _done(directory: RunDirectory | None, ended: Ended) -> tuple[RunResult, dict[int, Row]] | None:
    """Returns a base run's result and its samples by index; `None` unless it is done."""
    if directory is None:
        return None
    result = ended.get(directory.run_id) or directory.result()
    if result is None or result.status != "done":
        return None
    return result, {row["index"]: row for row in directory.samples()}


def _paired(
    rows: Sequence[Row], what: str, tokens: Sequence[int] | None = None
) -> PairedDifference | None:
    before = [row.get(f"{what}_before") for row in rows]
    return paired_difference(before, [row.get(f"{what}_after") for row in rows], tokens)


def _against_whole(
    precision: str,
    whole: tuple[RunResult, dict[int, Row]] | None,
    own: Sequence[Row],
) -> str:
    """Returns a sentence that compares a run on a quantised base with the unquantised base."""
    rows = whole[1] if whole else {}
    before = [rows.get(row["index"], {}).get("score_before") for row in own]
    after = [row["score_after"] for row in own]
    return score_against_whole(precision, paired_difference(before, after))


def _whole_base(spec: RunSpec, runs_folder: Path) -> RunDirectory | None:
    """Returns the sweep's base run that is not quantised; `None` if there is none."""
    for directory in run_directories(runs_folder):
        if directory.run_id.startswith(spec.sweep_id):
            other = directory.spec()
            if other.sweep_id == spec.sweep_id and other.is_base and not other.base_precision:
                return directory
    return None
