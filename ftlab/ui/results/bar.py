"""The bar for the rows that are ticked, and the question before anything is deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.errors import FtlabError
from ftlab.runs.store import RunStore
from ftlab.ui.events import QUIET, Action
from ftlab.ui.html import H, escape, field_error, live, plural
from ftlab.ui.links import EXPERIMENT, Links
from ftlab.ui.results.actions import (
    all_archived,
    archive,
    can_clone,
    delete,
    delete_question,
    resume,
    run_again,
    tag,
)
from ftlab.ui.results.like import ticked_chip
from ftlab.ui.results.side import Side, closed, find, opened_run

_MOST = 10_000
_LONGEST_ID = 300  # characters, of results of others
_FOCUS = "() => setTimeout(() => document.getElementById('results-keep')?.focus(), 80)"


@dataclass(frozen=True)
class Bar:
    """`ticked` holds the ids of the ticked runs; `asked` those that a question is about."""

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
    """Lays the bar out, hidden until a row is ticked, and below it what came of an action."""
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
    """Hangs the actions on the buttons of bar and panel; every one ends in a sentence."""

    def tick(event: gr.EventData) -> list[Any]:
        ids = ticked_ids(getattr(event, "on", None))
        label = "Unarchive" if all_archived(store, ids) else "Archive"
        return [
            ids,
            gr.Row(visible=bool(ids)),
            ticked_words(ids, ticked_chip(store, ids)),
            gr.Button(label),
        ]

    # Every tick counts, in order: the default drops those made while one is being handled.
    table.input(
        tick,
        None,
        [bar.ticked, bar.block, bar.words, bar.archive],
        trigger_mode="multiple",
        **(QUIET | {"concurrency_limit": 1}),
    )

    def hang(button: gr.Button, act: Callable[..., str], ids: gr.State, *more: Any) -> None:
        """`act` takes the ids and the values of `more` and gives the sentence to show."""

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
    """What the browser says is ticked, as ids; anything else in it is left out."""
    return tuple(filter(None, map(run_id_in, on[:_MOST]))) if isinstance(on, list) else ()


def run_id_in(value: Any) -> str:
    """The id that the browser names; "" for what can be none, which no session has to keep."""
    text = str(value) if isinstance(value, str | int) else ""
    return text if len(text) <= _LONGEST_ID else ""


def as_ids(given: Any) -> tuple[str, ...]:
    """The ids in a state: one as text, or several."""
    if isinstance(given, str):
        return (given,) if given else ()
    return tuple(given or ())


def ticked_words(ids: tuple[str, ...], like: str = "") -> str:
    """How many are ticked; `like` is HTML that says whether they compare."""
    return f'<p class="ticked" role="status"><b>{plural(len(ids), "run")}</b> ticked {like}</p>'


def said_html(act: Callable[[], str]) -> str:
    """The sentence that the action ends in, or the one that says why it could not be done."""
    try:
        return f'<p class="meta said" role="status">{escape(act())}</p>'
    except FtlabError as error:
        return field_error([str(error)])


def question_html(question: str) -> str:
    return f'<p class="question" role="alert">{escape(question)}</p>'


def again_opened(store: RunStore, run_id: str, side: Side) -> list[Any]:
    """Updates for the panel after an action: as the run is now, or closed if it is gone."""
    if not run_id:
        return [gr.skip()] * len(side.outputs)
    gone = isinstance(find(store, run_id), str)
    return closed(side) if gone else opened_run(store, run_id)
