"""The results of a sweep as tables: every measure of every variant, and the runs one by one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from ftlab import units
from ftlab.charts.facts import VariantRuns, by_variant
from ftlab.html import chip, named
from ftlab.runs.metrics import METRICS, MetricSpec
from ftlab.runs.result import status_label
from ftlab.words import plural, rate_name, shorten

COLUMNS = 6
"""Variants beside each other; more of them make a further table, so that all fit on paper."""

_LABEL_LENGTH = 40  # of a variant's name where it stands in every cell, on a phone
_EMPTY = Markup("")
_PLAIN_STATUS = {"done": "ok", "queued": "", "running": ""}


def results_section(table: pd.DataFrame) -> Markup:
    """Every measure, means and spread over the runs that are done; the runs below it."""
    groups = by_variant(table)
    blocks = [groups[start : start + COLUMNS] for start in range(0, len(groups), COLUMNS)]
    several = any(len(_done(group).rows) > 1 for group in groups)
    spread = (
        " ± is the standard deviation over the seeds; without it all seeds gave the same, "
        "or there is one."
        if several
        else " One seed each: no spread is known."
    )
    return Markup('<h2>Results</h2><p class="meta">{}{}</p>{}{}').format(
        f"Runs that are done. {units.DASH} is what was not measured.",
        spread,
        _EMPTY.join(_block(block) for block in blocks),
        runs_table(table),
    )


def value_text(metric: MetricSpec, values: Sequence[float]) -> str:
    """As in "1.29 GB ± 12.0 MB"; a dash for none."""
    if not values:
        return units.DASH
    mean = sum(values) / len(values)
    text = metric.format(mean)
    if len(values) > 1:
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        if spread > 1e-9 * abs(mean):
            text += f" ± {metric.spread_text(spread)}"
    return text


def pairs_table(rows: Iterable[tuple[str, str]]) -> Markup:
    """Names and texts in two columns."""
    body = _EMPTY.join(Markup("<tr><th>{}</th><td>{}</td></tr>").format(*row) for row in rows)
    return Markup('<table class="pairs"><tbody>{}</tbody></table>').format(body)


def _block(groups: Sequence[VariantRuns]) -> Markup:
    heads = _EMPTY.join(
        Markup('<th class="num">{}</th>').format(Markup(named(group.method, group.variant)))
        for group in groups
    )
    rows = [
        _row("Runs done", "", groups, _count),
        _row("Settings", "", groups, partial(_texts, key="hyperparameters")),
        _row("Learning rate", "", groups, _rates),
        *(
            _row(
                metric.label,
                f"{metric.unit}, {metric.better} is better",
                groups,
                partial(_measured, metric),
            )
            for metric in METRICS.values()
        ),
    ]
    return Markup(
        '{}<table class="results stack"><thead><tr><th>Measure</th>{}</tr>'
        "</thead><tbody>{}</tbody></table></div>"
    ).format(_scroll("Results"), heads, _EMPTY.join(rows))


def _row(
    name: str, unit: str, groups: Sequence[VariantRuns], show: Callable[[VariantRuns], str]
) -> Markup:
    cells = _EMPTY.join(
        Markup('<td class="num" data-label="{}">{}</td>').format(
            shorten(group.variant, _LABEL_LENGTH), show(group)
        )
        for group in groups
    )
    below = Markup(" <small>{}</small>").format(unit) if unit else _EMPTY
    return Markup("<tr><th>{}{}</th>{}</tr>").format(name, below, cells)


def runs_table(table: pd.DataFrame) -> Markup:
    """One row a run: how it ended, why, and what people noted."""
    rows = _EMPTY.join(_run(row) for row in table.to_dict("records"))
    return Markup(
        "<h3>{}</h3>"
        '{}<table class="runs"><thead><tr><th>Variant</th><th>Seed</th>'
        "<th>Status</th><th>Run</th></tr></thead><tbody>{}</tbody></table></div>"
    ).format(plural(len(table), "run"), _scroll("Runs"), rows)


def _scroll(name: str) -> Markup:
    """Opens a box that scrolls sideways where its table is too wide, also by keyboard."""
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">').format(name)


def _run(row: dict[Any, Any]) -> Markup:
    status = str(row["status"])
    label = status_label(status)
    kind = _PLAIN_STATUS.get(status, "bad")
    remarks = [
        _text(row["reason"]),
        "disturbed by other work: its times are too long" if row["disturbed"] is True else "",
        f"tags: {row['tags']}" if _text(row["tags"]) else "",
        _text(row["note"]),
    ]
    below = _EMPTY.join(Markup("<br><small>{}</small>").format(text) for text in remarks if text)
    made = row["created_at"]
    when = (
        time.strftime("%d %b %Y %H:%M", time.localtime(made))
        if isinstance(made, int | float) and 0 < made < 1e11
        else ""
    )
    return Markup(
        "<tr><th>{}</th><td>{}</td><td>{}</td><td><code>{}</code> <small>{}</small>{}</td></tr>"
    ).format(
        Markup(named(str(row["method"]), str(row["variant"]))),
        _number(row["seed"]),
        Markup(chip(label, kind)),
        row["run_id"],
        when,
        below,
    )


def _measured(metric: MetricSpec, group: VariantRuns) -> str:
    rows = _done(group).rows
    ends = [rows[0][key] for key in metric.interval_keys] if len(rows) == 1 else []
    if ends:
        return metric.text(rows[0][metric.key], *ends)
    return value_text(metric, _done(group).values(metric.key))


def _count(group: VariantRuns) -> str:
    return f"{len(_done(group).rows)} of {len(group.rows)}"


def _done(group: VariantRuns) -> VariantRuns:
    rows = tuple(row for row in group.rows if row["status"] == "done")
    return VariantRuns(group.variant, group.method, rows)


def _texts(group: VariantRuns, key: str) -> str:
    texts = dict.fromkeys(_text(row[key]) for row in group.rows)
    return " / ".join(filter(None, texts)) or units.DASH


def _rates(group: VariantRuns) -> str:
    rates = sorted(set(group.values("learning_rate")))
    return " / ".join(rate_name(rate) for rate in rates) or units.DASH


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> str:
    if isinstance(value, float):
        return units.DASH if math.isnan(value) else f"{value:g}"
    return units.DASH if value is None else str(value)
