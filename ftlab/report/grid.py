"""A prompt grid as a section of a report: what was found, under which settings, every answer."""

from __future__ import annotations

import time
import textwrap

from markupsafe import Markup

from ftlab import units
from ftlab.html import chip, named
from ftlab.models.reference import model_label
from ftlab.playground.grid.record import Cell, GridDirectory, GridRequest
from ftlab.playground.grid.table import (
    PaneSummary,
    by_place,
    headline,
    pane_labels,
    summary,
)
from ftlab.playground.protocol import PRECISIONS
from ftlab.report.page import standalone

_EMPTY = Markup("")


def grid_page(grid: GridDirectory) -> str:
    """The section as one file to send."""
    return standalone(headline(grid), [grid_section(grid)])


def grid_section(grid: GridDirectory) -> str:
    """The section's HTML, everything escaped; raises `FtlabError` for a grid that cannot be read.

    A grid that has not ended shows what it has so far.
    """
    request = grid.request()
    panes = summary(grid)
    parts = [
        Markup("<h2>{}</h2>").format(headline(grid)),
        Markup('<p class="meta">{}</p>').format(settings_line(grid)),
        _summary_table(panes),
        _answers(request, grid.cells()),
    ]
    return str(_EMPTY.join(parts))


def settings_line(grid: GridDirectory) -> str:
    """Everything that another grid must share to be compared with this one, as plain text."""
    request, result = grid.request(), grid.result()
    asked = request.request
    drawn = f"temperature {asked.temperature:g}, top-p {asked.top_p:g}, seed {asked.seed}"
    device = str(result.environment.get("device", "")) if result else ""
    status = grid.status()
    parts = [
        model_label(asked.model or ""),
        f"base in {PRECISIONS[asked.precision]}",
        "" if asked.mode == "chat" else asked.mode,
        drawn if asked.temperature > 0 else f"greedy, seed {asked.seed}",
        f"repetition penalty {asked.repetition_penalty:g}" if asked.repetition_penalty > 1 else "",
        f"at most {asked.max_new_tokens} tokens",
        f"system prompt “{textwrap.shorten(asked.system, 160, placeholder=' …')}”" if asked.system else "",
        f"held-out examples of {request.task.label}" if request.task else "",
        time.strftime("%d %b %Y %H:%M", grid.made_at),
        device,
        f"{units.format_seconds(result.seconds)} in all" if result and result.seconds else "",
        "" if status == "done" else status + (f": {result.reason}" if result else ""),
    ]
    return " · ".join(filter(None, parts))


def _summary_table(panes: list[PaneSummary]) -> Markup:
    is_scored = any(pane.scored for pane in panes)
    over = next((pane.gain.over for pane in panes if pane.gain), "")
    heads = ["Answered", "Errors"]
    if is_scored:
        metric = next((pane.metric for pane in panes if pane.metric), "")
        heads += [f"{metric or 'Score'}, 95 %"]
        heads += [f"Over {over}, 95 %"] if over else []
    heads.append("Tokens/s, median")
    rows = []
    for pane in panes:
        cells = [str(pane.answered), str(pane.errors)]
        if is_scored:
            cells.append(_score(pane))
            cells += [_gain(pane)] if over else []
        cells.append(units.format_number(pane.tokens_per_second, 1))
        numbers = _EMPTY.join(
            Markup('<td class="num" data-label="{}">{}</td>').format(name, cell)
            for name, cell in zip(heads, cells, strict=True)
        )
        rows.append(
            Markup("<tr><th>{}</th>{}</tr>").format(Markup(named(pane.method, pane.label)), numbers)
        )
    head = _EMPTY.join(Markup('<th class="num">{}</th>').format(name) for name in heads)
    return Markup(
        '<div class="scroll"><table class="stack"><thead><tr><th>Pane</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, _EMPTY.join(rows))


def _score(pane: PaneSummary) -> str:
    if pane.score is None:
        return units.DASH
    count = f"{pane.right} of {pane.scored} = " if pane.right is not None else ""
    between = f" [{pane.interval[0]:.2f}, {pane.interval[1]:.2f}]" if pane.interval else ""
    return f"{count}{pane.score:.2f}{between}"


def _gain(pane: PaneSummary) -> str:
    gain = pane.gain
    return f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]" if gain else units.DASH


def _answers(request: GridRequest, cells: list[Cell]) -> Markup:
    places, labels = by_place(cells), pane_labels(request)
    heads = _EMPTY.join(
        Markup("<th>{}</th>").format(Markup(named(request.method(pane), label)))
        for pane, label in enumerate(labels)
    )
    rows = []
    for number, prompt in enumerate(request.prompts):
        answers = _EMPTY.join(
            Markup('<td data-label="{}">{}</td>').format(label, _answer(places.get((number, pane))))
            for pane, label in enumerate(labels)
        )
        rows.append(
            Markup(
                '<tr><td class="n">{}</td><td data-label="Prompt"><div class="text">{}</div></td>{}'
                "</tr>"
            ).format(number + 1, prompt, answers)
        )
    return Markup(
        '<div class="scroll"><table class="answers stack"><thead><tr><th class="n">#</th>'
        "<th>Prompt</th>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(heads, _EMPTY.join(rows))


def _answer(cell: Cell | None) -> Markup:
    if cell is None:
        return Markup("<small>not answered</small>")
    text = Markup('<div class="text">{}</div>').format(cell.answer) if cell.answer else _EMPTY
    if cell.error:
        return text + Markup(chip("error", "bad")) + Markup(" <small>{}</small>").format(cell.error)
    if not cell.answer:
        text = Markup("<small>empty answer</small> ")
    note = Markup("<br><small>{}</small>").format(cell.note) if cell.note else _EMPTY
    return text + _verdict(cell) + note


def _verdict(cell: Cell) -> Markup:
    """The verdict in words, or the score where there are none; never by colour alone."""
    if cell.score is None:
        return _EMPTY
    kind = "ok" if cell.score == 1 else "bad" if cell.score == 0 else ""
    return Markup(chip(cell.verdict or f"{cell.metric} {cell.score:.2f}".strip(), kind))
