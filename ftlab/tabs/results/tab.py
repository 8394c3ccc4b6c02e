"""The Results tab: the runs table, a side panel for one run, and exports of the shown rows."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ftlab.basics.errors import FtlabError
from ftlab.basics.people import asking
from ftlab.basics.recent import Recent
from ftlab.jobs.inputs import Access
from ftlab.records.progress import ProgressBook
from ftlab.records.published import import_files
from ftlab.records.result import OPEN
from ftlab.records.store import RunStore
from ftlab.share.unpack import open_packed
from ftlab.tabs.context import (
    EXPERIMENT,
    QUIET,
    Action,
    AppContext,
    Asked,
    FilesAVisitor,
    Links,
    TabSpec,
    errors_for_caller,
    one_at_a_time,
    opened,
    taken,
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
    ORIGINS,
    PAGE,
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
from ftlab.tabs.results.panel import (
    Side,
    archive_label,
    closed,
    facts,
    find,
    opened_run,
    origin_of,
    steps_of,
    wire_side,
)
from ftlab.tabs.widgets import BARE, H, blank, escape, field_error, live, plural, small_button

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
_REFRESH_SECONDS = 3
_MOST_DRAWN = 32  # cached answers, about 0.1 MB each
_SAVE_FILE = "() => document.getElementById('results-file')?.click()"
_MOST = 10_000
_LONGEST_ID = 300  # characters, for ids of imported results
_FOCUS = "() => setTimeout(() => document.getElementById('results-keep')?.focus(), 80)"


class Tools:
    """Components that filter and export rows. `file` is hidden: it sends exports to the browser."""

    def __init__(self, may_upload: bool = True) -> None:
        with gr.Row(elem_classes="ft-tools ft-results-tools"):
            self.text = live(
                gr.Textbox, label="Search runs", max_lines=1, scale=5, min_width=220,
                placeholder="Search status, method, task, tags, notes, e.g.  done lora",
                elem_id="results-text", **BARE,
            )  # fmt: skip
            self.sweep = live(
                gr.Dropdown, [("All sweeps", ALL_SWEEPS)], value=ALL_SWEEPS, label="Sweep",
                scale=2, min_width=220, elem_id="results-sweep", **BARE,
            )  # fmt: skip
            self.group = live(
                gr.Radio, _GROUPS, value="runs", label="Group rows", scale=0, min_width=280,
                elem_classes="ft-seg", elem_id="results-group", **BARE,
            )  # fmt: skip
            self.csv = small_button("CSV", 60, elem_id="results-csv")
            self.json = small_button("JSON", 60, elem_id="results-json")
            self.upload = gr.UploadButton(
                "Import", size="sm", scale=0, min_width=72, file_count="multiple",
                file_types=[".json", ".csv"], elem_id="results-import", visible=may_upload,
            )  # fmt: skip
            self.packed = gr.UploadButton(
                "Open sweep", size="sm", scale=0, min_width=100, file_types=[".zip"],
                elem_id="results-open", visible=may_upload,
            )  # fmt: skip
            self.file = gr.DownloadButton(
                "Export", size="sm", scale=0, elem_id="results-file", elem_classes="ft-carrier"
            )
        with gr.Column(elem_classes="ft-sheet ft-folds"):
            with gr.Accordion("Filters", open=False, elem_classes="ft-fold") as self.fold:
                self.facets = H(js_on_load=_BOXES, elem_id="results-facets")
                with gr.Row(elem_classes="ft-conditions"):
                    self.conditions = live(
                        gr.Textbox, label="Numbers, between commas; Enter applies",
                        placeholder=EXAMPLE, max_lines=1, scale=4, min_width=260,
                        elem_classes="ft-mono", elem_id="results-conditions",
                    )  # fmt: skip
                    self.archived = live(
                        gr.Checkbox, False, label="Show archived", scale=0, min_width=150,
                        container=False, elem_id="results-archived",
                    )  # fmt: skip
                    self.clear = small_button("Clear", 72, elem_id="results-clear")
                self.wrong = H("")
            with gr.Accordion("Columns", open=False, elem_classes="ft-fold"):
                self.columns = H(js_on_load=_BOXES, elem_id="results-columns")
                self.usual = small_button("Usual columns", 110, elem_id="results-usual")


class Sheet:
    """The table and its captions."""

    def __init__(self) -> None:
        with gr.Column(scale=3, min_width=320, elem_classes="ft-sheet ft-flush ft-table"):
            self.empty = H(EMPTY)
            self.table = H(js_on_load=_TABLE, elem_id="runs")
            self.below = H()
            how = "How each number is measured"
            with gr.Accordion(how, open=False, elem_classes="ft-fold ft-how"):
                self.how = H()


class Bar:
    """Action bar, hidden until a row is ticked; below it the outcome of an action.

    `ticked`: ids of the ticked runs; `asked`: ids awaiting confirmation.
    """

    def __init__(self) -> None:
        self.ticked, self.asked = gr.State(()), gr.State(())
        with gr.Row(
            visible=False, elem_classes="ft-tools ft-ticked", elem_id="ticked"
        ) as self.block:
            self.words = H(min_width=110)
            self.clone = small_button("Clone into Experiment", 150)
            self.again = small_button("Re-run", 70)
            self.archive = small_button("Archive", 80)
            self.tags = live(
                gr.Textbox, label="Tags", placeholder="Tags, e.g.  demo, for Ada", max_lines=1,
                scale=1, min_width=150, elem_id="ticked-tags", **BARE,
            )  # fmt: skip
            self.add = small_button("Add tags", 76)
            self.instead = small_button("Replace tags", 100)
            self.delete = small_button("Delete", 70, variant="stop", elem_id="ticked-delete")
        self.said = H("", elem_id="results-said")
        with gr.Column(
            visible=False, elem_id="results-question", elem_classes="ft-sheet"
        ) as self.question_block:
            self.question = H("")
            with gr.Row():
                self.keep = gr.Button("Cancel", size="sm", elem_id="results-keep")
                self.really = gr.Button(
                    "Delete", variant="stop", size="sm", elem_id="results-delete"
                )


def wire_bar(
    bar: Bar, table: gr.HTML, side: Side, store: RunStore, links: Links, refresh: Action
) -> None:
    """Wires the buttons of bar and panel. Each action displays a sentence as its outcome."""

    def tick(event: gr.EventData) -> list[Any]:
        ids = ticked_ids(getattr(event, "on", None))
        label = archive_label(all_archived(store, ids))
        words = ticked_words(ids, ticked_chip(store, ids))
        return [ids, gr.Row(visible=bool(ids)), words, gr.Button(label)]

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

    def replace_tags(store: RunStore, ids: tuple[str, ...], text: str) -> str:
        return tag(store, ids, text, instead=True)

    for button, act, ids in (
        (bar.again, run_again, bar.ticked),
        (side.again, run_again, side.chosen),
        (side.resume, resume, side.chosen),
        (bar.archive, toggle, bar.ticked),
        (side.archive, toggle, side.chosen),
    ):
        hang(button, act, ids)
    hang(bar.add, tag, bar.ticked, bar.tags)
    hang(bar.instead, replace_tags, bar.ticked, bar.tags)

    def clone(given: Any) -> list[Any]:
        try:
            ids = can_clone(store, as_ids(given))
        except FtlabError as error:
            return [field_error([str(error)]), gr.skip(), gr.skip()]
        return ["", Asked(tuple(ids)), gr.Tabs(selected=EXPERIMENT)]

    def ask(given: Any) -> list[Any]:
        try:
            question = delete_question(store, as_ids(given))
        except FtlabError as error:
            return [field_error([str(error)]), (), gr.Column(visible=False), ""]
        said = f'<p class="question" role="alert">{escape(question)}</p>'
        return ["", as_ids(given), gr.Column(visible=True), said]

    def keep(opened: str) -> list[Any]:
        return ["", (), gr.Column(visible=False), *again_opened(store, opened, side)]

    def really(opened: str, ids: tuple[str, ...]) -> list[Any]:
        said = said_html(lambda: delete(store, ids))
        return [said, *keep(opened)[1:]]

    asking = [bar.said, bar.asked, bar.question_block]
    for buttons, ids in ((bar, bar.ticked), (side, side.chosen)):
        buttons.clone.click(clone, ids, [bar.said, links.clone, links.tabs], **QUIET)
        buttons.delete.click(ask, ids, [*asking, bar.question], **QUIET).then(
            fn=None, js=_FOCUS, api_visibility="private"
        )
    answered = [*asking, *side.outputs]
    bar.keep.click(keep, side.chosen, answered, **QUIET)
    refresh.after(bar.really.click(really, [side.chosen, bar.asked], answered, **QUIET))


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


def again_opened(store: RunStore, run_id: str, side: Side) -> list[Any]:
    """Updates for the panel after an action: refreshed, or closed if the run is gone."""
    if not run_id:
        return [gr.skip()] * len(side.outputs)
    gone = isinstance(find(store, run_id), str)
    return closed(side) if gone else opened_run(store, run_id, side)


def build(context: AppContext, links: Links) -> None:
    """Builds and wires the tab."""
    store = context.store
    tools, bar = Tools(context.access.may_upload), Bar()
    with gr.Row(elem_classes="ft-work"):
        sheet, side = Sheet(), Side(context.access.may_upload, context.access.pushes)
    # The query without the values of the fields, and the digest of the content on the page.
    view, seen = gr.State(Query()), gr.State("")
    timer = gr.Timer(_REFRESH_SECONDS, active=False)
    fields = [tools.text, tools.sweep, tools.group, tools.archived]
    shown = [
        sheet.table, sheet.below, sheet.how, tools.facets, tools.columns, tools.wrong, tools.fold,
        sheet.empty, tools.sweep, timer, seen,
    ]  # fmt: skip
    drawn = Drawn(store)

    def refresh(view: Query, *values: Any) -> list[Any]:
        *given, digest = values
        return unless_shown(answer(store, with_fields(view, *given)), digest)

    def tick(view: Query, *values: Any) -> list[Any]:
        *given, digest = values
        return unless_shown(drawn.answer(with_fields(view, *given)), digest)

    action = Action(refresh, [view, *fields, seen], shown)
    timer.tick(tick, action.inputs, shown, queue=False, **QUIET)
    led = gr.State(None)  # what another tab or an address asked for; a new object each time
    changes = [tools.text.change, led.change, *(field.input for field in fields[1:])]
    gr.on([opened(), *changes], refresh, action.inputs, shown, trigger_mode="always_last", **QUIET)
    _wire_view(tools, sheet, view, action)
    _wire_files(tools, bar, store, view, fields, action)
    _wire_packed(tools, bar, store, context.access, action)
    _wire_opening(sheet, side, timer, store, links, view, led)
    _wire_search(tools, links)
    wire_side(side, context, links, action)
    wire_bar(bar, sheet.table, side, store, links, action)


def _wire_view(tools: Tools, sheet: Sheet, view: gr.State, action: Action) -> None:
    """Wires sorting, "more", filters and columns: each changes the view, then the table."""

    def hang(event: Callable[..., Any], change: Callable[[Query, Any], Query]) -> None:
        """`change` gets the view and the data of the browser's event."""

        def handler(event: gr.EventData, view: Query, *rest: Any) -> list[Any]:
            now = change(view, event._data)
            return [now, *action.handler(now, *rest)]

        event(handler, action.inputs, [view, *action.outputs], **QUIET)

    hang(sheet.table.submit, arranged)
    hang(tools.facets.input, with_facets)
    hang(tools.columns.input, with_columns)

    def clear(view: Query) -> list[Any]:
        return [without_filters(view), "", "", ALL_SWEEPS, False]

    action.after(tools.usual.click(with_usual_columns, view, view, **QUIET))
    for event in (tools.conditions.submit, tools.conditions.blur):
        action.after(event(with_conditions, [view, tools.conditions], view, **QUIET))
    cleared = [view, tools.conditions, tools.text, tools.sweep, tools.archived]
    action.after(tools.clear.click(clear, view, cleared, **QUIET))


def _wire_files(
    tools: Tools, bar: Bar, store: RunStore, view: gr.State, fields: list[Any], action: Action
) -> None:
    """Wires the exports, written on demand, and the upload of result files."""
    files = FilesAVisitor()
    for button, kind in ((tools.csv, "csv"), (tools.json, "json")):

        def export(request: gr.Request, view: Query, *values: Any, kind: str = kind) -> str:
            with errors_for_caller():
                files.check(request)
            folder = Path(get_upload_folder()) / "ftlab"
            return write_export(show(store.table(), with_fields(view, *values)), kind, folder)

        button.click(export, [view, *fields], tools.file, **one_at_a_time("exports"))
    tools.file.change(fn=None, js=_SAVE_FILE, api_visibility="private")

    def upload(paths: list[str]) -> str:
        return imported_html(store, paths or [])

    action.after(tools.upload.upload(upload, tools.upload, bar.said, **QUIET))


def _wire_packed(tools: Tools, bar: Bar, store: RunStore, access: Access, action: Action) -> None:
    """Wires the upload of a packed sweep."""
    files = FilesAVisitor()

    def open_sweep(request: gr.Request, path: str | None) -> str:
        try:
            files.check(request)
        except FtlabError as error:
            return field_error([str(error)])
        return opened_html(store, access, path)

    action.after(
        tools.packed.upload(open_sweep, tools.packed, bar.said, **one_at_a_time("open sweep"))
    )


def _wire_opening(
    sheet: Sheet, side: Side, timer: gr.Timer, store: RunStore, links: Links, view: gr.State,
    led: gr.State,
) -> None:  # fmt: skip
    """Opens a run from a row or from another tab, and refreshes the opened run.

    The table refreshes itself when `led` changes: one request at a time, so that no older one
    folds the rows of the run again.
    """

    def select(event: gr.EventData) -> list[Any]:
        return opened_run(store, run_id_in(getattr(event, "run", None)), side)

    def follow(asked: Asked[str] | None, view: Query) -> list[Any]:
        run_id = taken(asked)
        if run_id is None:
            return [gr.skip()] * (2 + len(side.outputs))
        updates = opened_run(store, run_id, side) if run_id else closed(side)
        return [*updates, Asked(run_id), with_fold(view, origin_of(store, run_id), is_open=True)]

    def tick(run_id: str, last: tuple[str, ...]) -> list[Any]:
        if not run_id:
            return [gr.skip()] * len(ticked)
        now = facts(store, run_id, book.read)
        if now == last:
            return [now, *[gr.skip()] * (len(ticked) - 1)]
        return [now, *now, *side.onward.show(steps_of(find(store, run_id), store))]

    last = gr.State(())
    book = ProgressBook()
    sheet.table.select(select, None, side.outputs, **QUIET)
    asked = links.asked["run"]
    asked.change(follow, [asked, view], [*side.outputs, led, view], **QUIET)
    ticked = [last, *side.facts, *side.onward.outputs]
    timer.tick(tick, [side.chosen, last], ticked, queue=False, **QUIET)


def _wire_search(tools: Tools, links: Links) -> None:
    """Searches for the words of an address."""

    def search(asked: Asked[str] | None) -> Any:
        text = taken(asked)
        return gr.skip() if text is None else text

    asked = links.asked["search"]
    asked.change(search, asked, tools.text, **QUIET)


def with_fields(
    view: Query, text: str | None, sweep: str | None, group: Group, archived: bool
) -> Query:
    """The whole query: the visitor's view with the values of the fields above the table."""
    sweep = sweep or ALL_SWEEPS
    return replace(view, text=text or "", sweep=sweep, group=group, archived=archived)


def with_conditions(view: Query, text: str | None) -> Query:
    """Sets the conditions, cut at one character over the limit: still reported as too long."""
    return replace(view, conditions=(text or "")[: MAX_CHARACTERS + 1])


def arranged(view: Query, data: Any) -> Query:
    """The view after a click on a header (best first, then reversed, then unsorted), on More or on
    the heading of an origin."""
    asked = data if isinstance(data, dict) else {}
    if "fold" in asked:
        return with_fold(view, asked["fold"])
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


def with_fold(view: Query, origin: Any, is_open: bool | None = None) -> Query:
    """The view with an origin folded or unfolded; `None`: the other way than it is."""
    kept = tuple(known for known in view.unfolded if known != origin)
    if not isinstance(origin, str) or not ORIGINS.get(origin):
        return view
    unfold = len(kept) == len(view.unfolded) if is_open is None else is_open
    return replace(view, unfolded=(*kept, origin) if unfold else kept)


def with_facets(view: Query, data: Any) -> Query:
    """The view with the ticked filters sent by the browser."""
    return replace(view, facets=known_facets(data.get("on") if isinstance(data, dict) else None))


def with_columns(view: Query, data: Any) -> Query:
    """The view with the ticked columns sent by the browser. None ticked: the default ones."""
    on = data.get("on") if isinstance(data, dict) else None
    keys = on.get("columns") if isinstance(on, dict) else None
    return replace(view, columns=in_order(keys) if isinstance(keys, list) else ())


def with_usual_columns(view: Query) -> Query:
    return replace(view, columns=(), version=view.version + 1)


def without_filters(view: Query) -> Query:
    return replace(view, facets={}, conditions="", limit=PAGE, version=view.version + 1)


class Drawn:
    """Cache of recent answers, because many pages poll the same query every few seconds."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._known: Recent[str, list[Any]] = Recent(_MOST_DRAWN)
        self._turn = threading.Lock()

    def answer(self, query: Query) -> list[Any]:
        """Like the function `answer`, but the runs may be up to a second old."""
        with self._turn:
            self._store.recent_runs()
            key = repr((asking(), self._store.changes, query))  # a query is not hashable
            now = self._known.get(key) or answer(self._store, query, recent=True)
            self._known[key] = now
            return deepcopy(now)  # gradio takes values out of an update


def answer(store: RunStore, query: Query, recent: bool = False) -> list[Any]:
    """Updates for the table and its surroundings, last the digest of them all.

    `recent` as in `RunStore.recent_runs`.
    """
    table = store.table(recent=recent)
    sweeps = sweep_choices(table)
    if query.sweep not in [value for _, value in sweeps]:
        query = replace(query, sweep=ALL_SWEEPS)
    found = show(table, query)
    usual = usual_columns(table)
    label = f"Filters ({query.folded} active)" if query.folded else "Filters"
    empty = (NOTHING_FOUND if len(table) else EMPTY) if found.rows.empty else ""
    updates = [
        table_html(found),
        caption(found, store.unreadable) if len(table) or store.unreadable else "",
        how_measured(found),
        facets_html(table, query.facets, query.version),
        columns_html(query.columns or usual, f"{query.version}.{len(usual)}"),
        field_error([found.error]) if found.error else "",
        gr.update(label=label),
        gr.update(value=empty, visible=bool(empty)),
        gr.update(choices=sweeps, value=query.sweep),
        gr.update(active=bool(table["status"].isin(OPEN).any())),
    ]
    return [*updates, hashlib.sha256(repr(updates).encode()).hexdigest()[:24]]


def unless_shown(now: list[Any], digest: str) -> list[Any]:
    """The updates of `answer`; all `gr.skip()` if the page already shows them."""
    return [gr.skip()] * len(now) if now[-1] == digest else now


def opened_html(store: RunStore, access: Access, path: str | None) -> str:
    """Opens a packed sweep and returns a sentence as HTML, with a link to Compare."""
    try:
        opened = open_packed(Path(path or ""), store.folder, access)
    except FtlabError as error:
        return field_error([str(error)])
    link = f'<a href="?tab=compare&amp;sweep={escape(opened.sweep_id)}">Compare it</a>'
    return f'<p class="meta said" role="status">{escape(opened.sentence)} {link}</p>'


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


TAB = TabSpec("Results", 2, build, address=("run", "search"))
