"""The report of a sweep: one HTML file to send, with everything that the runs say.

The finding and its card, what was held equal, all measures, figures, answers side by side, how
each number was measured, on what, and the command that measures it anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from markupsafe import Markup

from ftlab import __version__
from ftlab.charts.facts import origin_words
from ftlab.errors import FtlabError
from ftlab.html import chip
from ftlab.models.reference import model_label
from ftlab.report.card.content import Card, card_of
from ftlab.report.card.layout import DARK, LIGHT
from ftlab.report.card.svg import card_svg
from ftlab.report.fairness import IMPORTED, fairness_html
from ftlab.report.figures import figures_of, figures_section, scripts
from ftlab.report.origins import (
    environment_section,
    measuring_section,
    provenance_section,
    reproduce_section,
)
from ftlab.report.page import standalone
from ftlab.report.results_table import results_section
from ftlab.report.samples import samples_of, samples_section
from ftlab.report.style import stylesheet
from ftlab.runs.remarks import remarks
from ftlab.runs.result import status_label
from ftlab.runs.store import RunStore
from ftlab.runs.sweep_data import SweepData
from ftlab.words import plural

_EMPTY = Markup("")


def check_reportable(data: SweepData) -> None:
    """Raises `FtlabError` for a sweep of which no run is done."""
    if (data.table["status"] == "done").any():
        return
    counts = data.table["status"].value_counts()
    ended = ", ".join(f"{n} {status_label(name)}" for name, n in counts.items())
    raise FtlabError(
        f"No run of the sweep '{data.sweep_id}' is done ({ended or 'it has no runs'}), so there is "
        "nothing to report; run it again, or name another sweep."
    )


def unreadable_notes(store: RunStore, sweep_id: str) -> list[str]:
    """A sentence for each folder of the sweep that the store could not read."""
    return [
        f"{broken.run_id} cannot be read and is left out: {broken.reason}"
        for broken in store.unreadable
        if broken.run_id.startswith(f"{sweep_id}-")
    ]


def sweep_report(data: SweepData, variant: str | None = None, notes: Sequence[str] = ()) -> str:
    """The report as one HTML document. `variant` is what the card is about, else the best one.

    `notes` are sentences to show near its top. Raises `FtlabError` if no run is done.
    """
    check_reportable(data)
    card = card_of(data, variant)
    samples = samples_of(data, card.variant)
    figures = figures_of(data)
    broken = [*notes, *(samples.notes if samples else ())]
    sections = [
        _card_section(data, card),
        _fair_section(data, broken),
        provenance_section(data),
        results_section(data.table),
        figures_section(figures, data.table, data.sweep_id),
        samples_section(samples) if samples else _EMPTY,
        measuring_section(data),
        environment_section(data),
        reproduce_section(data),
    ]
    return standalone(
        card.sentence, [str(section) for section in sections if section], stylesheet(), scripts()
    )


def _card_section(data: SweepData, card: Card) -> Markup:
    """The card for light and for dark; only one of them is shown."""
    pictures = Markup(
        '<div class="card light">{}</div><div class="card dark">{}</div>'
    ).format(Markup(card_svg(card, LIGHT)), Markup(card_svg(card, DARK)))  # fmt: skip
    doubts = _EMPTY.join(Markup('<p class="meta">{}</p>').format(doubt) for doubt in card.doubts)
    return Markup('<p class="meta">{} {}</p>{}{}').format(
        Markup(chip(origin_words(data.table) or data.origin, data.origin)),
        _made_of(data),
        pictures,
        doubts,
    )


def _made_of(data: SweepData) -> str:
    rows = data.table
    models = dict.fromkeys(model_label(str(name)) for name in rows["model"])
    tasks = dict.fromkeys(str(name) for name in rows["task"])
    done = int((rows["status"] == "done").sum())
    parts = [
        ", ".join(models),
        ", ".join(tasks),
        f"{done} of {plural(len(rows), 'run')} done",
        f"sweep {data.sweep_id}",
        f"report of {time.strftime('%d %b %Y')} by ftlab {__version__}",
    ]
    return " · ".join(filter(None, parts))


def _fair_section(data: SweepData, notes: Sequence[str]) -> Markup:
    if data.origin == "imported":
        words = Markup('<p class="meta">{} {}.</p>').format(
            Markup(chip("imported", "imported")), IMPORTED
        )
    else:
        words = Markup(fairness_html(data.runs))
    missing = data.table[data.table["status"] != "done"]
    items = [
        f"{row.variant}, seed {row.seed}: {status_label(row.status)}"
        + (f". {row.reason}" if row.reason else "")
        for row in missing.itertuples()
    ]
    return Markup("<h2>What was held equal</h2>{}{}{}{}").format(
        words,
        _list(f"{plural(len(items), 'run')} without numbers", items, "warn"),
        _list("Could not be read", list(notes), "warn"),
        _list("Notes of the runs", remarks(data.runs), ""),
    )


def _list(title: str, sentences: Sequence[str], kind: str) -> Markup:
    if not sentences:
        return _EMPTY
    items = _EMPTY.join(Markup("<li>{}</li>").format(sentence) for sentence in sentences)
    return Markup('<p class="list">{}</p><ul>{}</ul>').format(Markup(chip(title, kind)), items)
