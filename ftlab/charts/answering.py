"""What answering costs: tokens per second and memory of the adapter, merged, and on 4 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from ftlab.basics.units import format_range
from ftlab.charts.drawing import empty_figure, figure, name_rows, plain
from ftlab.charts.facts import VariantRuns, add_facts, by_variant, is_measured, opening
from ftlab.charts.spec import ChartSpec, Drawn, Facts, Place, recorded
from ftlab.methods.registry import look_of
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.answering import memory_key, speed_key
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.result import ANSWER_WAYS, AnswerWay

_SHORT: dict[AnswerWay, str] = {"adapter": "adapter", "merged": "merged", "nf4": "4-bit"}
_PATTERNS: dict[AnswerWay, str] = {"adapter": "", "merged": "/", "nf4": "."}
_SPEEDS = [speed_key(way) for way in ANSWER_WAYS]
_COLUMNS = (*_SPEEDS, *(memory_key(way) for way in ANSWER_WAYS))
_SLOT_PIXELS, _EMPTY_PIXELS, _FRAME_PIXELS = 16, 90, 50
_STEP = len(ANSWER_WAYS) + 1  # slots of a variant: its bars and a gap
_TITLE_SLOTS = 2
_ROOM = 1.7  # times the longest bar: leaves space for the text at its end
_HOW = (
    "Nobody measured what answering costs here: tick “Measure answering” in Experiment, or give "
    "--measure-answering"
)


def answering_figure(facts: Facts) -> go.Figure:
    """Above the tokens per second, below the net peaks: a bar for each way of each variant.

    Bars have the colour of the method; pattern and text tell the way. Means over the seeds.
    """
    rows = _drawn(facts).rows
    groups = by_variant(rows, *_COLUMNS)
    if not groups:
        return empty_figure("not measured", _EMPTY_PIXELS)
    below = _STEP * len(groups) + _TITLE_SLOTS  # the first slot of the memory bars
    end = below + _STEP * len(groups)
    fig = figure(_FRAME_PIXELS + _SLOT_PIXELS * end, bargap=0.1, barmode="overlay")
    fig.add_traces(_bars(groups, speed_key, 0, "x2"))
    fig.add_traces(_bars(groups, memory_key, below, "x"))
    fastest, most = _longest(groups, speed_key), _longest(groups, memory_key)
    fig.update_layout(
        xaxis=_axis(most) | {"title_text": "memory while answering, lower is better"},
        xaxis2=_axis(fastest) | {"overlaying": "x"},
    )
    fig.add_annotation(
        text="tokens a second, higher is better", x=0.5, xref="paper", y=below - 1.6, yref="y",
        showarrow=False, font_size=12, name="title",
    )  # fmt: skip
    names = [(group.variant, group.method) for group in groups] * 2
    middle = (len(ANSWER_WAYS) - 1) / 2
    places = [start + _STEP * i + middle for start in (0, below) for i in range(len(groups))]
    return add_facts(name_rows(fig, names, places, (-1, end - 1), x_ticks=False), rows)


def _axis(longest: float) -> dict[str, Any]:
    return {"showgrid": False, "showticklabels": False, "range": [0, _ROOM * longest]}


def answering_finding(facts: Facts) -> str:
    """Tokens per second and memory of each way, over all variants; or how to measure them."""
    groups = by_variant(_drawn(facts).rows, *_COLUMNS)
    if not groups:
        return _HOW
    speeds, peaks = (
        ", ".join(
            f"{_SHORT[way]} {_reach(groups, METRICS[key(way)])}"
            for way in ANSWER_WAYS
            if _means(groups, key(way))
        )
        for key in (speed_key, memory_key)
    )
    words = f"Answers in tokens a second: {speeds}"
    return f"{words}; memory: {peaks}" if peaks else words


def _bars(
    groups: Sequence[VariantRuns], key: Callable[[AnswerWay], str], start: int, axis: str
) -> list[dict[str, Any]]:
    """One trace for each way, with the variants that have it."""
    traces = []
    for place, (way, words) in enumerate(ANSWER_WAYS.items()):
        metric = METRICS[key(way)]
        known = [(i, group) for i, group in enumerate(groups) if group.values(metric.key)]
        having = [group for _, group in known]
        hover = [
            f"<b>{plain(group.variant)}</b><br>{words}: "
            f"{_reach([group], METRICS[speed_key(way)], seeds=True)} tokens a second<br>"
            "memory (net peak) "
            f"{_reach([group], METRICS[memory_key(way)], seeds=True)}"
            for group in having
        ]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "xaxis": axis,
                "name": f"{metric.name}",
                "y": [start + _STEP * i + place for i, _ in known],
                "x": [group.mean(metric.key) for group in having],
                "width": 0.88,
                "marker": {
                    "color": [look_of(group.method).colour for group in having],
                    "line": {"width": 0},
                    "pattern": {"shape": _PATTERNS[way], "fgcolor": "#ffffff", "fgopacity": 0.55,
                                "size": 6},
                },
                "text": [
                    f"{_SHORT[way]} {metric.format(group.mean(metric.key))}" for group in having
                ],
                "textposition": "outside",
                "textfont": {"size": 11},
                **opening(having, hover),
            }
        )  # fmt: skip
    return traces


def _means(groups: Sequence[VariantRuns], key: str) -> list[float]:
    return [group.mean(key) for group in groups if is_measured(group.mean(key))]


def _longest(groups: Sequence[VariantRuns], key: Callable[[AnswerWay], str]) -> float:
    return max((mean for way in ANSWER_WAYS for mean in _means(groups, key(way))), default=1.0)


def _reach(groups: Sequence[VariantRuns], metric: MetricSpec, seeds: bool = False) -> str:
    """As in "9.1 to 18.2": the means of the groups, or with `seeds` the values of their runs."""
    key = metric.key
    values = [v for g in groups for v in g.values(key)] if seeds else _means(groups, key)
    if values and metric.unit == "bytes":
        return format_range(min(values), max(values))
    low, high = (metric.format(end(values, default=None)) for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _drawn(facts: Facts) -> Drawn:
    table = facts.table
    has = table[_SPEEDS].notna().any(axis=1) & (table["status"] == "done")
    return recorded(table, list(table["run_id"][has]), "answering was not measured")


CHARTS = (
    ChartSpec(
        id="answering",
        name="What answering costs",
        drawn=_drawn,
        finding=answering_finding,
        figure=answering_figure,
        reading="One answer at a time: the adapter on its base as trained, merged into the base "
        "(hatched), and on a 4-bit base (dotted); means of the seeds",
        compare=Place(row=6),
        report=80,
        hides=True,
        is_extra=True,
    ),
)
