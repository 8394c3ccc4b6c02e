"""The blind vote: panes without names, one key per vote, and the tally of the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ftlab.basics.errors import FtlabError
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.panes import PaneSource
from ftlab.playground.requests import MAX_PANES
from ftlab.playground.votes import Tally, Vote, read_votes, record_vote, tally, verdict
from ftlab.tabs.playground.session import LETTERS, Pane, Session, reveal
from ftlab.tabs.widgets import (
    H,
    Markup,
    blank,
    escape,
    field_error,
    heading,
    named,
    small_button,
    table,
    warn,
)

_HOW = "Panes are shuffled and unnamed until you vote."


class VoteSheet:
    """The components under the panes; `sheet` is hidden unless the vote is blind."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_classes="ft-sheet", elem_id="pg-vote") as self.sheet:
            self.said = H(_waiting_html())
            with gr.Row(elem_classes="ft-tools"):
                self.letters = [
                    small_button(
                        f"{LETTERS[place]} is best", 110, visible=False,
                        elem_id=f"pg-vote-{place + 1}",
                    )
                    for place in range(MAX_PANES)
                ]  # fmt: skip
                self.tie = small_button("No difference", 110, visible=False, elem_id="pg-vote-0")
                self.skip = small_button("Reveal without a vote", 150, visible=False)

    @property
    def outputs(self) -> list[Any]:
        return [self.said, *self.letters, self.tie, self.skip]


def sheet_updates(session: Session, runs_folder: Path) -> list[Any]:
    """Returns the updates for `VoteSheet.outputs`."""
    ready = session.can_vote
    if ready:
        keys = _keys(session.shown())
        said = heading("Which answer is best?", sub=f"Press {keys}, or 0 for no difference. {_HOW}")
    elif session.is_blind or session.request is None:
        said = _waiting_html()
    else:
        said = tally_html(session, runs_folder)
    letters = [ready and _has_answered(pane) for pane in session.shown()]
    return [said, *[gr.update(visible=visible) for visible in (*letters, ready, ready)]]


def cast(session: Session, winner: int | None, runs_folder: Path) -> Session:
    """Records a vote for the pane at that position (`None`: no difference) and shows the names."""
    if not session.can_vote or session.request is None:
        return session
    shown = [pane for pane in session.shown() if _has_answered(pane)]
    letters = [pane.letter for pane in shown]
    sources = [pane.source for pane in shown if pane.source is not None]
    vote = Vote(
        panes=tuple(source.name for source in sources),
        labels=tuple(source.label for source in sources),
        winner=None if winner is None else letters.index(LETTERS[winner]),
        prompt=session.request.prompt,
        answers=tuple(pane.answer for pane in shown),
        model=session.request.model or BUNDLED_ID,
        precision=session.request.precision,
        sweep_ids=_sweeps(sources),
    )
    try:
        record_vote(runs_folder, vote)
    except FtlabError as error:
        warn(str(error))
    return reveal(session)


def tally_html(session: Session, runs_folder: Path) -> str:
    """HTML: the votes so far on the open panes."""
    sources = [pane.source for pane in session.panes if pane.source is not None]
    try:
        votes = read_votes(runs_folder, _sweeps(sources))
    except FtlabError as error:
        return field_error([str(error)])
    tallies = tally(votes, list(dict.fromkeys(source.name for source in sources)))
    if not any(t.votes for t in tallies):
        return heading("No vote yet", sub="Send a prompt, then press the key of the best answer.")
    by_name = {source.name: source for source in sources}
    heads = ("Pane", "Wins", "Ties", "Of votes", "Share", "95 % interval")
    return heading(
        verdict(tallies), sub="Blind votes on these panes, stored with their sweep"
    ) + table(heads, [_row(t, by_name.get(t.pane)) for t in tallies])


def _row(t: Tally, source: PaneSource | None) -> list[str]:
    who = named(source.method, source.label) if source else f"<b>{escape(t.label)}</b>"
    share = Markup("<b>{}</b>").format("–" if t.share is None else f"{t.share:.0%}")
    interval = f"{t.low:.0%} to {t.high:.0%}"
    return [Markup(who), str(t.wins), str(t.ties), str(t.votes), share, interval]


def _sweeps(sources: list[PaneSource]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source.sweep_id for source in sources if source.sweep_id))


def _keys(shown: Sequence[Pane]) -> str:
    """Returns the keys of the positions that have an answer, for example "1, 2 or 4"."""
    *keys, last = [str(n) for n, pane in enumerate(shown, 1) if _has_answered(pane)]
    return f"{', '.join(keys)} or {last}"


def _has_answered(pane: Pane) -> bool:
    return pane.update is not None and pane.update.kind == "done"


def _waiting_html() -> str:
    return blank("Blind vote", f"{_HOW} Send a prompt; when all have answered, press a key.")
