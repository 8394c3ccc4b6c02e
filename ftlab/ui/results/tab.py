"""The Results tab: every run as a row, one run opened beside it, and exports of what is shown."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ftlab.errors import FtlabError
from ftlab.recent import Recent
from ftlab.runs.progress import ProgressBook
from ftlab.runs.published import import_files
from ftlab.runs.result import OPEN
from ftlab.runs.store import RunStore
from ftlab.ui.context import AppContext
from ftlab.ui.events import QUIET, Action, opened
from ftlab.ui.html import escape, field_error
from ftlab.ui.links import Links
from ftlab.ui.making import FilesAVisitor, one_at_a_time
from ftlab.ui.results.bar import Bar, build_bar, run_id_in, said_html, wire_bar
from ftlab.ui.results.choices import columns_html, facets_html
from ftlab.ui.results.columns import COLUMNS, in_order, usual_columns
from ftlab.ui.results.filter import ALL_SWEEPS, Filters, known_facets, sweep_choices
from ftlab.ui.results.html import caption, how_measured, table_html
from ftlab.ui.results.layout import EMPTY, NOTHING_FOUND, Sheet, Tools, build_sheet, build_tools
from ftlab.ui.results.ranges import MAX_CHARACTERS
from ftlab.ui.results.rows import PAGE, Group, Query, first_direction, show
from ftlab.ui.results.side import Side, build_side, facts, opened_run, wire_side
from ftlab.ui.results.table import write_export

_REFRESH_SECONDS = 3
_MOST_DRAWN = 32  # answers kept, of about 0.1 MB each
_SAVE_FILE = "() => document.getElementById('results-file')?.click()"


@dataclass(frozen=True)
class View:
    """How a visitor looks at the table, beyond what the fields above it hold.

    `version` counts how often Python set the tick boxes of filters and columns anew.
    """

    facets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    conditions: str = ""
    columns: tuple[str, ...] = ()
    sort: str = ""
    descending: bool = False
    limit: int = PAGE
    version: int = 0

    def query(self, text: str, sweep: str | None, group: Group, archived: bool) -> Query:
        filters = Filters(sweep or ALL_SWEEPS, text or "", self.facets, self.conditions, archived)
        return Query(filters, self.columns, self.sort, self.descending, group, self.limit)


@dataclass(frozen=True)
class Answer:
    """What the page shows of the table: the same answer is not sent again."""

    table: str
    below: str
    how: str
    facets: str
    columns: str
    wrong: str
    fold: str
    empty: str
    sweeps: tuple[tuple[str, str], ...]
    sweep: str
    is_open: bool

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:24]


def build(context: AppContext, links: Links) -> None:
    """Lays the tab out and wires it."""
    store = context.store
    tools = build_tools(context.access.may_upload)
    bar = build_bar()
    with gr.Row(elem_classes="ft-work"):
        sheet = build_sheet()
        side = build_side()
    view, seen = gr.State(View()), gr.State("")  # digest of what is on the page
    timer = gr.Timer(_REFRESH_SECONDS, active=False)
    fields = [tools.text, tools.sweep, tools.group, tools.archived]
    shown = [
        sheet.table, sheet.below, sheet.how, tools.facets, tools.columns, tools.wrong, tools.fold,
        sheet.empty, tools.sweep, timer, seen,
    ]  # fmt: skip

    def refresh(view: View, text: str, sweep: str, group: Group, archived: bool, digest: str
                ) -> list[Any]:  # fmt: skip
        return refreshed(store, view.query(text, sweep, group, archived), view.version, digest)

    drawn = Drawn(store)

    def tick(view: View, text: str, sweep: str, group: Group, archived: bool, digest: str
             ) -> list[Any]:  # fmt: skip
        now = drawn.answer(view.query(text, sweep, group, archived), view.version)
        return updates(now, digest)

    action = Action(refresh, [view, *fields, seen], shown)
    timer.tick(tick, action.inputs, shown, queue=False, **QUIET)
    gr.on(
        [
            opened(),
            tools.text.change,
            tools.sweep.input,
            tools.group.input,
            tools.archived.input,
        ],
        refresh,
        action.inputs,
        shown,
        trigger_mode="always_last",
        **QUIET,
    )
    _wire_view(tools, sheet, view, action)
    _wire_files(tools, bar, store, view, fields, action)
    _wire_opening(sheet, side, timer, store, links)
    wire_side(side, store, action)
    wire_bar(bar, sheet.table, side, store, links, action)


def _wire_view(tools: Tools, sheet: Sheet, view: gr.State, action: Action) -> None:
    """Sorting, more rows, ticks of filters and columns: each changes the view, then the table."""

    def hang(
        event: Callable[..., Any], change: Callable[..., View], *more: Any, quick: bool = False
    ) -> None:
        def handler(event: gr.EventData, view: View, *rest: Any) -> list[Any]:
            now = change(view, event, *rest[: len(more)])
            return [now, *action.handler(now, *rest[len(more) :])]

        event(handler, [view, *more, *action.inputs[1:]], [view, *action.outputs], **QUIET)

    hang(sheet.table.submit, lambda view, event: arranged(view, event._data))
    hang(tools.facets.input, lambda view, event: with_facets(view, event._data))
    hang(tools.columns.input, lambda view, event: with_columns(view, event._data))
    hang(
        tools.usual.click,
        lambda view, event: replace(view, columns=(), version=view.version + 1),
    )
    for event in (tools.conditions.submit, tools.conditions.blur):
        hang(event, with_conditions, tools.conditions)

    def clear(view: View) -> list[Any]:
        now = replace(view, facets={}, conditions="", limit=PAGE, version=view.version + 1)
        return [now, "", "", ALL_SWEEPS, False]

    cleared = tools.clear.click(
        clear,
        view,
        [view, tools.conditions, tools.text, tools.sweep, tools.archived],
        **QUIET,
    )
    action.after(cleared)


def _wire_files(
    tools: Tools, bar: Bar, store: RunStore, view: gr.State, fields: list[Any], action: Action
) -> None:
    """Exports, written when they are asked for, and results of others that are brought along."""
    files = FilesAVisitor()
    for button, kind in ((tools.csv, "csv"), (tools.json, "json")):

        def export(request: gr.Request, view: View, *values: Any, kind: str = kind) -> str:
            try:
                files.check(request)
            except FtlabError as error:
                raise gr.Error(str(escape(str(error))), print_exception=False) from None
            folder = Path(get_upload_folder()) / "ftlab"
            return write_export(show(store.table(), view.query(*values)), kind, folder)

        button.click(export, [view, *fields], tools.file, **one_at_a_time("exports"))
    tools.file.change(fn=None, js=_SAVE_FILE, api_visibility="private")

    def bring(paths: list[str]) -> str:
        return imported_html(store, paths or [])

    action.after(tools.bring.upload(bring, tools.bring, bar.said, **QUIET))


def _wire_opening(sheet: Sheet, side: Side, timer: gr.Timer, store: RunStore, links: Links) -> None:
    """A row opens its run, and so does another tab; an open run is kept up to date."""

    def select(event: gr.EventData) -> list[Any]:
        return opened_run(store, run_id_in(getattr(event, "run", None)))

    def follow(run_id: str) -> list[Any]:
        if not run_id:
            return [gr.skip()] * (1 + len(side.outputs))
        return ["", *opened_run(store, run_id)]

    def tick(run_id: str, last: tuple[str, ...]) -> list[Any]:
        if not run_id:
            return [gr.skip()] * (1 + len(side.facts))
        now = facts(store, run_id, book.read)
        return [now, *(gr.skip() if now == last else part for part in now or side.facts)]

    last = gr.State(())
    book = ProgressBook()
    sheet.table.select(select, None, side.outputs, **QUIET)
    links.run.change(follow, links.run, [links.run, *side.outputs], **QUIET)
    timer.tick(tick, [side.chosen, last], [last, *side.facts], queue=False, **QUIET)


def with_conditions(view: View, _: gr.EventData, text: str | None) -> View:
    """The view with those conditions, of which a session keeps what says that they are too long."""
    return replace(view, conditions=(text or "")[: MAX_CHARACTERS + 1])


def arranged(view: View, data: Any) -> View:
    """The view after a press on a head (best first, then turned round, then as it was) or More."""
    asked = data if isinstance(data, dict) else {}
    if asked.get("more") is True:
        return replace(view, limit=view.limit + PAGE)
    key = asked.get("sort")
    if not isinstance(key, str) or key not in COLUMNS:
        return replace(view, sort="", descending=False)
    best_first = first_direction(key)
    if view.sort != key:
        return replace(view, sort=key, descending=best_first)
    if view.descending == best_first:
        return replace(view, descending=not best_first)
    return replace(view, sort="", descending=False)


def with_facets(view: View, data: Any) -> View:
    """The view with the filters that the browser says are ticked."""
    return replace(view, facets=known_facets(data.get("on") if isinstance(data, dict) else None))


def with_columns(view: View, data: Any) -> View:
    """The view with the columns that the browser says are ticked; none: the usual ones."""
    on = data.get("on") if isinstance(data, dict) else None
    keys = on.get("columns") if isinstance(on, dict) else None
    return replace(view, columns=in_order(keys) if isinstance(keys, list) else ())


class Drawn:
    """Answers that were drawn lately, for pages that ask every few seconds for the same."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._known: Recent[str, Answer] = Recent(_MOST_DRAWN)
        self._turn = threading.Lock()

    def answer(self, query: Query, version: int) -> Answer:
        """As `answer`, of runs that are up to a second old."""
        with self._turn:
            self._store.recent_runs()
            key = repr((self._store.changes, query, version))  # a query has no hash
            now = self._known.get(key) or answer(self._store, query, version, recent=True)
            self._known[key] = now
            return now


def answer(store: RunStore, query: Query, version: int = 0, recent: bool = False) -> Answer:
    """The table as the query asks for it, drawn; `recent` as in `RunStore.recent_runs`."""
    table = store.table(recent=recent)
    sweeps = sweep_choices(table)
    if query.filters.sweep not in [value for _, value in sweeps]:
        query = replace(query, filters=replace(query.filters, sweep=ALL_SWEEPS))
    found = show(table, query)
    folded = query.filters.folded
    nothing = NOTHING_FOUND if len(table) else EMPTY
    usual = usual_columns(table)
    return Answer(
        table=table_html(found),
        below=caption(found, store.unreadable) if len(table) or store.unreadable else "",
        how=how_measured(found),
        facets=facets_html(table, query.filters.facets, version),
        columns=columns_html(query.columns or usual, f"{version}.{len(usual)}"),
        wrong=field_error([found.error]) if found.error else "",
        fold=f"Filters ({folded} at work)" if folded else "Filters",
        empty=nothing if found.rows.empty else "",
        sweeps=tuple(sweeps),
        sweep=query.filters.sweep,
        is_open=bool(table["status"].isin(OPEN).any()),
    )


def refreshed(store: RunStore, query: Query, version: int, digest: str) -> list[Any]:
    """Updates for the table and all around it; nothing at all if the page shows just that."""
    return updates(answer(store, query, version), digest)


def updates(now: Answer, digest: str) -> list[Any]:
    """One update an output, as `refreshed` says."""
    if now.digest == digest:
        return [gr.skip()] * 11
    return [
        now.table,
        now.below,
        now.how,
        now.facets,
        now.columns,
        now.wrong,
        gr.update(label=now.fold),
        gr.update(value=now.empty, visible=bool(now.empty)),
        gr.update(choices=list(now.sweeps), value=now.sweep),
        gr.update(active=now.is_open),
        now.digest,
    ]


def imported_html(store: RunStore, paths: list[str]) -> str:
    """Imports the files and says what came of it, with the reason of each that was refused."""
    try:
        report = import_files(paths, store.folder)
    except FtlabError as error:
        return field_error([str(error)])
    refused = "".join(
        f"<li><code>{escape(name)}</code> {escape(sentence)}</li>"
        for name, sentence in report.refused
    )
    listed = f'<ul class="notes">{refused}</ul>' if refused else ""
    return said_html(lambda: report.sentence) + listed
