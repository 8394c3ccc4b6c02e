"""What an evaluation gives: samples, numbers before and after, and how sure the changes are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.runs.differences import PairedDifference, paired_difference
from ftlab.runs.directory import RunDirectory, run_directories
from ftlab.runs.quality import Row, mean_of, score_against_whole, why_score_fell
from ftlab.runs.result import RunResult
from ftlab.runs.spec import RunSpec
from ftlab.tasks.formatting import EncodedSet
from ftlab.tasks.spec import TaskSpec
from ftlab.training.curve import curve_event
from ftlab.training.evaluation import Evaluation

GENERAL_TEXT_HASH = "general_text_hash"
"""Where a run's environment says which unrelated text its loss is of."""


@dataclass(frozen=True)
class Quality:
    """Fields of `Measures`, the rows of samples.jsonl, and sentences on them."""

    measures: Mapping[str, float | None]
    rows: Sequence[dict[str, Any]]
    notes: Sequence[str]


def base_quality(held_out: EncodedSet, evaluation: Evaluation, task: TaskSpec) -> Quality:
    """Of a base run, which is the "before" of every other run."""
    measures = {
        "eval_loss_before": evaluation.loss,
        "score_before": evaluation.score,
        "general_loss_before": evaluation.general_loss,
    }
    return Quality(measures, _rows("before", held_out, evaluation, task), ())


def run_quality(
    spec: RunSpec,
    runs_folder: Path,
    general_text: str,
    held_out: EncodedSet,
    passage_tokens: Sequence[int],
    evaluation: Evaluation,
    task: TaskSpec,
) -> Quality:
    """Of any other run, with its sweep's base run in the same precision as "before".

    `general_text` is the hash of the text that the passages are of, `passage_tokens` the number of
    tokens with loss in each.
    """
    measures: dict[str, float | None] = {
        "eval_loss_after": evaluation.loss,
        "score_after": evaluation.score,
        "general_loss_after": evaluation.general_loss,
    }
    own = _rows("after", held_out, evaluation, task)
    base = _base_of(RunDirectory(runs_folder / str(spec.base_run_id)) if spec.base_run_id else None)
    if base is None:
        sentence = "The base run gave no numbers, so there is nothing to compare with."
        return Quality(measures, own, (sentence,))
    result, before = base
    rows = [{**_kept(before.get(row["index"], {}), row), **row} for row in own]
    measures |= {
        key: getattr(result.measures, key)
        for key in ("eval_loss_before", "score_before", "general_loss_before")
    }
    tokens = [len(example.completion_ids) for example in held_out.formatted]
    score = _paired(rows, "score")
    loss = _paired(rows, "loss", tokens)
    general = None
    if result.environment.get(GENERAL_TEXT_HASH) == general_text:
        general = paired_difference(
            result.general_losses, evaluation.general_losses, passage_tokens
        )
    for key, change in (
        ("score_gain", score), ("loss_change", loss), ("general_loss_change", general),
    ):  # fmt: skip
        measures |= change.measures(key) if change else {}
    notes = []
    if spec.base_precision is not None and evaluation.scores:
        notes.append(_against_whole(spec, runs_folder, evaluation))
    if score is not None and score.falls:
        notes.append(why_score_fell(score, loss, general, rows, spec.learning_rate))
    return Quality(measures, rows, notes)


def report_untouched(
    spec: RunSpec,
    runs_folder: Path,
    some: EncodedSet,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Reports where the curve over the steps begins: the base run's numbers on those examples."""
    base = _base_of(RunDirectory(runs_folder / str(spec.base_run_id)) if spec.base_run_id else None)
    rows = [base[1].get(index, {}) for index in range(len(some.examples))] if base else []
    losses = [row.get("loss_before") for row in rows]
    scores = [row.get("score_before") for row in rows]
    tokens = [len(example.completion_ids) for example in some.formatted]
    loss, score = mean_of(losses, tokens), mean_of(scores)
    if loss is not None:
        report(curve_event(0, loss, score))


def _against_whole(spec: RunSpec, runs_folder: Path, evaluation: Evaluation) -> str:
    """How a run over a quantised base stands against the base that is not."""
    assert spec.base_precision is not None
    whole = _base_of(_whole_base(spec, runs_folder))
    rows = whole[1] if whole else {}
    before = [rows.get(index, {}).get("score_before") for index in range(len(evaluation.scores))]
    return score_against_whole(spec.base_precision, paired_difference(before, evaluation.scores))


def _rows(
    when: str, held_out: EncodedSet, evaluation: Evaluation, task: TaskSpec
) -> list[dict[str, Any]]:
    rows = []
    for index, example in enumerate(held_out.examples):
        row: dict[str, Any] = {
            "index": index,
            "prompt": [{"role": m.role, "content": m.content} for m in example.prompt],
            "reference": example.completion,
            f"loss_{when}": evaluation.losses[index],
        }
        if evaluation.answers:
            answer = evaluation.answers[index]
            row |= {
                f"answer_{when}": answer,
                f"score_{when}": evaluation.scores[index],
                f"verdict_{when}": task.metric.describe(example, answer),
            }
        rows.append(row)
    return rows


def _kept(before: Row, row: Row) -> dict[str, Any]:
    """What the base run's row has and the run's own has not."""
    return {key: value for key, value in before.items() if key not in row}


def _paired(
    rows: Sequence[Row], what: str, tokens: Sequence[int] | None = None
) -> PairedDifference | None:
    before = [row.get(f"{what}_before") for row in rows]
    return paired_difference(before, [row.get(f"{what}_after") for row in rows], tokens)


def _base_of(directory: RunDirectory | None) -> tuple[RunResult, dict[int, Row]] | None:
    """A base run's result and its samples by index; `None` unless it is done."""
    result = directory.result() if directory else None
    if directory is None or result is None or result.status != "done":
        return None
    return result, {row["index"]: row for row in directory.samples()}


def _whole_base(spec: RunSpec, runs_folder: Path) -> RunDirectory | None:
    """The sweep's base run that is not quantised; `None` if it has none."""
    for directory in run_directories(runs_folder):
        if directory.run_id.startswith(spec.sweep_id):
            other = directory.spec()
            if other.sweep_id == spec.sweep_id and other.is_base and not other.base_precision:
                return directory
    return None
