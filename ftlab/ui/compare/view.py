"""What the Compare tab says about a sweep, as plain functions: sweep in, sentences and HTML out."""

from __future__ import annotations

import pandas as pd

from ftlab import units
from ftlab.charts.facts import origin_words
from ftlab.charts.forgetting import gain_words
from ftlab.charts.savings import (
    Comparison,
    adapters,
    beside_full,
    compare,
    finding,
    full_row,
    smaller,
    times,
    variant_means,
)
from ftlab.html import origin_chip
from ftlab.report.card.facts import facts_of
from ftlab.report.fairness import IMPORTED, fairness_html
from ftlab.runs.metrics import METRICS
from ftlab.runs.result import status_label
from ftlab.runs.sweep_data import SweepData
from ftlab.ui.html import chip, escape, plural


def adapter_choices(table: pd.DataFrame) -> list[str]:
    """Variants that can stand in the headline, best first."""
    return [str(name) for name in adapters(variant_means(table))["variant"]]


def fairness(data: SweepData) -> str:
    """HTML: what was the same for all runs that are done, and what differs."""
    if data.origin == "imported":
        return (
            f'<div class="fair">{chip("not compared", "warn")}<p class="meta">{IMPORTED}.</p></div>'
        )
    return fairness_html(data.runs)


def unfinished(data: SweepData) -> str:
    """HTML: the runs that no number of this tab holds, and why; empty if there is none."""
    missing = data.table[data.table["status"] != "done"]
    if missing.empty:
        return ""
    items = "".join(
        f"<li>{escape(row.variant)}, seed {escape(row.seed)}: "
        f"{escape(status_label(row.status))}"
        f"{'. ' + str(escape(row.reason)) if row.reason else ''}</li>"
        for row in missing.itertuples()
    )
    count = chip(f"{plural(len(missing), 'run')} left out", "warn")
    return (
        f'<p class="meta">{count} of headline, tiles and bars; '
        "what loss they have stays in the figure.</p>"
        f'<ul class="notes">{items}</ul>'
    )


def headline(data: SweepData, variant: str | None = None) -> str:
    """HTML: the finding, and the five tiles below it if there is something to compare."""
    title = escape(finding(data.table, variant)).replace(" %", "\u00a0%")
    found = compare(data.table, variant)
    tiles = _tiles(found, data.table) if found else ""
    return (
        f'<section class="savings" data-sweep="{escape(data.sweep_id)}">'
        f'<div class="hd"><h2>{title}</h2></div>{tiles}'
        f"{_provenance(data)}</section>"
    )


def bars_sentence(table: pd.DataFrame) -> str:
    """What the four bar figures are relative to."""
    means = variant_means(table)
    full = full_row(means)
    if means.empty:
        return "No run is done"
    if full is None:
        return "Absolute values: full fine-tuning is not among the runs that are done"
    return f"Relative to {full['variant']} = 1, with the absolute values"


def _tiles(found: Comparison, table: pd.DataFrame) -> str:
    gain = gain_words(table, str(found.adapter["variant"]))
    tiles = [
        (
            units.format_share(found.value("trainable_share")),
            "of the parameters trained",
            beside_full(found, "trainable_params"),
        ),
        (
            times(found.ratio("net_peak_memory_bytes")),
            "the net peak memory",
            f"{beside_full(found, 'net_peak_memory_bytes')}; whole process "
            f"{beside_full(found, 'peak_memory_bytes')}",
        ),
        (
            times(found.ratio("train_seconds")),
            "the training time",
            beside_full(found, "train_seconds"),
        ),
        (
            units.format_bytes(found.value("adapter_bytes")),
            f"to ship, against {units.format_bytes(found.full_value('adapter_bytes'))}",
            smaller(found.ratio("adapter_bytes")),
        ),
        (
            METRICS["score_after"].format(found.value("score_after")),
            f"score, against {METRICS['score_after'].format(found.full_value('score_after'))}",
            f"untouched model {METRICS['score_before'].format(found.value('score_before'))}"
            + (f", gain {gain}" if gain else ""),
        ),
    ]
    cells = "".join(
        f"<div{' class=even' if i == 4 else ''}><b>{escape(big)}</b><span>{escape(what)}</span>"
        f"<small>{escape(detail)}</small></div>"
        for i, (big, what, detail) in enumerate(tiles)
    )
    return f'<div class="tiles five">{cells}</div>'


def _provenance(data: SweepData) -> str:
    if not (data.table["status"] == "done").any():
        return ""
    line = escape(" · ".join((*facts_of(data), origin_words(data.table))))
    return f'<div class="prov">{origin_chip(data.origin)}<span>{line}</span></div>'
