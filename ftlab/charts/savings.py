"""Savings against full fine-tuning: the numbers, missing data, and the bars.

Everything is computed from the store's table (columns `ROW_KEYS`) of one sweep, and only from its
finished runs. Seeds of one variant are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ftlab.basics import units
from ftlab.basics.words import join_names
from ftlab.charts.drawing import empty_figure, figure, name_rows, plain
from ftlab.charts.facts import NOTE_PIXELS, VariantRuns, add_facts, by_variant, left_out, opening
from ftlab.charts.spec import ChartSpec, Drawn, Facts, Place, measured
from ftlab.methods.families.full import FULL
from ftlab.methods.registry import look_of
from ftlab.records.differences import differences_of
from ftlab.records.metrics import HEADLINES, METRICS
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.result import OPEN

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
    groups = table[table["status"] == "done"].groupby(["variant", "method"], sort=False)
    return groups[list(METRICS)].mean().assign(count=groups.size()).reset_index()


def full_row(means: pd.DataFrame) -> pd.Series | None:
    """The row of full fine-tuning; of several variants, the one with the best score."""
    full = means[means["method"] == FULL.id]
    return None if full.empty else full.iloc[_order(full)[0]]


def adapters(means: pd.DataFrame) -> pd.DataFrame:
    """All variants except full fine-tuning, best first: by score, then by smaller net peak."""
    others = means[means["method"] != FULL.id]
    return others.iloc[_order(others)].reset_index(drop=True)


def compare(table: pd.DataFrame, variant: str | None = None) -> Comparison | None:
    """The named (else the best) adapter and full fine-tuning; `None` if one of them is missing."""
    means = variant_means(table)
    full, others = full_row(means), adapters(means)
    if full is None or others.empty:
        return None
    named = others[others["variant"] == variant]
    return Comparison((others if named.empty else named).iloc[0], full)


def _against_full(
    table: pd.DataFrame, groups: Sequence[VariantRuns], key: str
) -> list[tuple[float, str]]:
    """Per group, its mean divided by full fine-tuning's, and why no difference is shown, or "".

    The ratios are NaN if no full fine-tuning run is done.
    """
    full = full_row(variant_means(table[table["method"] == FULL.id]))
    if full is None:
        return [(math.nan, "")] * len(groups)
    name, differences = str(full["variant"]), differences_of(table, key)
    doubts = [differences.between(group.variant, name).doubt for group in groups]
    return [
        (_ratio(group.mean(key), float(full[key])), "" if group.variant == name else doubt)
        for group, doubt in zip(groups, doubts, strict=True)
    ]


def savings_figure(table: pd.DataFrame, metric: MetricSpec) -> go.Figure:
    """Bars of one measure, full fine-tuning = 1; absolute if no full fine-tuning run is done."""
    measured, _ = left_out(table, metric.key)
    groups = by_variant(measured, metric.key)
    bar = next((high for most, high in _BAR_PIXELS if len(groups) <= most), _MANY_BARS_PIXELS)
    height = NOTE_PIXELS + bar * max(1, len(groups)) + _AXIS_PIXELS
    if not groups:
        return empty_figure("not measured", height)
    fig = figure(height, margin={"r": 8, "t": NOTE_PIXELS}, bargap=0.28, hovermode="y")
    against = _against_full(table, groups, metric.key)
    relative = not any(math.isnan(ratio) for ratio, _ in against)
    lengths = [ratio for ratio, _ in against] if relative else [g.mean(metric.key) for g in groups]
    known = [(group, *found) for group, found in zip(groups, against, strict=True)]
    places = list(range(len(groups)))
    fig.add_bar(
        y=places,
        x=lengths,
        orientation="h",
        marker={"color": [look_of(group.method).colour for group in groups], "line_width": 0},
        text=[_bar_text(metric, *found, relative) for found in known],
        textposition="outside",
        **opening(groups, [_hover(metric, *found, relative) for found in known]),
    )
    unit = "times full fine-tuning, " if relative else ""
    fig.update_xaxes(
        showgrid=False,
        showticklabels=False,
        range=[0, 1.9 * max(lengths) or 1],
        title={"text": f"{unit}{metric.direction} is better", "font": {"size": 11}, "standoff": 2},
    )
    names = [(group.variant, group.method) for group in groups]
    name_rows(fig, names, places, (-0.5, len(groups) - 0.5), x_ticks=False)
    return add_facts(fig, measured)


def savings_finding(table: pd.DataFrame, metric: MetricSpec) -> str:
    """As in "Training time: QLoRA least, 12 % less"; names all that are not shown to differ."""
    measured, _ = left_out(table, metric.key)
    groups = by_variant(measured, metric.key)
    name = metric.name.capitalize()
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
    ((ratio, _),) = _against_full(table, [best], metric.key)
    is_alone = math.isnan(ratio) or best.method == FULL.id
    value = metric.format(best.mean(metric.key)) if is_alone else less_or_more(ratio)
    return f"{name}: {best.variant} least, {value}"


def nothing_to_compare(table: pd.DataFrame) -> str:
    """What is missing for a comparison with full fine-tuning, as a sentence; "" if nothing."""
    means = variant_means(table)
    if means.empty:
        state = "is done yet" if table["status"].isin(OPEN).any() else "got to its end"
        return f"No run of this sweep {state}, so there is nothing to compare."
    names = adapters(means)["variant"].tolist()
    if full_row(means) is None:
        return (
            f"A full fine-tuning run is needed to compare {join_names(names)} with; "
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


def less_or_more(ratio: float) -> str:
    """A ratio to full fine-tuning in words: 0.39 -> "61 % less"; 1.2 -> "20 % more".

    A ratio near 0 is not "100 % less" but "0.2 % of full"; from 2 on it is as in "3.1x".
    """
    if math.isnan(ratio):
        return units.DASH
    if ratio < 0.01:
        return f"{units.format_share(ratio)} of full"
    if ratio >= 2:
        return f"{ratio:.1f}x"
    percent = round(100 * abs(ratio - 1))
    return f"{percent} % {'less' if ratio < 1 else 'more'}" if percent else "as much"


def _ratio(value: float, base: float) -> float:
    return value / base if base > 0 and math.isfinite(value) else math.nan


def _order(rows: pd.DataFrame) -> np.ndarray:
    """The positions of the rows, best first; values that were not measured come last."""
    score, peak, loss = (
        rows[key].round(9) for key in ("score_after", "net_peak_memory_bytes", "eval_loss_after")
    )
    return np.lexsort([loss, peak, -score])  # the last key counts first


def _bar_text(
    metric: MetricSpec, group: VariantRuns, ratio: float, doubt: str, relative: bool
) -> str:
    """As in "0.63x  1 min 00 s"; "≈" marks a ratio that shows no difference."""
    value = metric.format(group.mean(metric.key))
    return f"{'≈ ' if doubt else ''}{times(ratio)}  {value}" if relative else value


def _hover(metric: MetricSpec, group: VariantRuns, ratio: float, doubt: str, relative: bool) -> str:
    text = f"{plain(group.variant)}: {metric.format(group.mean(metric.key))}"
    if relative:
        text += f", {times(ratio)} of full fine-tuning"
        text += f"<br>{doubt}" if doubt else ""
    if len(group.rows) > 1:
        low, high = (metric.format(end) for end in group.reach(metric))
        text += f"<br>mean of {len(group.rows)} runs, {low} to {high}"
    return text


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
        name=metric.name.capitalize(),
        drawn=drawn,
        finding=finding_of,
        figure=figure_of,
        compare=Place(row=1),
        report=order,
        is_bar=True,
    )


CHARTS = tuple(_bars(key, order) for order, key in enumerate(HEADLINES))
