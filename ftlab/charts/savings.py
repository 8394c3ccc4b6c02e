"""Savings against full fine-tuning: the numbers, missing data, and the bars.

Everything is computed from the store's table (columns `ROW_KEYS`) of one sweep, and only from its
finished runs. Seeds of one variant are averaged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.basics import units
from ftlab.basics.words import join_names
from ftlab.charts.drawing import figure, fix_margins, plain, short_name
from ftlab.charts.facts import (
    NOTE_PIXELS,
    VariantRuns,
    add_facts,
    by_variant,
    click_hint,
    left_out,
    settings_text,
)
from ftlab.charts.spec import ChartSpec, Drawn, Facts, Place, measured
from ftlab.methods.families.full import FULL
from ftlab.methods.registry import look_of
from ftlab.records.differences import differences_of
from ftlab.records.metrics import HEADLINES, METRICS
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.result import OPEN

COLUMNS = ["variant", "method", "value", "relative", "count", "low", "high"]
BAR_NAMES = {
    "trainable_params": "Trained parameters",
    "net_peak_memory_bytes": "Net peak memory, train phase",
    "train_seconds": "Training time",
    "adapter_bytes": "File to ship",
}
"""The titles of the bars, by headline measure."""

_MOST_LEVEL = 3
_BAR_PIXELS = ((5, 37), (14, 27))  # (most bars, pixels of one bar)
_MANY_BARS_PIXELS = 21
_AXIS_PIXELS = 22  # space for the title below the bars


@dataclass(frozen=True)
class Comparison:
    """The means of an adapter and of full fine-tuning; a value may be NaN."""

    adapter: pd.Series
    full: pd.Series

    def value(self, key: str) -> float:
        return float(self.adapter[key])

    def full_value(self, key: str) -> float:
        return float(self.full[key])

    def ratio(self, key: str) -> float:
        """The adapter's value divided by full fine-tuning's; NaN if that is undefined."""
        return _ratio(self.value(key), self.full_value(key))


def variant_means(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant with a finished run: its means, and `count` runs; in table order."""
    done = table[table["status"] == "done"]
    numbers = list(METRICS)
    means = done.groupby(["variant", "method"], sort=False)[numbers].mean()
    means["count"] = done.groupby(["variant", "method"], sort=False).size()
    return means.reset_index()


def full_row(means: pd.DataFrame) -> pd.Series | None:
    """The row of full fine-tuning; of several variants, the one with the best score."""
    full = means[means["method"] == FULL.id]
    return None if full.empty else full.iloc[_best(full)]


def adapters(means: pd.DataFrame) -> pd.DataFrame:
    """All variants except full fine-tuning, best first: by score, then by smaller net peak."""
    others = means[means["method"] != FULL.id]
    ranks = _ranks(others)
    order = sorted(range(len(others)), key=lambda i: ranks[i])
    return others.iloc[order].reset_index(drop=True)


def compare(table: pd.DataFrame, variant: str | None = None) -> Comparison | None:
    """The named (else the best) adapter and full fine-tuning; `None` if one of them is missing."""
    means = variant_means(table)
    full, others = full_row(means), adapters(means)
    if full is None or others.empty:
        return None
    named = others[others["variant"] == variant]
    return Comparison((others if named.empty else named).iloc[0], full)


def savings_rows(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """One row per variant: mean, ratio to full fine-tuning, number of runs, least and most.

    `relative` is NaN if no full fine-tuning run is done.
    """
    return _rows(table, by_variant(left_out(table, key)[0], key), key)


def _rows(table: pd.DataFrame, groups: list[VariantRuns], key: str) -> pd.DataFrame:
    full = full_row(variant_means(table[table["method"] == FULL.id]))
    base = math.nan if full is None else float(full[key])
    rows = []
    for group in groups:
        mean, count = group.mean(key), len(group.rows)
        relative = _ratio(mean, base)
        rows.append(
            [group.variant, group.method, mean, relative, count, group.low(key), group.high(key)]
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def savings_figure(table: pd.DataFrame, metric: MetricSpec) -> go.Figure:
    """Bars of one measure, full fine-tuning = 1; absolute if no full fine-tuning run is done."""
    measured, _ = left_out(table, metric.key)
    groups = by_variant(measured, metric.key)
    rows = _rows(table, groups, metric.key)
    bar = next((high for most, high in _BAR_PIXELS if len(rows) <= most), _MANY_BARS_PIXELS)
    height = NOTE_PIXELS + bar * max(1, len(rows)) + _AXIS_PIXELS
    fig = figure(height, margin={"l": 8, "r": 8, "t": NOTE_PIXELS, "b": 4})
    fig.update_xaxes(showgrid=False, showticklabels=False)
    fig.update_yaxes(showgrid=False)
    if rows.empty:
        fig.update_xaxes(visible=False).update_yaxes(visible=False)
        return fig.add_annotation(
            text="not measured", x=0, y=0.5, xref="paper", yref="paper", showarrow=False
        )
    relative = bool(rows["relative"].notna().all())
    lengths = rows["relative"] if relative else rows["value"]
    doubts = _doubts(table, groups, metric.key)
    names = [short_name(v, m) for v, m in zip(rows["variant"], rows["method"], strict=True)]
    fig.add_bar(
        y=list(range(len(rows))),
        x=lengths.tolist(),
        orientation="h",
        marker={"color": [look_of(method).colour for method in rows["method"]], "line_width": 0},
        text=[
            _bar_text(row, metric, relative, doubt)
            for row, doubt in zip(rows.itertuples(), doubts, strict=True)
        ],
        textposition="outside",
        cliponaxis=False,
        customdata=[group.run_ids for group in groups],
        hovertext=[
            _hover(row, metric, relative, group, doubt)
            for row, group, doubt in zip(rows.itertuples(), groups, doubts, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    longest = float(lengths.max())
    against = "times full fine-tuning, " if relative else ""
    fig.update_xaxes(
        range=[0, 1.9 * longest if longest > 0 else 1],
        title={"text": f"{against}{metric.better} is better", "font": {"size": 11}, "standoff": 2},
    )
    fig.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=[plain(name) for name in names],
        range=[len(rows) - 0.5, -0.5],
    )  # fmt: skip
    fix_margins(fig.update_layout(bargap=0.28, hovermode="y"), names, y_title=False, x_ticks=False)
    return add_facts(fig, measured)


def savings_finding(table: pd.DataFrame, metric: MetricSpec) -> str:
    """As in "Training time: QLoRA least, 0.88x"; names all that are not shown to differ."""
    measured, _ = left_out(table, metric.key)
    groups = by_variant(measured, metric.key)
    name = BAR_NAMES[metric.key]
    if not groups:
        return name
    best = min(groups, key=lambda group: group.mean(metric.key))
    differences = differences_of(measured, metric.key)
    others = [group.variant for group in groups if group is not best]
    level = [name for name in others if differences.between(best.variant, name).shown is False]
    if level:
        who = join_names([best.variant, *level])
        who = who if len(level) < _MOST_LEVEL else f"{len(level) + 1} variants"
        return f"{name}: {who} least, no difference shown"
    rows = savings_rows(table, metric.key).set_index("variant")
    ratio = float(rows["relative"][best.variant])
    value = metric.format(best.mean(metric.key)) if math.isnan(ratio) else times(ratio)
    return f"{name}: {best.variant} least, {value}"


def nothing_to_compare(table: pd.DataFrame) -> str:
    """What is missing for a comparison with full fine-tuning, as a sentence; "" if nothing."""
    means = variant_means(table)
    if means.empty:
        if table["status"].isin(OPEN).any():
            return "No run of this sweep is done yet, so there is nothing to compare."
        return "No run of this sweep got to its end, so there is nothing to compare."
    names = adapters(means)["variant"].tolist()
    if full_row(means) is None:
        return (
            f"A full fine-tuning run is needed to hold {join_names(names)} against; "
            "none is done in this sweep."
        )
    if not names:
        return "Only full fine-tuning is done in this sweep; run another method to compare with it."
    return ""


def times(ratio: float) -> str:
    """0.553 -> "0.55x"; a ratio that would round to 0 is given in per cent."""
    if math.isnan(ratio):
        return units.DASH
    return f"{ratio:.2f}x" if ratio >= 0.005 else units.format_share(ratio)


def _ratio(value: float, base: float) -> float:
    return value / base if base > 0 and math.isfinite(value) else math.nan


def _ranks(rows: pd.DataFrame) -> list[tuple[float, ...]]:
    """The sort keys of the rows, best first; values that were not measured come last."""
    scores, peaks, losses = (
        rows[key].tolist() for key in ("score_after", "net_peak_memory_bytes", "eval_loss_after")
    )
    return [
        tuple(math.inf if math.isnan(value) else round(value, 9) for value in (-score, peak, loss))
        for score, peak, loss in zip(scores, peaks, losses, strict=True)
    ]


def _best(rows: pd.DataFrame) -> int:
    ranks = _ranks(rows)
    return ranks.index(min(ranks))


def _doubts(table: pd.DataFrame, groups: list[VariantRuns], key: str) -> list[str]:
    """Why no difference from full fine-tuning is shown, by group; "" if one is shown."""
    full = full_row(variant_means(table[table["method"] == FULL.id]))
    if full is None:
        return [""] * len(groups)
    name, differences = str(full["variant"]), differences_of(table, key)
    return [
        "" if group.variant == name else differences.between(group.variant, name).doubt
        for group in groups
    ]


def _bar_text(row: Any, metric: MetricSpec, relative: bool, doubt: str) -> str:
    """As in "0.63x  1 min 00 s"; "≈" marks a ratio that shows no difference."""
    value = metric.format(row.value)
    mark = "≈ " if doubt else ""
    return f"{mark}{times(row.relative)}  {value}" if relative else value


def _hover(row: Any, metric: MetricSpec, relative: bool, group: VariantRuns, doubt: str) -> str:
    text = f"{plain(row.variant)}: {metric.format(row.value)}"
    if relative:
        text += f", {times(row.relative)} of full fine-tuning"
        text += f"<br>{doubt}" if doubt else ""
    if row.count > 1:
        text += (
            f"<br>mean of {row.count} runs, {metric.format(row.low)} to {metric.format(row.high)}"
        )
    return f"{text}<br>{settings_text(group.rows)}{click_hint(group.rows)}"


def bars_sentence(table: pd.DataFrame) -> str:
    """What all bars are relative to."""
    means = variant_means(table)
    full = full_row(means)
    if means.empty:
        return "No run is done"
    if full is None:
        return "Absolute values: full fine-tuning is not among the runs that are done"
    return f"Relative to {full['variant']} = 1, with the absolute values; ≈: no difference shown"


def _bars(key: str, order: int) -> ChartSpec:
    """The chart of one headline measure."""
    metric = METRICS[key]

    def drawn(facts: Facts) -> Drawn:
        return measured(facts.table, key)

    def finding_of(facts: Facts) -> str:
        return savings_finding(facts.table, metric)

    def figure_of(facts: Facts) -> go.Figure:
        return savings_figure(facts.table, metric)

    return ChartSpec(
        id=key,
        name=BAR_NAMES[key],
        drawn=drawn,
        finding=finding_of,
        figure=figure_of,
        compare=Place(row=1),
        report=order,
        is_bar=True,
    )


CHARTS = tuple(_bars(key, order) for order, key in enumerate(HEADLINES))
