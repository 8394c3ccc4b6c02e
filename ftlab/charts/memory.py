"""Memory usage: the peak of each phase, and the breakdown of the training peak.

Net peaks are measured above the process without a model, so they are comparable across machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.basics import units
from ftlab.basics.words import some_names
from ftlab.charts.drawing import bytes_axis, empty_figure, figure, name_rows, plain
from ftlab.charts.facts import NOTE_PIXELS, VariantRuns, add_facts, by_variant, is_measured, opening
from ftlab.charts.spec import ChartSpec, Drawn, Facts, Place, measured
from ftlab.methods.registry import look_of
from ftlab.records.result import MEMORY_PARTS

_PHASES_NEEDED = ("before_model_bytes", "peak_memory_bytes")
_BREAKDOWN_NEEDED = tuple(f"anatomy_{part}_bytes" for part in MEMORY_PARTS)
_NET = "net_peak_memory_bytes"
_BREAKDOWN_COLOURS = {
    "weights": "#3d5a80", "gradients": "#7693b8", "optimizer": "#b3c7df",
    "gathered": "#2f6f62", "communication": "#9cc9bd",
    "activations": "#d9a441", "temporary": "#e8cf9f",
}  # fmt: skip
"""Colours of the parts; they also differ in lightness, so they are distinct without hue."""

_KEYS = "".join(
    f'<span><i class="sw" style="--c:{colour}"></i>{part}</span>'
    for part, colour in _BREAKDOWN_COLOURS.items()
)
_LEGEND = (
    f'<p class="meta keys">{_KEYS}<span><i class="tick"></i>measured while training</span>'
    "<span>narrow, hatched: predicted</span></p>"
)

_DARK_PARTS = frozenset({"weights", "gathered"})
_PREDICTED_COLOUR = "#8b5cf6"
_MEASURED_WIDTH, _PREDICTED_WIDTH, _PREDICTED_BELOW = 0.46, 0.24, 0.38  # share of a row
_INK, _PAPER = "#1b2129", "#ffffff"
_TICK = "#8a929e"  # visible on light and on dark backgrounds
_BAR_PIXELS, _ROW_PIXELS, _AXIS_PIXELS = 16, 46, 50
_ROOM = 1.34  # times the longest bar: leaves space for the text at its end


@dataclass(frozen=True)
class _Phase:
    name: str
    done: str  # as in "training"
    key: str
    pattern: str


_PHASES = (
    _Phase("load", "loading", "load_peak_bytes", "/"),
    _Phase("train", "training", "peak_memory_bytes", ""),
    _Phase("evaluate", "evaluation", "evaluate_peak_bytes", "."),
    _Phase("save", "saving", "save_peak_bytes", "x"),
)
_PHASE_COLUMNS = (*_PHASES_NEEDED, *(phase.key for phase in _PHASES))
_PREDICTED_PARTS = tuple(f"predicted_{part}_bytes" for part in MEMORY_PARTS)
_BREAKDOWN_COLUMNS = (*_BREAKDOWN_NEEDED, *_PREDICTED_PARTS, _NET)


def phases_figure(facts: Facts) -> go.Figure:
    """Net peak memory of each phase, one group of bars per variant, in its method's colour.

    Place in the group, pattern and label of a bar identify the phase. Values are means over seeds.
    """
    rows = _phases_drawn(facts).rows
    groups = by_variant(rows, *_PHASE_COLUMNS)
    if not groups:
        return empty_figure("no run has its peaks by phase")
    bars = [_phase_bars(phase, groups, place) for place, phase in enumerate(_PHASES)]
    longest = max(value for trace in bars for value in trace["x"] if value is not None)
    height = _AXIS_PIXELS + _BAR_PIXELS * (len(_PHASES) + 1) * len(groups)
    fig = figure(height, margin_t=NOTE_PIXELS, bargap=0.12)
    fig.add_traces(bars)
    fig.update_xaxes(
        title_text=f"memory of a phase{_kind(rows)}, lower is better", **bytes_axis(longest * _ROOM)
    )
    step, middle = len(_PHASES) + 1, (len(_PHASES) - 1) / 2
    places = [step * i + middle for i in range(len(groups))]
    return add_facts(name_rows(fig, _names(groups), places, (-1, step * len(groups) - 1)), rows)


def phases_finding(facts: Facts) -> str:
    """Which phase sets each variant's peak, and whether this holds in every run."""
    groups = by_variant(_phases_drawn(facts).rows, *_PHASE_COLUMNS)
    if not groups:
        return "No run has its memory by phase"
    names: dict[str, list[str]] = {}
    for group in groups:
        names.setdefault(_peak_phase(group), []).append(group.variant)
    if len(names) == 1 and len(groups) > 1:
        (phase,) = names
        if phase:
            return f"{phase.capitalize()} sets the peak of every variant, in every run"
        return "Which phase sets the peak differs between the runs of every variant"
    parts = [
        f"{phase} sets the peak of {some_names(variants)}" if phase
        else f"for {some_names(variants)} it differs between runs"
        for phase, variants in sorted(names.items(), reverse=True)
    ]  # fmt: skip
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def _phases_drawn(facts: Facts) -> Drawn:
    return measured(facts.table, *_PHASES_NEEDED)


def _breakdown_drawn(facts: Facts) -> Drawn:
    return measured(facts.table, *_BREAKDOWN_NEEDED)


def memory_breakdown_figure(facts: Facts) -> go.Figure:
    """The breakdown of the training peak: one stacked bar per variant, means over seeds.

    A narrow violet bar below it is the prediction. A tick is the net peak of the process, which on
    a CPU contains more than tensors.
    """
    rows = _breakdown_drawn(facts).rows
    groups = by_variant(rows, *_BREAKDOWN_COLUMNS)
    if not groups:
        return empty_figure("no run says what its peak was made of")
    lines = list(range(len(groups)))
    height = _AXIS_PIXELS + _ROW_PIXELS * len(groups)
    fig = figure(height, margin_t=NOTE_PIXELS, barmode="stack")
    fig.add_traces([_part_bars(part, groups, lines) for part in MEMORY_PARTS])
    known = [i for i in lines if _has_prediction(groups[i])]
    predicted = [groups[i] for i in known]
    if known:
        fig.add_traces([_predicted_bars(part, predicted, known) for part in MEMORY_PARTS])
    fig.add_traces([_net_ticks(groups, lines)])
    ends = [_total(group, "anatomy") for group in groups]
    ends += [_total(group, "predicted") for group in predicted]
    ends += [group.mean(_NET) for group in groups if is_measured(group.mean(_NET))]
    longest = max(ends)
    fig.update_xaxes(
        title_text="at the highest point of training, lower is better", **bytes_axis(longest * 1.06)
    )
    return add_facts(name_rows(fig, _names(groups), lines, (-0.4, len(groups) - 0.4)), rows)


def memory_breakdown_finding(facts: Facts) -> str:
    """The largest part of each variant's peak, and the largest error of the predictions."""
    groups = by_variant(_breakdown_drawn(facts).rows, *_BREAKDOWN_COLUMNS)
    if not groups:
        return "No run says what its peak was made of"
    largest: dict[str, list[str]] = {}
    for group in groups:
        part = max(MEMORY_PARTS, key=lambda name: group.mean(f"anatomy_{name}_bytes"))
        share = units.format_share(group.mean(f"anatomy_{part}_bytes") / _total(group, "anatomy"))
        largest.setdefault(part, []).append(f"{group.variant} ({share})")
    parts = [f"{part} for {some_names(names)}" for part, names in largest.items()]
    words = f"The largest part of the peak: {'; '.join(parts)}"
    errors = [
        abs(_total(group, "predicted") / _total(group, "anatomy") - 1)
        for group in groups
        if _has_prediction(group)
    ]
    if errors:
        words += f"; predictions are within {units.format_share(max(errors))} of it"
    return words


def _phase_bars(phase: _Phase, groups: Sequence[VariantRuns], place: int) -> dict[str, Any]:
    nets = [_nets(group, phase) for group in groups]
    means = [sum(values) / len(values) if values else None for values in nets]
    pattern = {"shape": phase.pattern, "fgcolor": _PAPER, "fgopacity": 0.55, "size": 6}
    return {
        "type": "bar",
        "orientation": "h",
        "name": phase.name,
        "y": [(len(_PHASES) + 1) * i + place for i in range(len(groups))],
        "x": means,
        "width": 0.88,
        "marker": {
            "color": [look_of(group.method).colour for group in groups],
            "line": {"width": 0},
            "pattern": pattern,
        },
        "text": [f"{phase.name} {units.format_bytes(mean)}" for mean in means],
        "textposition": "outside",
        "textfont": {"size": 11},
        **opening(groups, map(_hover, groups, repeat(f"{phase.name} (net peak)"), nets)),
    }


def _part_bars(part: str, groups: Sequence[VariantRuns], lines: Sequence[float]) -> dict[str, Any]:
    return _of_rows(f"anatomy_{part}_bytes", part, groups, lines) | {
        "type": "bar",
        "orientation": "h",
        "name": part,
        "width": _MEASURED_WIDTH,
        "marker": {"color": _BREAKDOWN_COLOURS[part], "line": {"width": 0}},
        "text": [part] * len(groups),
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "textfont": {"size": 11, "color": _PAPER if part in _DARK_PARTS else _INK},
    }


def _predicted_bars(
    part: str, groups: Sequence[VariantRuns], lines: Sequence[int]
) -> dict[str, Any]:
    below = [line + _PREDICTED_BELOW for line in lines]
    return _of_rows(f"predicted_{part}_bytes", f"predicted {part} ≈", groups, below) | {
        "type": "bar",
        "orientation": "h",
        "name": f"predicted {part}",
        "width": _PREDICTED_WIDTH,
        "marker": {
            "color": _BREAKDOWN_COLOURS[part],
            "line": {"color": _PREDICTED_COLOUR, "width": 1.5},
            "pattern": {"shape": "/", "fgcolor": _PAPER, "fgopacity": 0.55, "size": 5},
        },
    }


def _of_rows(
    key: str, what: str, groups: Sequence[VariantRuns], lines: Sequence[float]
) -> dict[str, Any]:
    """The means of one column, one in each row."""
    return {
        "y": list(lines),
        "x": [group.mean(key) for group in groups],
        **opening(groups, [_hover(group, what, group.values(key)) for group in groups]),
    }


def _net_ticks(groups: Sequence[VariantRuns], lines: Sequence[int]) -> dict[str, Any]:
    return _of_rows(_NET, "measured (net peak)", groups, lines) | {
        "type": "scatter",
        "mode": "markers",
        "name": "measured",
        "marker": {"symbol": "line-ns", "size": 24, "line": {"color": _TICK, "width": 3}},
    }


def _names(groups: Sequence[VariantRuns]) -> list[tuple[str, str]]:
    return [(group.variant, group.method) for group in groups]


def _net(row: Mapping[str, Any], phase: _Phase) -> float | None:
    if not is_measured(row[phase.key]):
        return None
    return float(row[phase.key]) - float(row["before_model_bytes"])


def _nets(group: VariantRuns, phase: _Phase) -> list[float]:
    return [net for net in (_net(row, phase) for row in group.rows) if net is not None]


def _peak_phase(group: VariantRuns) -> str:
    """The phase with the highest peak in all runs of the variant; "" if the runs differ."""

    def height(row: Mapping[str, Any]) -> Callable[[_Phase], float]:
        return lambda phase: _net(row, phase) or 0.0

    found = {max(_PHASES, key=height(row)).done for row in group.rows}
    return found.pop() if len(found) == 1 else ""


def _total(group: VariantRuns, of: str) -> float:
    """The sum of all parts; `of` is "anatomy" or "predicted"."""
    return sum(group.mean(f"{of}_{part}_bytes") for part in MEMORY_PARTS)


def _has_prediction(group: VariantRuns) -> bool:
    return is_measured(_total(group, "predicted"))


def _kind(rows: pd.DataFrame) -> str:
    kinds = sorted({str(kind) for kind in rows["peak_memory_kind"] if kind})
    return f" ({plain(', '.join(kinds))})" if kinds else ""


def _hover(group: VariantRuns, what: str, values: Sequence[float]) -> str:
    mean = units.format_bytes(sum(values) / len(values)) if values else units.DASH
    text = f"<b>{plain(group.variant)}</b><br>{what} {mean}"
    if len(values) > 1:
        low, high = units.format_bytes(min(values)), units.format_bytes(max(values))
        text += f", {low} to {high}"
    return text


CHARTS = (
    ChartSpec(
        id="memory-by-phase",
        name="Memory by phase",
        drawn=_phases_drawn,
        finding=phases_finding,
        figure=phases_figure,
        reading=(
            "Highest memory of each phase, above the process without a model (net peak); means of "
            "the seeds"
        ),
        compare=Place(row=3),
        report=60,
        hides=True,
    ),
    ChartSpec(
        id="memory-anatomy",
        name="What the peak is made of",
        drawn=_breakdown_drawn,
        finding=memory_breakdown_finding,
        figure=memory_breakdown_figure,
        reading="Means of the seeds",
        legend=_LEGEND,
        compare=Place(row=3, column=2),
        report=70,
        hides=True,
    ),
)
