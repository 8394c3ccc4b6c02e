"""Reads a grid's prompts from text or a file, and exports its answers as tables. No torch."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import UnsuitableFile, person_path, read_plain
from ftlab.basics.words import inert, plural
from ftlab.playground.grid import Cell, GridDirectory, GridRequest
from ftlab.playground.panes import BASE
from ftlab.playground.requests import MAX_PANES
from ftlab.records.differences import (
    PairedDifference,
    paired_difference,
    paired_interval,
    wilson_interval,
)
from ftlab.records.run import write_atomically
from ftlab.tasks.files import (
    EXTENSIONS,
    MAX_BYTES,
    columns_of,
    guess_mapping,
    list_columns,
    read_rows,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Gain:
    """Mean score of a pane minus the mean of `over`, paired by prompt, with its 95 % interval."""

    over: str
    mean: float
    low: float
    high: float
    prompts: int

    @property
    def is_shown(self) -> bool:
        return PairedDifference(self.mean, self.low, self.high, self.prompts).is_shown


@dataclass(frozen=True)
class PaneSummary:
    """The results of one pane over all prompts.

    `score` is the mean of `scored` answers in [0, 1], `interval` its 95 % interval (`None` for
    fewer than two answers). `right` counts the answers with score 1 if every score of the grid is 0
    or 1, else it is `None`. `gain` is relative to the base pane, or to the first pane if there is
    no base pane; it is `None` for that pane itself. `tokens_per_second` is the median.
    """

    pane: int
    name: str
    label: str
    method: str
    answered: int
    errors: int
    scored: int
    score: float | None
    interval: tuple[float, float] | None
    gain: Gain | None
    metric: str
    right: int | None
    tokens_per_second: float | None


def by_place(cells: Sequence[Cell]) -> dict[tuple[int, int], Cell]:
    """Maps (prompt, pane) to the cell."""
    return {(cell.prompt, cell.pane): cell for cell in cells}


def pane_labels(request: GridRequest) -> list[str]:
    """Returns one unique label per pane: a second "LoRA" becomes "LoRA (2)"."""
    labels: list[str] = []
    for pane in range(len(request.panes)):
        label, count = request.label(pane), 2
        while label in labels:
            label, count = f"{request.label(pane)} ({count})", count + 1
        labels.append(label)
    return labels


def to_table(grid: GridDirectory) -> pd.DataFrame:
    """One row per prompt: "prompt", then for each pane "… answer", "… score" and "… verdict".

    An error is shown in brackets as the answer; unfinished cells are missing. Without any score the
    score and verdict columns are omitted. Raises `FtlabError` for a grid that cannot be read.
    """
    import pandas as pd

    request, cells = grid.request(), grid.cells()
    places = by_place(cells)
    is_scored = any(cell.score is not None for cell in cells)
    columns: dict[str, list[object]] = {"prompt": list(request.prompts)}
    for pane, label in enumerate(pane_labels(request)):
        column = [places.get((prompt, pane)) for prompt in range(len(request.prompts))]
        columns[f"{label} answer"] = [
            None if cell is None else f"[{cell.error}]" if cell.error else cell.answer
            for cell in column
        ]
        if is_scored:
            columns[f"{label} score"] = [cell.score if cell else None for cell in column]
            columns[f"{label} verdict"] = [cell.verdict if cell else None for cell in column]
    return pd.DataFrame(columns)


def summary(grid: GridDirectory) -> list[PaneSummary]:
    """Returns the results per pane; raises `FtlabError` for a grid that cannot be read."""
    request, cells = grid.request(), grid.cells()
    labels = pane_labels(request)
    is_binary = all(cell.score in (0, 1) for cell in cells if cell.score is not None)
    scores = [
        {cell.prompt: cell.score for cell in cells if cell.pane == pane and cell.score is not None}
        for pane in range(len(labels))
    ]
    reference = request.panes.index(BASE) if BASE in request.panes else 0
    found = []
    for pane, label in enumerate(labels):
        own = [cell for cell in cells if cell.pane == pane]
        values = list(scores[pane].values())
        rates = [c.tokens_per_second for c in own if c.tokens_per_second is not None]
        gain = _gain(scores[reference], scores[pane], labels[reference])
        found.append(
            PaneSummary(
                pane=pane,
                name=request.panes[pane],
                label=label,
                method=request.method(pane),
                answered=sum(not cell.error for cell in own),
                errors=sum(bool(cell.error) for cell in own),
                scored=len(values),
                score=statistics.fmean(values) if values else None,
                interval=_interval(values, is_binary),
                gain=None if pane == reference else gain,
                metric=next((cell.metric for cell in own if cell.metric), ""),
                right=sum(value == 1 for value in values) if values and is_binary else None,
                tokens_per_second=statistics.median(rates) if rates else None,
            )
        )
    return found


def headline(grid: GridDirectory) -> str:
    """Describes the grid in one sentence; claims a difference only if its interval shows it.

    Example: "LoRA answers 14 of 20 test questions; Base 6."; for a graded metric, mean scores.
    Without scores it gives the number of answers. Of more panes than a screen shows, it names the
    best and the base.
    """
    panes = summary(grid)
    if not any(pane.scored for pane in panes):
        return _without_scores(grid.request(), panes)
    order = by_score([pane for pane in panes if pane.score is not None])
    named = foremost(order)
    others = f"; {len(order) - len(named)} more" if len(named) < len(order) else ""
    order = named
    parts = [_part(pane, order[0]) for pane in order]
    gains = [pane.gain for pane in order if pane.gain]
    if not gains:
        return f"{'; '.join(parts)}{others}."
    if not any(gain.is_shown for gain in gains):
        return f"{', '.join(parts)}: no difference shown{others}."
    doubts = [
        f" (no difference from {pane.gain.over} shown)"
        if pane.gain and not pane.gain.is_shown
        else ""
        for pane in order
    ]
    said = "; ".join(part + doubt for part, doubt in zip(parts, doubts, strict=True))
    return f"{said}{others}."


def by_score(panes: Sequence[PaneSummary]) -> list[PaneSummary]:
    """The best first; those without a score are last, in their own order."""
    return sorted(panes, key=lambda pane: 1.0 if pane.score is None else -pane.score)


def foremost(panes: Sequence[PaneSummary]) -> list[PaneSummary]:
    """As many of them as a screen shows side by side, and the base."""
    return [pane for place, pane in enumerate(panes) if place < MAX_PANES or pane.name == BASE]


def _part(pane: PaneSummary, first: PaneSummary) -> str:
    """One pane's part of the headline; the first pane's part also names the unit or metric."""
    if pane.right is None:
        score = f"{pane.label} {pane.score:.2f}"
        return f"{pane.label} scores {pane.score:.2f} ({pane.metric})" if pane is first else score
    if pane is first:
        questions = plural(pane.scored, "test question")
        return f"{pane.label} answers {pane.right} of {questions}"
    return f"{pane.label} {pane.right}" + f" of {pane.scored}" * (pane.scored != first.scored)


def _without_scores(request: GridRequest, panes: Sequence[PaneSummary]) -> str:
    answered = sum(pane.answered for pane in panes)
    errors = sum(pane.errors for pane in panes)
    text = (
        f"{plural(len(request.prompts), 'prompt')} in {plural(len(panes), 'pane')}: "
        f"{answered} of {request.cells} answered"
    )
    return f"{text}, {plural(errors, 'error')}." if errors else f"{text}."


def _gain(base: Mapping[int, float], own: Mapping[int, float], over: str) -> Gain | None:
    both = sorted(base.keys() & own.keys())
    found = paired_difference([base[p] for p in both], [own[p] for p in both])
    return Gain(over, found.mean, found.low, found.high, found.examples) if found else None


def _interval(values: Sequence[float], is_binary: bool) -> tuple[float, float] | None:
    """Wilson's for 0/1 scores (a bootstrap of 0 of 20 would have width 0), else a bootstrap's."""
    if len(values) < 2:
        return None
    if is_binary:
        return wilson_interval(sum(values), len(values))
    _, low, high = paired_interval([0.0] * len(values), values)
    return low, high


CSV_COLUMNS = (
    "grid", "number", "prompt", "pane", "label",
    *(field.name for field in fields(Cell) if field.name not in ("prompt", "pane")),
)  # fmt: skip
"""`number` is the prompt's number from 1; `pane` is the requested name: "base", a run id, …"""


def write_csv(grid: GridDirectory, path: Path) -> None:
    """Writes one row per cell with the columns of `CSV_COLUMNS`, UTF-8, by atomic rename.

    A text that begins with =, +, -, @, a tab or a line end (also after spaces) gets an apostrophe
    in front, so that a spreadsheet does not run a model's answer as a formula. Raises `FtlabError`
    for a grid that cannot be read, `OSError` for a path that cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS)  # with the line end \r\n it also quotes a lone \r
    writer.writeheader()
    for row in _rows(grid):
        writer.writerow({key: inert(value) for key, value in row.items()})
    write_atomically(path, text.getvalue().encode())


def as_record(grid: GridDirectory) -> dict[str, Any]:
    """The grid as a JSON-compatible dict: status, headline, panes and cells with raw numbers."""
    result = grid.result()
    return {
        "grid": grid.grid_id,
        "status": grid.status(),
        "reason": result.reason if result else "",
        "headline": headline(grid),
        "panes": [asdict(pane) for pane in summary(grid)],
        "cells": list(_rows(grid)),
    }


def _rows(grid: GridDirectory) -> Iterator[dict[str, Any]]:
    request = grid.request()
    labels = pane_labels(request)
    for cell in sorted(grid.cells(), key=lambda cell: (cell.prompt, cell.pane)):
        yield asdict(cell) | {
            "grid": grid.grid_id,
            "number": cell.prompt + 1,
            "prompt": request.prompts[cell.prompt],
            "pane": request.panes[cell.pane],
            "label": labels[cell.pane],
        }


BORDER = "---"
"""Separator line between multi-line prompts."""

_TEXT = ".txt"


def read_prompts(text: str) -> list[str]:
    """Splits text into prompts: one per line, or, if any line is only "---", one per block.

    Blank prompts are skipped; white space around prompts is removed.
    """
    # Not splitlines: a form feed or U+2028 inside a prompt must not end a line.
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not any(line.strip() == BORDER for line in lines):
        return [line.strip() for line in lines if line.strip()]
    groups = groupby(lines, lambda line: line.strip() == BORDER)
    blocks = ("\n".join(block).strip() for is_border, block in groups if not is_border)
    return [block for block in blocks if block]


def prompts_of_file(path: Path) -> list[str]:
    """Reads prompts from a text file, or from the prompt column of CSV, JSON, JSONL or Parquet.

    The column is found by its name, as for a task ("prompt", "question", …). Raises `FtlabError`
    for a file that cannot be read, has no such column, or contains no prompt.
    """
    path = person_path(str(path))
    if path.suffix.lower() == _TEXT:
        prompts = read_prompts(_text(path))
    elif path.suffix.lower() in EXTENSIONS or not path.is_file():
        prompts = _column(path)
    else:
        raise FtlabError(
            f"{path.name} ends in '{path.suffix}', which is no kind of prompt file; use one of: "
            f"{', '.join([_TEXT, *EXTENSIONS])}."
        )
    if not prompts:
        raise FtlabError(f"{path.name} holds no prompt; write one a line.")
    return prompts


def _text(path: Path) -> str:
    try:
        return read_plain(path, MAX_BYTES, follow_link=True).decode("utf-8")
    except UnsuitableFile:
        raise
    except OSError as error:
        raise FtlabError(f"The file '{path}' cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise FtlabError(
            f"{path.name} is not UTF-8 at byte {error.start:,}; save it again as UTF-8."
        ) from None


def _column(path: Path) -> list[str]:
    rows = read_rows(path)
    columns = columns_of(rows)
    column = guess_mapping(columns, []).prompt  # by name only: a chat column is not a prompt
    if column is None:
        raise FtlabError(
            f"{path.name} has no column of prompts; call one 'prompt'. Its columns: "
            f"{list_columns(columns)}."
        )
    return [text for text in (_cell(row.get(column)) for row in rows) if text]


def _cell(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()  # NaN != NaN
