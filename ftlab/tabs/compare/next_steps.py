"""What to do with a sweep that has ended: compare its runs, ask them, download report and card.

Experiment shows these buttons where a sweep has ended, Results in the panel of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.basics.words import some_names
from ftlab.methods.families.full import FULL
from ftlab.playground.panes import BASE, cannot_answer
from ftlab.playground.requests import MAX_PANES
from ftlab.records.store import Run, RunStore
from ftlab.tabs.compare.share import offer_file
from ftlab.tabs.context import COMPARE, PLAYGROUND, QUIET, AppContext, Asked, FilesAVisitor, Links
from ftlab.tabs.widgets import H, note_html, plural, small_button


@dataclass(frozen=True)
class NextSteps:
    """`sweep` can be compared and reported; "" if none of its runs is done.

    `panes` are the base and those of its runs that can be asked; empty if none can. `words` say
    what is not possible, and why.
    """

    sweep: str = ""
    panes: tuple[str, ...] = ()
    words: str = ""


def next_steps(runs: Sequence[Run], first: str = "") -> NextSteps:
    """What can be done with the runs of one sweep; the run with the id `first` is asked first."""
    trained = [run for run in runs if not run.spec.is_base]
    done = [run for run in trained if run.status == "done"]
    panes = _panes(trained, first)
    if not done:
        return NextSteps("", panes, "No run is done, so there is nothing to compare or to report.")
    return NextSteps(done[0].spec.sweep_id, panes, " ".join(_missing(trained, done, panes)))


def steps_of_run(store: RunStore, run_id: str, sweep_id: str) -> NextSteps:
    """What can be done with the sweep of an opened run, which may be imported."""
    runs = store.sweep(sweep_id)
    if runs:
        return next_steps(runs, first=run_id)
    imported = [run.row() for run in store.published() if run.sweep_id == sweep_id]
    is_done = any(row.get("status") == "done" for row in imported)
    return NextSteps(sweep_id if is_done else "")


def _panes(trained: Sequence[Run], first: str) -> tuple[str, ...]:
    """The base and as many runs as there are panes: one of each variant before further seeds."""
    able = [run for run in trained if run.origin == "measured" and not cannot_answer(run)]
    seen: dict[str, int] = {}
    turns = []
    for run in able:
        turns.append(seen.setdefault(run.spec.label, 0))
        seen[run.spec.label] += 1
    ranked = sorted(zip(turns, able, strict=True), key=lambda pair: pair[0])
    names = sorted((run.run_id for _, run in ranked), key=lambda name: name != first)
    return (BASE, *names[: MAX_PANES - 1]) if names else ()


def _missing(trained: Sequence[Run], done: Sequence[Run], panes: Sequence[str]) -> list[str]:
    """Sentences on what Compare and the Playground do not show of the sweep."""
    said = []
    others = [run.spec.label for run in trained if run.status != "done"]
    if others:
        named = some_names(list(dict.fromkeys(others)))
        said.append(f"{len(done)} of {plural(len(trained), 'run')} done; left out: {named}.")
    if any(run.spec.method == FULL.id for run in trained) and not any(
        run.spec.method == FULL.id for run in done
    ):
        said.append("Without full fine-tuning Compare shows no savings.")
    if not panes:
        said.append("None of these runs has weights here to ask.")
    elif len(panes) == MAX_PANES < 1 + len(done):
        said.append(f"The Playground has room for {MAX_PANES - 1} of them.")
    return said


def _button(label: str, elem_id: str, **kw: Any) -> gr.Button:
    return small_button(label, 26 + 7 * len(label), elem_id=elem_id, **kw)  # on one line


class NextButtons:
    """The buttons, hidden while there is nothing to do; `place` is the start of their ids."""

    def __init__(self, place: str, compare: str, ask: str, is_main: bool = True) -> None:
        self._sweep, self._panes = gr.State(""), gr.State("")
        main: Any = {"variant": "primary"} if is_main else {}
        with gr.Column(
            visible=False, elem_classes="ft-next", elem_id=f"{place}-next"
        ) as self._block:
            with gr.Row(elem_classes="ft-tools"):
                self._compare = _button(compare, f"{place}-compare", **main)
                self._ask = _button(ask, f"{place}-ask")
                self._files = [
                    _button(label, f"{place}-{kind}")
                    for label, kind in (("Report", "html"), ("Card", "png"))
                ]
            self._words = H()

    @property
    def outputs(self) -> list[Any]:
        """The components that `show` updates."""
        return [
            self._sweep, self._panes, self._block, self._words,
            *(self._compare, *self._files), self._ask,
        ]  # fmt: skip

    def show(self, steps: NextSteps) -> list[Any]:
        can_compare = gr.Button(visible=bool(steps.sweep))
        return [
            steps.sweep,
            ",".join(steps.panes),
            gr.Column(visible=steps != NextSteps()),
            note_html(steps.words),
            *[can_compare] * (1 + len(self._files)),
            gr.Button(visible=bool(steps.panes)),
        ]

    def wire(self, context: AppContext, links: Links) -> None:
        """Adds the events; each button does its work at once."""

        def compare_runs(sweep: str) -> tuple[Asked, Any]:
            return Asked(sweep), gr.Tabs(selected=COMPARE)

        def ask_runs(panes: str) -> tuple[Asked, Any]:
            return Asked(panes), gr.Tabs(selected=PLAYGROUND)

        compared, asked = links.asked["sweep"], links.asked["panes"]
        self._compare.click(compare_runs, self._sweep, [compared, links.tabs], **QUIET)
        self._ask.click(ask_runs, self._panes, [asked, links.tabs], **QUIET)
        files = FilesAVisitor()
        for button, kind in zip(self._files, ("html", "png"), strict=True):
            offer_file(button, context, kind, files, [self._sweep])
