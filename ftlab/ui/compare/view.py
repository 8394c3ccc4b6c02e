"""What the Compare tab shows of which sweep, as plain functions: sentences and HTML out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ftlab.charts.facts import origin_words
from ftlab.charts.savings import adapters, compare, variant_means
from ftlab.html import origin_chip
from ftlab.report.card.content import Card, Tile, card_of
from ftlab.report.card.facts import facts_of
from ftlab.report.fairness import IMPORTED, fairness_html
from ftlab.runs.result import OPEN, status_label
from ftlab.runs.sweep_data import SweepData
from ftlab.ui.compare.figures import (
    FIRST_ROW,
    BarsView,
    Picture,
    bars_view,
    chart_rows,
    read_picture,
)
from ftlab.ui.html import chip, escape, plural
from ftlab.ui.results.names import sweep_label
from ftlab.words import join_names

_ORIGIN_WORDS = {"recorded": "Recorded", "imported": "Imported"}


@dataclass(frozen=True)
class View:
    """What fills the first screen; `pictures` are those of the charts of the first row."""

    fairness: str
    headline: str
    adapters: list[str]
    adapter: str | None
    unfinished: str
    bars: BarsView
    pictures: tuple[Picture | None, ...]


def view(data: SweepData, adapter: str | None, given: Mapping[str, Any]) -> View:
    """The first screen of a sweep. What was chosen counts as far as the sweep has it.

    `adapter` is the variant in the headline, `given` what was chosen of the charts, by id.
    """
    found = compare(data.table, adapter)
    return View(
        fairness=fairness(data),
        headline=headline(data, adapter),
        adapters=adapter_choices(data.table) if found else [],
        adapter=str(found.adapter["variant"]) if found else None,
        unfinished=unfinished(data),
        bars=bars_view(data),
        pictures=tuple(read_picture(chart, data, given) for chart in chart_rows()[FIRST_ROW]),
    )


def further(data: SweepData, given: Mapping[str, Any]) -> list[Picture | None]:
    """The charts below the first row."""
    rows = chart_rows()
    return [
        read_picture(chart, data, given) for row in rows if row > FIRST_ROW for chart in rows[row]
    ]


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
    """HTML: the sentence of the card, and its five tiles if there is something to compare."""
    card = card_of(data, variant)
    title = escape(card.sentence).replace(" %", "\u00a0%")
    tiles = _tiles(card) if card.verdict != "incomplete" else ""
    return (
        f'<section class="savings" data-sweep="{escape(data.sweep_id)}">'
        f'<div class="hd"><h2>{title}</h2></div>{tiles}'
        f"{_provenance(data)}</section>"
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
    """(label, sweep id) of every sweep: own ones, then recorded, then imported, newest first.

    `table` is in that order, as `to_table` makes it.
    """
    options = []
    for sweep, rows in _sweeps(table):
        done = int((rows["status"] == "done").sum())
        names = join_names(list(dict.fromkeys(rows["variant"])))
        short = names if len(names) <= 60 else plural(rows["variant"].nunique(), "variant")
        label = sweep_label(sweep, rows["task"].iloc[0], short, f"{done} of {len(rows)} done")
        origin = _ORIGIN_WORDS.get(rows["origin"].iloc[0])
        options.append((f"{origin}: {label}" if origin else label, sweep))
    return options


def default_sweep(table: pd.DataFrame) -> str | None:
    """The newest own sweep that ended with a run done, else the newest own with one done.

    Without either a recorded sweep, so that the page is not empty at first: the one of the fewest
    variants, as the easiest to read. Else any sweep.
    """
    for origin in ("measured", "recorded"):
        rows = table[table["origin"] == origin]
        done = [sweep for sweep, own in _sweeps(rows) if (own["status"] == "done").any()]
        ended = [
            sweep
            for sweep, own in _sweeps(rows)
            if sweep in done and not own["status"].isin(OPEN).any()
        ]
        if ended or done:
            found = ended or done
            return min(found, key=_variants(rows)) if origin == "recorded" else found[0]
    return None if table.empty else str(table["sweep_id"].iloc[0])


def _variants(rows: pd.DataFrame) -> Callable[[str], int]:
    """How many variants a sweep of those rows holds."""
    counts = rows.groupby("sweep_id")["variant"].nunique()
    return lambda sweep: int(counts[sweep])


def _sweeps(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(sweep), rows) for sweep, rows in table.groupby("sweep_id", sort=False)]
