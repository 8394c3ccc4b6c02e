"""The runs table and its captions as HTML. No components.

assets/results.js sends the user's actions: `data-open` (a run id), `data-sort` (a column key),
`data-fold` (an origin) and `data-more`. The value of a row's tick box is the ids of its runs.

The browser holds the ticks; assets/results.js sends them. When `data-set` changes, for example
after Clear, the browser replaces its ticks by those in the HTML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

import pandas as pd

from ftlab.basics import units
from ftlab.charts.html import origin_chip
from ftlab.records.comparability import comparability_of_rows
from ftlab.records.result import status_label
from ftlab.records.store import RunStore, UnreadableRun
from ftlab.share.report_sections import IMPORTED, likeness_chip
from ftlab.tabs.address import address_of
from ftlab.tabs.results.columns import (
    COLUMNS,
    COUNT,
    FACETS,
    GROUPS,
    KIND_WORDS,
    ORIGINS,
    PAGE,
    SPREAD,
    Column,
    Query,
    Shown,
    column_label,
    facet_values,
    is_missing,
    memory_kinds,
    run_name,
    sweep_label,
    tags_of,
)
from ftlab.tabs.widgets import chip, escape, named, note_html, plural

_FEW = 2  # a facet with fewer values is useless as a filter


def facets_html(table: pd.DataFrame, chosen: Mapping[str, Collection[str]], version: int) -> str:
    """One group of tick boxes per facet, with the number of runs for each value."""
    groups = []
    for key, label in FACETS.items():
        values, ticked = facet_values(table, key), chosen.get(key, ())
        if len(values) < _FEW and not ticked and key != "tags":
            continue
        known = {value for value, _, _ in values}
        values += [(value, value, 0) for value in ticked if value not in known]
        boxes = [_box(key, value, name, value in ticked, n) for value, name, n in values]
        groups.append(_fieldset(label, boxes))
    return f'<div class="facets" data-set="{version}">{"".join(groups)}</div>'


def columns_html(chosen: Collection[str], version: str) -> str:
    """One group of tick boxes per column group."""
    groups = [
        _fieldset(
            group,
            [
                _box("columns", column.key, column.label, column.key in chosen)
                for column in COLUMNS.values()
                if column.group == group
            ],
        )
        for group in GROUPS
    ]
    return f'<div class="facets" data-set="{version}">{"".join(groups)}</div>'


def _fieldset(title: str, boxes: Sequence[str]) -> str:
    if not boxes:
        return ""
    return f"<fieldset><legend>{escape(title)}</legend><div>{''.join(boxes)}</div></fieldset>"


def _box(name: str, value: str, label: str, on: bool, count: int | None = None) -> str:
    number = "" if count is None else f" <small>{count:,}</small>"
    return (
        f'<label><input type="checkbox" name="{escape(name)}" value="{escape(value)}"'
        f"{' checked' if on else ''}>{escape(label)}{number}</label>"
    )


def like_chip(rows: pd.DataFrame) -> str:
    """Comparability chip for the completed rows; empty for fewer than two variants.

    Runs of one variant get a chip too if they are not comparable: their mean then means little.
    """
    return _chip_and_values(rows)[0]


def ticked_chip(store: RunStore, run_ids: Collection[str]) -> str:
    """The comparability chip for the ticked runs; empty for fewer than two."""
    table = store.table()
    return like_chip(table[table["run_id"].isin(list(run_ids))]) if len(run_ids) > 1 else ""


def _like_line(rows: pd.DataFrame) -> str:
    """The comparability line above the rows of a chosen sweep, with the differing values; empty as
    `like_chip`. Runs of several sweeps are only beside each other: nobody asked to compare them.
    """
    mark, values = _chip_and_values(rows)
    if values:
        mark = chip("not a fair comparison", "warn")
    return f'<p class="like-line">{mark}<small>{escape(values)}</small></p>' if mark else ""


def _chip_and_values(rows: pd.DataFrame) -> tuple[str, str]:
    done = rows[rows["status"] == "done"]
    if len(done) > 1 and (done["origin"] == "imported").all():
        return chip("not compared", "mute", IMPORTED), ""
    found = comparability_of_rows(done)
    return ("", "") if found.kind == "mute" else (likeness_chip(found), found.values)


BUSY = "the computer was busy"
DISTURBED = "▲"
WORSE = "▼"
TIME_KEYS = ("train_seconds", "tokens_per_second")
_ENDED_EARLY = (
    "failed", "out_of_memory", "diverged", "not_applicable", "cancelled", "interrupted",
)  # fmt: skip


def table_html(shown: Shown) -> str:
    """The rows up to the limit, with tick boxes, sort buttons and a "more" button."""
    if shown.rows.empty:
        return ""
    kinds = memory_kinds(shown.matched)
    labels = [column_label(column, kinds) for column in shown.columns]
    body = "".join(_body(shown))
    heads = "".join(map(_head, shown.columns, labels, repeat(shown.query)))
    is_chosen = bool(shown.query.sweep) and not _is_headed(shown)
    like = _like_line(shown.matched) if is_chosen else ""
    return (
        f"{_labels_of_cards(labels)}{_tools_of_cards(shown, labels)}{like}"
        '<div class="run-rows" role="region" aria-label="Runs" tabindex="0">'
        f'<table class="t runs" role="table"><thead role="rowgroup"><tr role="row">'
        f'<th class="box" role="columnheader">{_TICK_ALL}</th>{heads}</tr>'
        f'</thead><tbody role="rowgroup">{body}</tbody></table></div>{_more(shown)}'
    )


def caption(shown: Shown, unreadable: Sequence[UnreadableRun] = ()) -> str:
    """Caption below the table: row count, runs excluded from comparisons, unreadable files."""
    rows = shown.matched
    counts = rows["status"].value_counts()
    lost = [
        f"{counts[status]} {status_label(status)}"
        for status in _ENDED_EARLY
        if counts.get(status, 0)
    ]
    parts = [f"{len(rows):,} of {plural(shown.of, 'run')}."]
    if shown.query.group == "seeds" and len(rows):
        parts.append(
            f"{plural(len(shown.rows), 'row')}: means over seeds, ± the sample standard deviation."
        )
    drawn = len(shown.drawn)
    if drawn < len(shown.rows):
        parts.append(f"{drawn:,} drawn; exports hold all {len(shown.rows):,}.")
    if lost:
        parts.append(f"{', '.join(lost)}: left out of every comparison.")
    if (rows["disturbed"] == True).any():  # noqa: E712 (the column also holds None)
        parts.append(f"{DISTURBED} {BUSY} with other work: times are too long.")
    if (rows["score_gain_high"] < 0).any():
        parts.append(
            f"{WORSE} the score fell below the untouched model's by more than its 95 % interval; "
            "the opened run says what was seen."
        )
    if (rows["origin"] == "opened").any():
        parts.append("From another machine: read-only, with the times and memory of that machine.")
    if len(rows) and (rows["origin"] == "recorded").all():
        parts.append("Recorded on another machine; launch a sweep in Experiment for your own.")
    lines = note_html(" ".join(parts))
    if unreadable:
        items = "".join(
            f"<li><code>{escape(run.run_id)}</code> {escape(run.reason)}</li>" for run in unreadable
        )
        title = f"{len(unreadable):,} of the folders and files cannot be read:"
        lines += f'{note_html(title)}<ul class="notes">{items}</ul>'
    words = shown.query.text.strip()
    named = f" {address_of(search=words)}" if words else ""
    return f'<div class="caption"{named}>{lines}</div>'


def how_measured(shown: Shown) -> str:
    """For each shown measure: unit, direction, method. Also the kinds of memory."""
    items = "".join(
        f"<tr><th>{escape(column.label)}</th><td>{escape(column.how)} "
        f"<small>{escape(column.unit)}, {column.better} is better</small></td></tr>"
        for column in shown.columns
        if column.kind == "measure"
    )
    kinds = memory_kinds(shown.matched)
    words = "; ".join(f"{kind}: {KIND_WORDS.get(kind, kind)}" for kind in kinds)
    memory = note_html(f"Memory here is {words}." if words else "")
    if len(kinds) > 1:
        memory += note_html("Compare memory only between rows of one device.")
    return f'{memory}<table class="t kv">{items}</table>'


def status_chip(status: str) -> str:
    return chip(status_label(status), status)


def _head(column: Column, label: str, query: Query) -> str:
    way, arrow = "", ""
    if query.sort == column.key:
        way = f' aria-sort="{"descending" if query.descending else "ascending"}"'
        arrow = '<i aria-hidden="true">' + ("↓" if query.descending else "↑") + "</i>"
    side = ' class="l"' if column.kind == "text" else ""
    return (
        f'<th{side} role="columnheader" scope="col"{way}>'
        f'<button class="sort" data-sort="{column.key}">{escape(label)}{arrow}</button></th>'
    )


_TICK_ALL = '<input type="checkbox" data-all aria-label="Tick all rows that are drawn">'


def _body(shown: Shown) -> Iterable[str]:
    """A heading row for each origin but one's own, with the rows of those that are unfolded."""
    drawn = shown.drawn
    if not shown.folds:
        yield from _rows(drawn, shown)
        return
    foreign = drawn["origin"].isin(list(shown.folds))
    yield from _rows(drawn[~foreign], shown)
    for origin, count in shown.folds.items():
        yield _fold(shown, origin, count)
        yield from _rows(drawn[drawn["origin"] == origin], shown)


def _fold(shown: Shown, origin: str, count: int) -> str:
    """The heading of an origin; a button unless everything that was found is shown anyway."""
    words = f"{ORIGINS[origin]} <small>{plural(count, 'run')}</small>"
    if shown.can_fold:
        is_open = str(not shown.is_folded(origin)).lower()
        words = (
            f'<button class="fold" data-fold="{origin}" aria-expanded="{is_open}">{words}</button>'
        )
    return _heading_row(words, len(shown.columns), "group origin")


def _heading_row(html: str, columns: int, style: str = "group") -> str:
    return (
        f'<tr role="row" class="{style}"><th role="rowheader" colspan="{columns + 1}">'
        f"<span>{html}</span></th></tr>"
    )


def _rows(rows: pd.DataFrame, shown: Shown) -> Iterable[str]:
    """One `<tr>` per row, plus a heading row above each sweep if rows are grouped by sweep."""
    if rows.empty:
        return
    cells = zip(*(_cells(rows, column) for column in shown.columns), strict=True)
    seeds = "run_ids" in rows
    sweeps = rows["sweep_id"].tolist()
    headings = _sweep_headings(shown, set(sweeps)) if _is_headed(shown) else {}
    last = None
    for ids, name, sweep, row in zip(_ids(rows), rows["variant"], sweeps, cells, strict=True):
        if headings and sweep != last:
            yield headings[sweep]
        last = sweep
        runs = " ".join(map(str, ids))
        about = f"{name}, {plural(len(ids), 'run') if seeds else run_name(ids[0])}"
        opens = "" if seeds else f' data-run="{escape(runs)}"'
        yield (
            f'<tr role="row"{opens}><td class="box" role="cell"><input type="checkbox" '
            f'value="{escape(runs)}" aria-label="Tick {escape(about)}"></td>{"".join(row)}</tr>'
        )


def _ids(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The ids of each row's runs: several in a row of means over seeds."""
    return list(rows["run_ids"] if "run_ids" in rows else zip(rows["run_id"], strict=True))


def _is_headed(shown: Shown) -> bool:
    """Whether each sweep has a heading. Sorted means over seeds mix the sweeps."""
    return shown.query.group == "sweeps" or (shown.query.group == "seeds" and not shown.query.sort)


def _sweep_headings(shown: Shown, drawn: Collection[Any]) -> dict[Any, str]:
    """The heading row of each drawn sweep: name, origin, and comparability of its runs."""
    headings = {}
    matched = shown.matched[shown.matched["sweep_id"].isin(list(drawn))]
    for sweep, rows in matched.groupby("sweep_id", sort=False):
        first = rows.iloc[0]
        label = sweep_label(str(sweep), str(first["task"]), plural(len(rows), "run"))
        mark = "" if first["origin"] == "measured" else f" {origin_chip(first['origin'])}"
        like = like_chip(rows)
        words = f"{escape(label)}{mark}{like and f' {like}'}"
        headings[sweep] = _heading_row(words, len(shown.columns))
    return headings


def _cells(rows: pd.DataFrame, column: Column) -> list[str]:
    """The cells of one column, HTML-escaped."""
    values, seeds = rows[column.key].tolist(), "run_ids" in rows
    side = ' class="l"' if column.kind == "text" else ""
    if column.kind == "measure":
        texts = _measures(rows, column)
    elif column.key == "status":
        texts = list(map(_status, values, rows["origin"]))
    elif column.key == "variant":
        side = ' class="l name"'
        runs = repeat("") if seeds else rows["run_id"]
        texts = list(map(_variant, values, rows["method"], runs))
    elif column.key == "run_id":
        texts = [_runs(ids, opens=seeds) for ids in _ids(rows)]
    elif column.key == "tags":
        texts = [_tags(value) for value in values]
    elif column.key == "origin":
        texts = [origin_chip(str(value)) for value in values]
    else:
        texts = [str(escape(column.text(value))) for value in values]
    return [f'<td{side} role="cell">{text}</td>' for text in texts]


def _measures(rows: pd.DataFrame, column: Column) -> list[str]:
    """The numbers of a measure: disturbed times are marked, with spread or interval if known."""
    texts = [str(escape(column.text(value))) for value in rows[column.key].tolist()]
    if column.key in TIME_KEYS:
        texts = [
            f"{DISTURBED} {text}" if mark is True and text != units.DASH else text
            for text, mark in zip(texts, rows["disturbed"].tolist(), strict=True)
        ]
    if column.key + SPREAD in rows:
        spreads = (rows[column.key + SPREAD], rows[column.key + COUNT])
        return list(map(_spread, repeat(column), texts, *spreads))
    ends = [rows[key] for key in column.interval_keys]
    return list(map(_interval, repeat(column), texts, *ends)) if ends else texts


def _status(status: Any, origin: Any) -> str:
    if origin == "measured":
        return status_chip(str(status))
    mark = origin_chip(str(origin))
    return mark if status == "done" else f"{status_chip(str(status))} {mark}"


def _variant(label: Any, method: Any, run_id: Any) -> str:
    """The variant's name; a button that opens the run, unless `run_id` is ""."""
    name = named(str(method), str(label))
    if not run_id:
        return f'<span class="who">{name}</span>'
    return f'<button class="who" data-open="{escape(run_id)}">{name}</button>'


def _runs(run_ids: Sequence[Any], opens: bool) -> str:
    """Short run names. In a group row they are buttons, because the row holds several runs."""
    names = [(escape(str(run_id)), escape(run_name(str(run_id)))) for run_id in run_ids]
    if not opens:
        return "".join(f'<code title="{run_id}">{name}</code>' for run_id, name in names)
    return " ".join(
        f'<button class="link" data-open="{run_id}" title="{run_id}">{name}</button>'
        for run_id, name in names
    )


def _tags(text: Any) -> str:
    tags = tags_of(text)
    return " ".join(chip(tag, "mute") for tag in tags) if tags else units.DASH


def _spread(column: Column, text: str, spread: float, count: int) -> str:
    """A mean with the standard deviation over seeds and their count; no deviation of one seed."""
    if math.isnan(spread):
        return f"{text} <small>n {count}</small>" if count else text
    written = column.format(spread).removeprefix("+") if spread else "0"
    return f"{text} <small>± {escape(written)}, n {count}</small>"


def _interval(column: Column, text: str, low: Any, high: Any) -> str:
    """A difference with its interval. A significantly lower score gets a mark."""
    if is_missing(low) or is_missing(high):
        return text
    mark = f"{WORSE} " if column.key == "score_gain" and high < 0 else ""
    ends = f"{column.format(low)} to {column.format(high)}"
    return f"{mark}{text} <small>{escape(ends)}</small>"


def _more(shown: Shown) -> str:
    left = len(shown.rows) - len(shown.drawn)
    if left <= 0:
        return ""
    return (
        f'<p class="more"><button class="ghost" data-more>Show {min(left, PAGE)} more</button> '
        f"<small>{left:,} further rows match</small></p>"
    )


def _tools_of_cards(shown: Shown, labels: Sequence[str]) -> str:
    """Sort and tick-all controls for phones, where rows are cards without a header row."""
    chosen = shown.query.sort
    options = "".join(
        f'<option value="{column.key}"{" selected" if column.key == chosen else ""}>'
        f"{escape(label)}</option>"
        for column, label in zip(shown.columns, labels, strict=True)
    )
    return (
        '<div class="cards-tools"><label><input type="checkbox" data-all> Tick all</label>'
        f'<label>Sort <select data-sort-by><option value="">newest first</option>{options}</select>'
        "</label></div>"
    )


def _labels_of_cards(labels: Sequence[str]) -> str:
    """A style element that labels each value of a card with its column."""
    rules = "".join(
        f'.ft .runs td:nth-child({place})::before{{content:"{_css(label)}"}}'
        for place, label in enumerate(labels, start=2)
    )
    return f"<style>@container runs (max-width:640px){{{rules}}}</style>"


def _css(text: str) -> str:
    """Escapes text for a CSS string."""
    return re.sub(r"[^A-Za-z0-9 ]", lambda found: f"\\{ord(found.group()):x} ", text)
