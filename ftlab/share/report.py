"""The report of a sweep: one HTML file with everything that the runs recorded.

It has the finding and its card, what to use, what was held equal, all measures, figures, answers
side by side, how each number was measured, the environment, and the command that repeats the sweep.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from markupsafe import Markup

from ftlab import __version__
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import plural
from ftlab.charts.html import chip
from ftlab.models.reference import model_label
from ftlab.records.result import status_label
from ftlab.records.run import write_atomically
from ftlab.records.store import RunStore, SweepData, notes_of_runs
from ftlab.share.card import DARK, LIGHT, card_png, card_svg
from ftlab.share.card_content import Card, card_of
from ftlab.share.page import NOTHING, each, small_print, standalone, stylesheet
from ftlab.share.report_figures import figures_of, figures_section, scripts
from ftlab.share.report_sections import (
    ended_words,
    environment_section,
    fairness_html,
    measuring_section,
    provenance_section,
    recommendation_section,
    reproduce_section,
    results_section,
    samples_of,
    samples_section,
)


def check_reportable(data: SweepData) -> None:
    """Raises `FtlabError` if no run of the sweep is done."""
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


def sweep_report(
    data: SweepData,
    variant: str | None = None,
    notes: Sequence[str] = (),
    first: Sequence[Markup] = (),
) -> str:
    """Returns the report as one HTML document; the card is about `variant`, else the best one.

    `notes` are sentences to show near its top; `first` are sections to show after the card. Raises
    `FtlabError` if no run is done.
    """
    check_reportable(data)
    card = card_of(data, variant)
    samples = samples_of(data, card.variant)
    figures = figures_of(data)
    broken = [*notes, *(samples.notes if samples else ())]
    sections = [
        _card_section(data, card),
        *first,
        recommendation_section(data.table),
        _fair_section(data, broken),
        provenance_section(data),
        results_section(data.table),
        figures_section(figures, data.table, data.sweep_id),
        samples_section(samples) if samples else NOTHING,
        measuring_section(data),
        environment_section(data),
        reproduce_section(data),
    ]
    return standalone(
        card.sentence, [str(section) for section in sections if section], stylesheet(), scripts()
    )


def _card_section(data: SweepData, card: Card) -> Markup:
    """The card in light and in dark colours; CSS shows only one of them."""
    pictures = Markup(
        '<div class="card light">{}</div><div class="card dark">{}</div>'
    ).format(Markup(card_svg(card, LIGHT)), Markup(card_svg(card, DARK)))  # fmt: skip
    origin = Markup(chip(card.origin_text, data.origin))
    made_of = small_print(origin + " " + _made_of(data))
    return made_of + pictures + small_print(*card.doubts)


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
    missing = data.table[data.table["status"] != "done"]
    items = ended_words(missing)
    return Markup("<h2>What was held equal</h2>{}{}{}{}").format(
        Markup(fairness_html(data)),
        _list(f"{plural(len(items), 'run')} without numbers", items, "warn"),
        _list("Could not be read", list(notes), "warn"),
        _list("Notes of the runs", notes_of_runs(data.runs), ""),
    )


def _list(title: str, sentences: Sequence[str], kind: str) -> Markup:
    if not sentences:
        return NOTHING
    items = each("<li>{}</li>", ((sentence,) for sentence in sentences))
    return Markup('<p class="list">{}</p><ul>{}</ul>').format(Markup(chip(title, kind)), items)


_KINDS = {"report": (".html", ".htm"), "card": (".png", ".svg")}


def check_target(path: Path, what: Literal["report", "card"]) -> None:
    """Raises `FtlabError` if no file can be created at `path`, or by its suffix; a cheap check."""
    _check_replaceable(path)
    if path.suffix.lower() not in _KINDS[what]:
        raise FtlabError(
            f"'{path}' is no name for a {what}: end it with {' or '.join(_KINDS[what])}."
        )


def _check_replaceable(path: Path) -> None:
    if path.is_dir():
        raise FtlabError(f"'{path}' is a folder; name a file in it, as in {path / 'report.html'}.")
    if path.exists() and not path.is_file():
        raise FtlabError(f"'{path}' is no file that can be replaced; name another.")
    if not path.absolute().parent.is_dir():
        raise FtlabError(
            f"The folder '{path.absolute().parent}' does not exist; make it first, or name a file "
            "in a folder that does."
        )


def write_report(path: Path, page: str) -> None:
    """Writes the page atomically; raises `FtlabError` if the file cannot be written."""
    # A record may contain lone surrogates, which UTF-8 cannot encode.
    _write(path, page.encode("utf-8", errors="replace"))


def write_card(path: Path, card: Card) -> None:
    """Writes the card as .png or .svg, by the suffix of `path`; raises as `write_report` does."""
    is_png = path.suffix.lower() == ".png"
    _write(path, card_png(card) if is_png else card_svg(card).encode("utf-8", errors="replace"))


def file_stem(kind: str, *names: str) -> str:
    """A safe file name without suffix, as in "ftlab-card-20261125-120000-ab12-LoRA"."""
    text = "-".join(["ftlab", kind, *filter(None, names)])
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[:120]


def _write(path: Path, data: bytes) -> None:
    _check_replaceable(path)
    try:
        write_atomically(path.resolve(), data)  # replaces the target of a link, not the link
    except OSError as error:
        raise FtlabError(
            f"'{path}' cannot be written ({error.strerror}); "
            "make its folder writable or name another file."
        ) from None
