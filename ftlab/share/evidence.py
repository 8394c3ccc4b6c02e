"""The evidence sheet of a method: the report of its comparison, with what its proof found before.

That is what it can do, what was predicted and measured, its ladder of learning rates, and how it
stands against LoRA and full fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pandas as pd
from markupsafe import Markup

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import join_names, rate_name
from ftlab.charts.facts import VariantRuns, by_variant
from ftlab.charts.pareto import pareto_front
from ftlab.charts.points import quality_measure
from ftlab.jobs.tuning import Tuned
from ftlab.methods.capabilities import COLUMNS, MARKS, Capability, answer
from ftlab.records.differences import Difference, differences_of
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.result import STATUS_LABELS
from ftlab.records.store import SweepData
from ftlab.share.page import numbers_table, small_print
from ftlab.share.peft_results import peft_result
from ftlab.share.report import sweep_report
from ftlab.share.report_sections import ended_words, pairs_table, value_text

_QUALITY = ("score_after", "eval_loss_after", "general_loss_change")
_COSTS = ("trainable_params", "net_peak_memory_bytes", "train_seconds", "adapter_bytes")
COMPARED = (*_QUALITY, *_COSTS)
"""The measures of the first table."""

_PREDICTED = (
    ("predicted_net_peak_bytes", "net_peak_memory_bytes", units.format_bytes),
    ("predicted_total_seconds", "total_seconds", units.format_seconds),
)
_VERDICTS = {
    "better": "better",
    "worse": "worse",
    "even": "no difference shown",
    "unknown": "not known",
}


@dataclass(frozen=True)
class Evidence:
    """What a proof found. `method` is the label of the method in the sweep `data`.

    `tuned` are the ladders, that of the method first; `notes` say how LoRA was matched, and what
    is not compared.
    """

    method: str
    data: SweepData
    capability: Capability
    tuned: Sequence[Tuned]
    notes: Sequence[str]

    @property
    def others(self) -> list[str]:
        found = dict.fromkeys(str(name) for name in self.data.table["variant"])
        return [name for name in found if name != self.method]

    def against(self, other: str) -> list[Difference]:
        """The method compared with another one of its sweep, in each measure that both have."""
        found = (differences_of(self.data.table, key) for key in COMPARED)
        pairs = (one.between(self.method, other) for one in found)
        return [pair for pair in pairs if pair.runs and pair.other_runs]

    @property
    def front(self) -> str:
        """Whether the method is on the Pareto front of quality against memory, in a sentence."""
        table = self.data.table
        memory, quality = METRICS["net_peak_memory_bytes"], quality_measure(table)
        done = table[table["status"] == "done"].dropna(subset=[memory.key, quality.key])
        front = [group.variant for group in pareto_front(by_variant(done), memory, quality)]
        if not front:
            return ""
        words = f"{quality.name} against memory while training"
        if self.method in front:
            return f"By its means {self.method} is on the Pareto front of {words}."
        return (
            f"By its means {self.method} is not on the Pareto front of {words}; "
            f"there {'is' if len(front) == 1 else 'are'} {join_names(front)}."
        )


def check_proved(data: SweepData, method: str) -> None:
    """Raises `FtlabError` if no run of the method is done: a sheet would say nothing of it."""
    own = data.table[data.table["variant"] == method]
    if not (own["status"] == "done").any():
        raise FtlabError(f"No run of {method} is done. {' '.join(ended_words(own))}")


def evidence_page(evidence: Evidence) -> str:
    """The sheet as one HTML document. Raises `FtlabError` if no run of the comparison is done."""
    first = [
        _against_section(evidence),
        _abilities_section(evidence.capability),
        _predicted_section(evidence.data.table),
        _ladders_section(evidence.tuned),
    ]
    return sweep_report(evidence.data, evidence.method, first=first)


def evidence_record(evidence: Evidence) -> dict[str, Any]:
    """The sheet as JSON: a result of PEFT's `method_comparison` for the method's first seed.

    What that form has no place for stands under "ftlab": the runs of all seeds and methods in the
    same form, the differences, the probe and the ladders.
    """
    runs = [run for run in evidence.data.own_runs if run.status == "done"]
    own = next(run for run in runs if run.spec.label == evidence.method)
    return peft_result(own) | {
        "ftlab": {
            "runs": [peft_result(run) for run in runs],
            "against": {
                other: [
                    {
                        "measure": found.key,
                        "value": found.value,
                        "other": found.other,
                        "outcome": found.outcome,
                        "why": found.why,
                    }
                    for found in evidence.against(other)
                ]
                for other in evidence.others
            },
            "front": evidence.front,
            "notes": list(evidence.notes),
            "capability": vars(evidence.capability),
            "ladders": [tuned.to_json() for tuned in evidence.tuned],
        }
    }


def sentences(evidence: Evidence) -> list[str]:
    """The answer in a few lines: quality against each other method, and the place on the front."""
    quality = quality_measure(evidence.data.table)
    said = []
    for other in evidence.others:
        for found in evidence.against(other):
            if found.key == quality.key:
                said.append(
                    f"{evidence.method} against {other}: {quality.name} "
                    f"{quality.format(found.value)} and {quality.format(found.other)}, "
                    f"{_verdict(found)}."
                )
    return [*said, evidence.front]


def _verdict(found: Difference) -> str:
    if found.doubt:
        return found.doubt
    if found.key in _COSTS and found.outcome in ("better", "worse"):
        return "less" if found.value < found.other else "more"
    return _VERDICTS[found.outcome]


def _against_section(evidence: Evidence) -> Markup:
    groups = {group.variant: group for group in by_variant(_done(evidence.data.table))}
    others = [other for other in evidence.others if other in groups]
    compared = {(other, found.key): found for other in others for found in evidence.against(other)}
    rows: list[tuple[Any, list[str]]] = []
    for key in COMPARED:
        metric = METRICS[key]
        if not any((other, key) in compared for other in others):
            continue
        cells = [_mean(groups.get(evidence.method), metric)]
        for other in others:
            found = compared.get((other, key))
            verdict = _verdict(found) if found else "not known"
            cells += [_mean(groups[other], metric), verdict]
        rows.append((metric.label, cells))
    heads = [evidence.method]
    for other in others:
        heads += [other, f"{evidence.method} is"]
    return Markup("<h2>Against {}</h2>{}{}").format(
        join_names(others) or "nothing",
        numbers_table("Against others", "results", "Measure", heads, rows, heads),
        small_print(evidence.front, *evidence.notes),
    )


def _mean(group: VariantRuns | None, metric: MetricSpec) -> str:
    return value_text(metric, group.values(metric.key)) if group else units.DASH


def _done(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["status"] == "done"]


def _abilities_section(capability: Capability) -> Markup:
    rows = [
        (column.head, f"{column.meaning}: {MARKS[answer(capability, column)][1]}")
        for column in COLUMNS
    ]
    return Markup("<h2>What it can do</h2>{}{}").format(
        pairs_table(rows),
        small_print(
            "Seen on a tiny Llama of two layers with random weights.",
            capability.reason,
            capability.note,
        ),
    )


def _predicted_section(table: pd.DataFrame) -> Markup:
    rows = []
    for group in by_variant(_done(table)):
        cells = []
        for *keys, written in _PREDICTED:
            for key in keys:
                values = [float(row[key]) for row in group.rows if pd.notna(row.get(key))]
                cells.append(written(fmean(values)) if values else units.DASH)
        rows.append((group.variant, cells))
    heads = ["memory, predicted", "measured", "time of a run, predicted", "measured"]
    return Markup("<h2>Predicted and measured</h2>{}{}").format(
        numbers_table("Predicted and measured", "results", "Variant", heads, rows, heads),
        small_print(
            "A time is predicted once this machine's speed is known. On a CPU the process is "
            "measured, which holds more than the tensors that are predicted."
        ),
    )


def _ladders_section(tuned: Sequence[Tuned]) -> Markup:
    rows = [
        (
            ladder.variant.label,
            "; ".join(
                f"{rate_name(point.rate)} "
                + (STATUS_LABELS[point.status] if point.loss is None else f"{point.loss:.3f}")
                for point in ladder.points
            )
            + f". {ladder.suggestion.reason}",
        )
        for ladder in tuned
    ]
    return Markup("<h2>Learning rates</h2>{}{}").format(
        pairs_table(rows),
        small_print("Loss in nats a token on the tuning examples, which nothing is reported on."),
    )
