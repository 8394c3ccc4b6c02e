"""Content of the Compare tab as plain functions: sentences, HTML and charts.

A picture is one chart. Its heading shows the finding, the origin of the numbers, and buttons that
export an image. A line below lists the runs that it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.basics.words import join_names
from ftlab.charts.facts import by_variant, origin_words
from ftlab.charts.html import origin_chip
from ftlab.charts.savings import bars_sentence, compare
from ftlab.charts.spec import ChartSpec, Drawn, Facts, charts, worded
from ftlab.records.recommendation import Preference, recommend
from ftlab.records.result import OPEN
from ftlab.records.store import SweepData
from ftlab.share.card_content import Card, Tile, card_of, card_variants, facts_of
from ftlab.share.page import each
from ftlab.share.report_sections import ended_words, fairness_html
from ftlab.tabs.address import address_of
from ftlab.tabs.results.columns import sweep_label
from ftlab.tabs.widgets import chip, escape, heading, named, note_html, plural

_HIGHEST = 640
FIRST_ROW = 1
"""The row of charts on the first screen, beside the bars."""


@dataclass(frozen=True)
class Picture:
    """A chart of a sweep with the HTML above and below it.

    `facts` is its data, kept for redrawing.
    """

    heading: str
    figure: go.Figure
    note: str
    facts: Facts


@dataclass(frozen=True)
class BarsView:
    """The bar charts, each with a title, their common heading, and the line below them."""

    heading: str
    titles: tuple[str, ...]
    figures: tuple[go.Figure, ...]
    note: str


def bar_charts() -> list[ChartSpec]:
    """Returns the bar charts of the Compare tab, in display order."""
    shown = [chart for chart in charts() if chart.is_bar and chart.compare]
    return sorted(shown, key=lambda chart: chart.report or 0)


def chart_rows() -> dict[int, list[ChartSpec]]:
    """Returns the other charts of the Compare tab by row, each row from left to right."""
    placed = [
        (chart.compare.row, chart.compare.column, chart)
        for chart in charts()
        if chart.compare and not chart.is_bar
    ]
    rows: dict[int, list[ChartSpec]] = {}
    for row, _, chart in sorted(placed, key=lambda place: place[:2]):
        rows.setdefault(row, []).append(chart)
    return rows


def bars_view(data: SweepData) -> BarsView:
    """Returns the bars: the cost of each variant compared with full fine-tuning."""
    facts = Facts(data.table)
    bars = bar_charts()
    return BarsView(
        heading("What it costs", origin_chip(data.origin), sub=bars_sentence(data.table)),
        tuple(bar_title(chart.id, chart.finding(facts)) for chart in bars),
        tuple(chart.figure(facts) for chart in bars),
        _note_of_bars({worded(chart.name, facts): chart.drawn(facts) for chart in bars}),
    )


def bar_title(key: str, title: str) -> str:
    """HTML: the title above the bars of one measure."""
    return f'<div class="named"><h4>{escape(title)}</h4>{image_buttons(key, title)}</div>'


def read_picture(chart: ChartSpec, data: SweepData, given: Mapping[str, Any]) -> Picture | None:
    """Returns the chart of a sweep; `None` if no run has its data and the chart hides then.

    `given` holds the visitor's choices by id.
    """
    facts = Facts(data.table, chart.read(data) if chart.read else None)
    if chart.hides and chart.drawn(facts).rows.empty:
        return None
    return picture_of(chart, data, facts.read, given)


def picture_of(chart: ChartSpec, data: SweepData, read: Any, given: Mapping[str, Any]) -> Picture:
    """Returns the chart, drawn from the data in `read`."""
    chosen = {choice.id: choice.value(given.get(choice.id), data.table) for choice in chart.choices}
    facts = Facts(data.table, read, chosen, _height(chart, data.table))
    words = chart.finding(facts)
    buttons = image_buttons(worded(chart.file, facts) or chart.id, words)
    sub = worded(chart.reading, facts)
    return Picture(
        heading(words, origin_chip(data.origin), buttons, sub=sub),
        chart.figure(facts),
        chart.legend + notes_html(chart.drawn(facts)),
        facts,
    )


def _height(chart: ChartSpec, table: pd.DataFrame) -> int:
    """Returns the minimum height of the figure; the first row is beside two rows of bars."""
    assert chart.compare is not None, f"{chart.id} has no place on the Compare tab"
    if chart.compare.row != FIRST_ROW:
        return chart.compare.height
    return max(chart.compare.height, min(_HIGHEST, 100 + 54 * table["variant"].nunique()))


def notes_html(drawn: Drawn) -> str:
    """HTML: the runs that a chart leaves out, and whether the others are comparable."""
    return note_html(drawn.left_out) + unlike_html(drawn.unlike)


def runs_fold(data: SweepData) -> str:
    """HTML: a button for every run, for users who cannot click a point of a figure."""
    rows = "".join(
        f"<dt>{named(group.method, group.variant)}</dt>"
        f"<dd>{''.join(_run_button(run) for run in group.rows)}</dd>"
        for group in by_variant(data.table, "run_id")
    )
    count = plural(len(data.table), "run")
    return (
        f'<details class="runs ft-opener"><summary>Open one of the {count}</summary>'
        f"<dl>{rows}</dl></details>"
    )


def image_buttons(name: str, title: str) -> str:
    """HTML: buttons that export an image of the figure in the same `.ft-picture`.

    `assets/figures.js` draws it with the title. The file name contains the figure's name, and the
    sweep from the page's `data-address`.
    """
    given = f'data-title="{escape(title)}" data-file="ftlab-{escape(name.replace("_", "-"))}"'
    buttons = "".join(
        f'<button class="ghost" data-image="{kind}" {given} '
        f'aria-label="{kind.upper()} of: {escape(title)}">{kind.upper()}</button>'
        for kind in ("png", "svg")
    )
    return f'<span class="images">{buttons}</span>'


def reading_legend() -> str:
    """HTML: the legend of the marks that say where a number comes from."""
    parts = [
        (chip("measured", "measured"), "by this app, in its runs folder"),
        (origin_chip("opened"), "opened from a packed sweep, read-only"),
        (chip("recorded", "recorded"), "comes with ftlab, run on another machine"),
        (chip("imported", "imported"), "published by others, under their conditions"),
        (chip("predicted", "predicted"), "computed before the run"),
    ]
    words = "".join(f"<span>{mark} {escape(what)}</span>" for mark, what in parts)
    return f'<div class="legend"><span>How to read a number</span>{words}</div>'


def _run_button(run: Mapping[str, Any]) -> str:
    seed = f"seed {run['seed']}"
    return (
        f'<button class="ghost" data-open="{escape(run["run_id"])}" '
        f'aria-label="Open {escape(run["variant"])}, {escape(seed)}">{escape(seed)}</button>'
    )


def _note_of_bars(drawn: Mapping[str, Drawn]) -> str:
    """HTML: what each bar chart leaves out, by name; shown once if it is the same for all."""
    left_out = {name: of.left_out for name, of in drawn.items()}
    unlike = {name: of.unlike for name, of in drawn.items()}
    return "".join(
        [note_html(words) for words in _said_once(left_out)]
        + [unlike_html(words) for words in _said_once(unlike)]
    )


def _said_once(lines: Mapping[str, str]) -> list[str]:
    if len(set(lines.values())) == 1:
        return [next(iter(lines.values()))]
    return [f"{name}: {words}" for name, words in lines.items() if words]


def unlike_html(words: str) -> str:
    """HTML: the line below a figure on why its runs are not comparable; empty without words."""
    return f'<p class="meta unlike">{escape(words)}</p>' if words else ""


_ORIGIN_WORDS = {
    "opened": "From another machine", "recorded": "Recorded", "imported": "Imported",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """The content of the first screen; `pictures` are the charts of the first row."""

    has_results: bool
    fairness: str
    headline: str
    advice: str
    adapters: list[str]
    adapter: str | None
    unfinished: str
    bars: BarsView
    pictures: tuple[Picture | None, ...]


def view(data: SweepData, adapter: str | None, given: Mapping[str, Any]) -> View:
    """Returns the first screen of a sweep; ignores choices that the sweep does not have.

    `adapter` is the variant in the headline; `given` holds the charts' choices by id.
    """
    found = compare(data.table, adapter)
    return View(
        has_results=bool((data.table["status"] == "done").any()),
        fairness=fairness_html(data),
        headline=headline(data, adapter),
        advice=advice(data),
        adapters=card_variants(data) if found else [],
        adapter=str(found.adapter["variant"]) if found else None,
        unfinished=unfinished(data),
        bars=bars_view(data),
        pictures=tuple(read_picture(chart, data, given) for chart in chart_rows()[FIRST_ROW]),
    )


def further(data: SweepData, given: Mapping[str, Any]) -> list[Picture | None]:
    """Returns the charts below the first row."""
    rows = chart_rows()
    return [
        read_picture(chart, data, given) for row in rows if row > FIRST_ROW for chart in rows[row]
    ]


def unfinished(data: SweepData) -> str:
    """HTML: the runs that are not included in this tab's numbers, and why; empty without any."""
    missing = data.table[data.table["status"] != "done"]
    if missing.empty:
        return ""
    items = each("<li>{}</li>", ((words,) for words in ended_words(missing)))
    count = chip(f"{plural(len(missing), 'run')} left out", "warn")
    return (
        f'<p class="meta">{count} of headline, tiles and bars; '
        "what loss they have stays in the figure.</p>"
        f'<ul class="notes">{items}</ul>'
    )


def headline(data: SweepData, variant: str | None = None) -> str:
    """HTML: the card's sentence, and its five tiles if there is something to compare."""
    card = card_of(data, variant)
    title = escape(card.sentence).replace(" %", "\u00a0%")
    tiles = _tiles(card) if card.verdict != "incomplete" else ""
    return (
        f'<section class="savings" {address_of(sweep=data.sweep_id)}>'
        f'<div class="hd"><h2>{title}</h2></div>{tiles}'
        f"{_provenance(data)}</section>"
    )


def advice(data: SweepData, prefer: Preference = "memory") -> str:
    """HTML: which variant to use, with what is not shown, and what the intervals are."""
    found = recommend(data.table, prefer)
    head = heading(found.title, origin_chip(data.origin), sub=found.sentence)
    if not found.basis:
        return head
    details = each("<li>{}</li>", ((sentence,) for sentence in found.details))
    return (
        f'{head}<details class="advice">'
        "<summary>The other variants, and how this was decided</summary>"
        f'<ul class="notes">{details}</ul>{note_html(found.basis)}</details>'
    )


def _tiles(card: Card) -> str:
    *first, last = [_tile(tile) for tile in card.tiles]
    cells = "".join(f"<div>{cell}</div>" for cell in first) + f"<div class=even>{last}</div>"
    doubts = "".join(f'<p class="meta">{escape(doubt)}</p>' for doubt in card.doubts)
    return f'<div class="tiles five">{cells}</div>{doubts}'


def _tile(tile: Tile) -> str:
    detail = "; ".join(filter(None, (tile.detail, tile.more)))
    small = "".join(f"<small>{escape(text)}</small>" for text in (detail, tile.note) if text)
    return f"<b>{escape(tile.value)}</b><span>{escape(tile.label)}</span>{small}"


def _provenance(data: SweepData) -> str:
    if not (data.table["status"] == "done").any():
        return ""
    line = escape(" · ".join((*facts_of(data), origin_words(data.table))))
    return f'<div class="prov">{origin_chip(data.origin)}<span>{line}</span></div>'


def sweep_options(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Returns (label, sweep id) of every sweep: own, opened, recorded, imported; newest first.

    `table` is already in that order, as `to_table` returns it.
    """
    columns = ("sweep_id", "origin", "task", "variant", "status")
    sweeps: dict[str, list[tuple[Any, ...]]] = {}
    for sweep, *row in zip(*(table[column].tolist() for column in columns), strict=True):
        sweeps.setdefault(str(sweep), []).append(tuple(row))
    options = []
    for sweep, rows in sweeps.items():  # of thousands of runs, 20 times as fast as pandas' groups
        origins, tasks, variants, statuses = zip(*rows, strict=True)
        distinct = list(dict.fromkeys(variants))
        names = join_names(distinct)
        short = names if len(names) <= 60 else plural(len(distinct), "variant")
        label = sweep_label(sweep, tasks[0], short, f"{statuses.count('done')} of {len(rows)} done")
        origin = _ORIGIN_WORDS.get(origins[0])
        options.append((f"{origin}: {label}" if origin else label, sweep))
    return options


def default_sweep(table: pd.DataFrame) -> str | None:
    """Returns the newest own sweep that has ended with a finished run, else with any finished run.

    This also holds for the first look: whoever opens a team's app came for the team's numbers.
    Without one, returns an opened sweep, else a recorded one, so that the page is not empty at
    first: the one with the fewest variants, as it is the easiest to read. Else any sweep; `None` if
    there is none.
    """
    for origin in ("measured", "opened", "recorded"):
        rows = table[table["origin"] == origin]
        done = [sweep for sweep, own in _sweeps(rows) if (own["status"] == "done").any()]
        is_open = set(rows["sweep_id"][rows["status"].isin(OPEN)])
        found = [sweep for sweep in done if sweep not in is_open] or done
        if found:
            variants = rows.groupby("sweep_id")["variant"].nunique()
            return min(found, key=variants.__getitem__) if origin == "recorded" else found[0]
    return None if table.empty else str(table["sweep_id"].iloc[0])


def _sweeps(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(sweep), rows) for sweep, rows in table.groupby("sweep_id", sort=False)]
