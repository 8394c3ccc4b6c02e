"""The Results tab: the runs table, a side panel for one run, and exports of the shown rows."""

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

from ftlab.basics.errors import FtlabError
from ftlab.basics.recent import Recent
from ftlab.records.progress import ProgressBook
from ftlab.records.published import import_files
from ftlab.records.result import OPEN
from ftlab.records.store import RunStore
from ftlab.tabs.context import (
    EXPERIMENT,
    QUIET,
    Action,
    AppContext,
    FilesAVisitor,
    Links,
    one_at_a_time,
    opened,
)
from ftlab.tabs.results.actions import (
    all_archived,
    archive,
    can_clone,
    delete,
    delete_question,
    resume,
    run_again,
    tag,
)
from ftlab.tabs.results.columns import (
    ALL_SWEEPS,
    COLUMNS,
    EXAMPLE,
    MAX_CHARACTERS,
    PAGE,
    Filters,
    Group,
    Query,
    first_direction,
    in_order,
    known_facets,
    show,
    sweep_choices,
    usual_columns,
    write_export,
)
from ftlab.tabs.results.html import (
    caption,
    columns_html,
    facets_html,
    how_measured,
    table_html,
    ticked_chip,
)
from ftlab.tabs.results.panel import Side, build_side, closed, facts, find, opened_run, wire_side
from ftlab.tabs.spec import TabSpec
from ftlab.tabs.widgets import H, blank, escape, field_error, live, plural

EMPTY = blank(
    "No run yet.",
    "Open Experiment, tick the methods to compare and press Launch. "
    "Every run becomes a row here, with all that was measured.",
)
NOTHING_FOUND = blank(
    "No run matches.", "Take words or filters away, or press Clear to see every run again."
)
_GROUPS = [("Each run", "runs"), ("By sweep", "sweeps"), ("Mean over seeds", "seeds")]
_TABLE = "window.ftRuns.table(element, trigger, watch)"
_BOXES = "window.ftRuns.boxes(element, trigger, watch)"


@dataclass(frozen=True)
class Tools:
    """Components that filter and export rows. `file` is hidden: it sends exports to the browser."""

    text: gr.Textbox
    sweep: gr.Dropdown
    group: gr.Radio
    csv: gr.Button
    json: gr.Button
    file: gr.DownloadButton
    bring: gr.UploadButton
    fold: gr.Accordion
    facets: gr.HTML
    conditions: gr.Textbox
    wrong: gr.HTML
    archived: gr.Checkbox
    clear: gr.Button
    columns: gr.HTML
    usual: gr.Button


@dataclass(frozen=True)
class Sheet:
    """The table and its captions."""

    empty: gr.HTML
    table: gr.HTML
    below: gr.HTML
    how: gr.HTML


def build_tools(may_upload: bool = True) -> Tools:
    """Builds the toolbar and the accordions for filters and columns."""
    bare: dict[str, Any] = {"show_label": False, "container": False}
    with gr.Row(elem_classes="ft-tools ft-results-tools"):
        text = live(
            gr.Textbox,
            label="Search runs",
            placeholder="Search status, method, task, tags, notes, e.g.  done lora",
            scale=5,
            min_width=220,
            max_lines=1,
            elem_id="results-text",
            **bare,
        )
        sweep = live(
            gr.Dropdown,
            [("All sweeps", ALL_SWEEPS)],
            value=ALL_SWEEPS,
            label="Sweep",
            scale=2,
            min_width=220,
            elem_id="results-sweep",
            **bare,
        )
        group = live(
            gr.Radio,
            _GROUPS,
            value="runs",
            label="Group rows",
            scale=0,
            min_width=280,
            elem_classes="ft-seg",
            elem_id="results-group",
            **bare,
        )
        small: dict[str, Any] = {"size": "sm", "scale": 0}
        csv = gr.Button("CSV", min_width=60, elem_id="results-csv", **small)
        as_json = gr.Button("JSON", min_width=60, elem_id="results-json", **small)
        bring = gr.UploadButton(
            "Import",
            min_width=72,
            file_count="multiple",
            file_types=[".json", ".csv"],
            elem_id="results-import",
            visible=may_upload,
            **small,
        )
        file = gr.DownloadButton(
            "Export", elem_id="results-file", elem_classes="ft-carrier", **small
        )
    with gr.Column(elem_classes="ft-sheet ft-folds"):
        with gr.Accordion("Filters", open=False, elem_classes="ft-fold") as fold:
            facets = H(js_on_load=_BOXES, elem_id="results-facets")
            with gr.Row(elem_classes="ft-conditions"):
                conditions = live(
                    gr.Textbox,
                    label="Numbers, between commas; Enter applies",
                    placeholder=EXAMPLE,
                    max_lines=1,
                    scale=4,
                    min_width=260,
                    elem_classes="ft-mono",
                    elem_id="results-conditions",
                )
                archived = live(
                    gr.Checkbox,
                    False,
                    label="Show archived",
                    scale=0,
                    min_width=150,
                    container=False,
                    elem_id="results-archived",
                )
                clear = gr.Button("Clear", min_width=72, elem_id="results-clear", **small)
            wrong = H("")
        with gr.Accordion("Columns", open=False, elem_classes="ft-fold"):
            columns = H(js_on_load=_BOXES, elem_id="results-columns")
            usual = gr.Button("Usual columns", min_width=110, elem_id="results-usual", **small)
    return Tools(
        text, sweep, group, csv, as_json, file, bring, fold, facets, conditions, wrong, archived,
        clear, columns, usual,
    )  # fmt: skip


def build_sheet() -> Sheet:
    """Builds the table and its captions."""
    with gr.Column(scale=3, min_width=320, elem_classes="ft-sheet ft-flush ft-table"):
        empty = H(EMPTY)
        table = H(js_on_load=_TABLE, elem_id="runs")
        below = H()
        with gr.Accordion("How each number is measured", open=False, elem_classes="ft-fold ft-how"):
            how = H()
    return Sheet(empty, table, below, how)


_MOST = 10_000
_LONGEST_ID = 300  # characters, for ids of imported results
_FOCUS = "() => setTimeout(() => document.getElementById('results-keep')?.focus(), 80)"


@dataclass(frozen=True)
class Bar:
    """Action bar. `ticked`: ids of the ticked runs; `asked`: ids awaiting confirmation."""

    ticked: gr.State
    asked: gr.State
    block: gr.Row
    words: gr.HTML
    clone: gr.Button
    again: gr.Button
    archive: gr.Button
    tags: gr.Textbox
    add: gr.Button
    instead: gr.Button
    delete: gr.Button
    said: gr.HTML
    question_block: gr.Column
    question: gr.HTML
    keep: gr.Button
    really: gr.Button


def build_bar() -> Bar:
    """Builds the bar, hidden until a row is ticked, and below it the outcome of an action."""
    small: dict[str, Any] = {"size": "sm", "scale": 0}
    with gr.Row(visible=False, elem_classes="ft-tools ft-ticked", elem_id="ticked") as block:
        words = H(min_width=110)
        clone = gr.Button("Clone into Experiment", min_width=150, **small)
        again = gr.Button("Re-run", min_width=70, **small)
        put_away = gr.Button("Archive", min_width=80, **small)
        tags = live(
            gr.Textbox, label="Tags", placeholder="Tags, e.g.  demo, for Ada", show_label=False,
            container=False, max_lines=1, scale=1, min_width=150, elem_id="ticked-tags",
        )  # fmt: skip
        add = gr.Button("Add tags", min_width=76, **small)
        instead = gr.Button("Replace tags", min_width=100, **small)
        gone = gr.Button("Delete", variant="stop", min_width=70, elem_id="ticked-delete", **small)
    said = H("", elem_id="results-said")
    with gr.Column(visible=False, elem_id="results-question", elem_classes="ft-sheet") as box:
        question = H("")
        with gr.Row():
            keep = gr.Button("Cancel", size="sm", elem_id="results-keep")
            really = gr.Button("Delete", variant="stop", size="sm", elem_id="results-delete")
    return Bar(
        gr.State(()), gr.State(()), block, words, clone, again, put_away, tags, add, instead,
        gone, said, box, question, keep, really,
    )  # fmt: skip


def wire_bar(
    bar: Bar, table: gr.HTML, side: Side, store: RunStore, links: Links, refresh: Action
) -> None:
    """Wires the buttons of bar and panel. Each action displays a sentence as its outcome."""

    def tick(event: gr.EventData) -> list[Any]:
        ids = ticked_ids(getattr(event, "on", None))
        label = "Unarchive" if all_archived(store, ids) else "Archive"
        return [
            ids,
            gr.Row(visible=bool(ids)),
            ticked_words(ids, ticked_chip(store, ids)),
            gr.Button(label),
        ]

    # Handles every tick in order. The default drops events while a handler is running.
    table.input(
        tick,
        None,
        [bar.ticked, bar.block, bar.words, bar.archive],
        trigger_mode="multiple",
        **(QUIET | {"concurrency_limit": 1}),
    )

    def hang(button: gr.Button, act: Callable[..., str], ids: gr.State, *more: Any) -> None:
        """Wires a button. `act` gets the ids and the values of `more`; it returns a sentence."""

        def press(given: Any, opened: str, *values: Any) -> list[Any]:
            said = said_html(lambda: act(store, as_ids(given), *values))
            return [said, *(again_opened(store, opened, side))]

        pressed = button.click(press, [ids, side.chosen, *more], [bar.said, *side.outputs], **QUIET)
        refresh.after(pressed)

    def toggle(store: RunStore, ids: tuple[str, ...]) -> str:
        return archive(store, ids, not all_archived(store, ids))

    hang(bar.again, run_again, bar.ticked)
    hang(side.again, run_again, side.chosen)
    hang(side.resume, resume, side.chosen)
    hang(bar.archive, toggle, bar.ticked)
    hang(side.archive, toggle, side.chosen)
    hang(bar.add, lambda store, ids, text: tag(store, ids, text, False), bar.ticked, bar.tags)
    hang(bar.instead, lambda store, ids, text: tag(store, ids, text, True), bar.ticked, bar.tags)

    def clone(given: Any) -> list[Any]:
        try:
            ids = can_clone(store, as_ids(given))
        except FtlabError as error:
            return [field_error([str(error)]), gr.skip(), gr.skip()]
        return ["", tuple(ids), gr.Tabs(selected=EXPERIMENT)]

    for button, ids in ((bar.clone, bar.ticked), (side.clone, side.chosen)):
        button.click(clone, ids, [bar.said, links.clone, links.tabs], **QUIET)

    def ask(given: Any) -> list[Any]:
        try:
            question = delete_question(store, as_ids(given))
        except FtlabError as error:
            return [field_error([str(error)]), (), gr.Column(visible=False), ""]
        return ["", as_ids(given), gr.Column(visible=True), question_html(question)]

    def answer(yes: bool, ids: tuple[str, ...], opened: str) -> list[Any]:
        said = said_html(lambda: delete(store, ids)) if yes else ""
        return [said, (), gr.Column(visible=False), *again_opened(store, opened, side)]

    asking = [bar.said, bar.asked, bar.question_block]
    for button, ids in ((bar.delete, bar.ticked), (side.delete, side.chosen)):
        button.click(ask, ids, [*asking, bar.question], **QUIET).then(
            fn=None, js=_FOCUS, api_visibility="private"
        )
    given = [bar.asked, side.chosen]
    bar.keep.click(lambda *state: answer(False, *state), given, [*asking, *side.outputs], **QUIET)
    deleted = bar.really.click(
        lambda *state: answer(True, *state), given, [*asking, *side.outputs], **QUIET
    )
    refresh.after(deleted)


def ticked_ids(on: Any) -> tuple[str, ...]:
    """The ticked ids sent by the browser. Invalid entries are ignored."""
    return tuple(filter(None, map(run_id_in, on[:_MOST]))) if isinstance(on, list) else ()


def run_id_in(value: Any) -> str:
    """The id sent by the browser; "" if invalid, so that the session does not store it."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if len(text) <= _LONGEST_ID else ""


def as_ids(given: Any) -> tuple[str, ...]:
    """The ids in a `gr.State`, which holds one string or several."""
    if isinstance(given, str):
        return (given,) if given else ()
    return tuple(given or ())


def ticked_words(ids: tuple[str, ...], like: str = "") -> str:
    """The number of ticked runs. `like` is the comparability chip as HTML."""
    return f'<p class="ticked" role="status"><b>{plural(len(ids), "run")}</b> ticked {like}</p>'


def said_html(act: Callable[[], str]) -> str:
    """Runs the action and returns its sentence, or its error message, as HTML."""
    try:
        return f'<p class="meta said" role="status">{escape(act())}</p>'
    except FtlabError as error:
        return field_error([str(error)])


def question_html(question: str) -> str:
    return f'<p class="question" role="alert">{escape(question)}</p>'


def again_opened(store: RunStore, run_id: str, side: Side) -> list[Any]:
    """Updates for the panel after an action: refreshed, or closed if the run is gone."""
    if not run_id:
        return [gr.skip()] * len(side.outputs)
    gone = isinstance(find(store, run_id), str)
    return closed(side) if gone else opened_run(store, run_id)


_REFRESH_SECONDS = 3
_MOST_DRAWN = 32  # cached answers, about 0.1 MB each
_SAVE_FILE = "() => document.getElementById('results-file')?.click()"


@dataclass(frozen=True)
class View:
    """A visitor's view settings that are not held by the input fields above the table.

    `version` counts how often the server reset the tick boxes of filters and columns.
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
    """The rendered page content. An unchanged answer is not sent again."""

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
    """Builds and wires the tab."""
    store = context.store
    tools = build_tools(context.access.may_upload)
    bar = build_bar()
    with gr.Row(elem_classes="ft-work"):
        sheet = build_sheet()
        side = build_side()
    view, seen = gr.State(View()), gr.State("")  # digest of the content on the page
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
    """Wires sorting, "more", filters and columns: each changes the view, then the table."""

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
    """Wires the exports, written on demand, and the upload of result files."""
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
    """Opens a run from a row or from another tab, and refreshes the opened run."""

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
    """Sets the conditions, cut at one character over the limit: still reported as too long."""
    return replace(view, conditions=(text or "")[: MAX_CHARACTERS + 1])


def arranged(view: View, data: Any) -> View:
    """The view after a click on a header (best first, then reversed, then unsorted) or on More."""
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
    """The view with the ticked filters sent by the browser."""
    return replace(view, facets=known_facets(data.get("on") if isinstance(data, dict) else None))


def with_columns(view: View, data: Any) -> View:
    """The view with the ticked columns sent by the browser. None ticked: the default ones."""
    on = data.get("on") if isinstance(data, dict) else None
    keys = on.get("columns") if isinstance(on, dict) else None
    return replace(view, columns=in_order(keys) if isinstance(keys, list) else ())


class Drawn:
    """Cache of recent answers, because many pages poll the same query every few seconds."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._known: Recent[str, Answer] = Recent(_MOST_DRAWN)
        self._turn = threading.Lock()

    def answer(self, query: Query, version: int) -> Answer:
        """Like the function `answer`, but the runs may be up to a second old."""
        with self._turn:
            self._store.recent_runs()
            key = repr((self._store.changes, query, version))  # a query is not hashable
            now = self._known.get(key) or answer(self._store, query, version, recent=True)
            self._known[key] = now
            return now


def answer(store: RunStore, query: Query, version: int = 0, recent: bool = False) -> Answer:
    """Renders the table for the query. `recent` as in `RunStore.recent_runs`."""
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
    """Updates for the table and its surroundings; all skipped if the page is up to date."""
    return updates(answer(store, query, version), digest)


def updates(now: Answer, digest: str) -> list[Any]:
    """One update per output; all `gr.skip()` if `digest` is unchanged."""
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
    """Imports the files and returns a report as HTML, with the reason for each rejected file."""
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


TAB = TabSpec("Results", 2, build)
