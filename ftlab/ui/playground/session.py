"""What one visitor's playground holds between two clicks, and how a prompt changes it.

Plain functions and data without components: the tab keeps a `Session` and shows its panes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from ftlab.errors import FieldError, FtlabError, InvalidRequest
from ftlab.playground.brought import vouch_for_base
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.differences import Piece, word_differences
from ftlab.playground.held_out import HeldOut, HeldOutExample
from ftlab.playground.panes import PaneSource, base_doubt, find_source
from ftlab.playground.protocol import WAITING, GenerateRequest, PaneUpdate
from ftlab.playground.validation import MAX_PANES
from ftlab.playground.votes import shuffled
from ftlab.tasks.spec import Message
from ftlab.turns import NOBODY, Visitor
from ftlab.ui.playground.pane_html import Pane

SECONDS_BETWEEN_SCREENS = 0.1
"""Text that comes faster is shown together: a page that is kept busy does not hear its Stop."""

SINGLE, CHAT, COMPLETION = "single", "chat", "completion"
LETTERS = "ABCDEF"


@dataclass
class Session:
    """The panes as they are chosen, and the last prompt with its answers.

    `order` says which pane each place of the page shows; blind panes are shuffled. `histories` are
    what has been said in each pane's chat. The functions here change it in place: an answer under
    way goes on in a thread of its own, and ends once the list of panes is another one. `doubts` are
    the sentences on adapters that name another base than the page's, by the pane's name; `vouched`
    are those that a person has vouched for.
    """

    panes: list[Pane] = field(default_factory=lambda: [Pane()] * MAX_PANES)
    request: GenerateRequest | None = None
    order: tuple[int, ...] = tuple(range(MAX_PANES))
    is_blind: bool = False
    histories: dict[int, tuple[Message, ...]] = field(default_factory=dict)
    errors: tuple[FieldError, ...] = ()
    doubts: dict[str, str] = field(default_factory=dict)
    vouched: frozenset[str] = frozenset()

    def shown(self) -> list[Pane]:
        """The panes in the order of the page."""
        panes = [self._with_base(self.panes[pane]) for pane in self.order]
        if not self.is_blind:
            return panes
        return [
            replace(pane, letter=LETTERS[place]) if pane.source else pane
            for place, pane in enumerate(panes)
        ]

    def _with_base(self, pane: Pane) -> Pane:
        if pane.name not in self.doubts and pane.name not in self.vouched:
            return pane
        return replace(
            pane, doubt=self.doubts.get(pane.name, ""), is_vouched=pane.name in self.vouched
        )

    @property
    def can_vote(self) -> bool:
        """Whether blind answers wait for a vote: two at least, and none is still on its way."""
        answered = [pane for pane in self.panes if pane.update and pane.update.kind == "done"]
        asked = [pane for pane in self.panes if pane.update or pane.status]
        return self.is_blind and len(answered) >= 2 and all(pane.is_final for pane in asked)

    def begin_anew(self, panes: list[Pane]) -> None:
        """Shows these panes by name, as though nothing had been asked in them together."""
        self.panes, self.request, self.errors = panes, None, ()
        in_order(self)


def choose(session: Session, names: Sequence[str | None], runs_folder: Path) -> Session:
    """The session with these panes; a pane that stays keeps its answer and its chat.

    Another choice ends an answer under way: its panes are no longer those on the page.
    """
    wanted = [name or "" for name in names]
    wanted += [""] * (MAX_PANES - len(wanted))
    if wanted == [pane.name for pane in session.panes]:
        return session
    old = stop(session).panes
    stays = [pane.name == name for pane, name in zip(old, wanted, strict=True)]
    session.histories = {place: turns for place, turns in session.histories.items() if stays[place]}
    session.begin_anew(
        [
            pane if same else Pane(_source(runs_folder, name) if name else None)
            for pane, same, name in zip(old, stays, wanted, strict=True)
        ]
    )
    return session


def judge_bases(session: Session, model: str) -> Session:
    """Notes what is to be said of the panes' adapters on the base `model`."""
    sources = [pane.source for pane in session.panes if pane.source is not None]
    doubts = {source.name: base_doubt(source, model) for source in sources}
    session.doubts = {name: doubt for name, doubt in doubts.items() if doubt}
    session.vouched = frozenset(s.name for s in sources if s.is_vouched_for(model))
    return session


def vouch(session: Session, place: int, model: str, runs_folder: Path) -> Session:
    """A person says that `model` is the base of the adapter in that pane.

    Raises `FtlabError` for what is no adapter from elsewhere, or does not fit that base.
    """
    source = vouch_for_base(runs_folder, session.panes[place].name, model)
    panes = stop(session).panes
    session.begin_anew([Pane(source) if pane.name == source.name else pane for pane in panes])
    return judge_bases(session, model)


def new_chat(session: Session) -> Session:
    """The same panes with nothing said yet."""
    session.begin_anew([Pane(pane.source) for pane in session.panes])
    session.histories = {}
    return session


def ask(
    session: Session,
    request: GenerateRequest,
    keeps_history: bool,
    client: PlaygroundClient,
    held_out: HeldOut,
    blind_seed: int | None = None,
    visitor: Visitor = NOBODY,
) -> Iterator[Session]:
    """Streams the answers into the session's panes; yields it after each change worth showing.

    `request` names no panes: they are the session's own. With a `blind_seed` they are shuffled and
    nameless until there is nothing to wait for and to vote on.
    """
    places = [place for place, pane in enumerate(session.panes) if pane.source is not None]
    names = [session.panes[place].name for place in places]
    histories = tuple(session.histories.get(place, ()) if keeps_history else () for place in places)
    request = replace(request, panes=tuple(names), histories=histories if any(histories) else ())
    session.errors = ()
    try:
        updates = client.generate(request, visitor)
    except InvalidRequest as error:
        session.errors = error.errors
        yield session
        return
    session.request = request
    session.is_blind = blind_seed is not None
    session.order = _order(places, blind_seed)
    panes = list(session.panes)
    for place, history in zip(places, histories, strict=True):
        panes[place] = Pane(
            panes[place].source,
            status=WAITING,
            history=history,
            question=request.prompt if keeps_history else "",
            limit=request.max_new_tokens,
        )
    session.panes = panes
    yield session
    example = _example(request, held_out, panes)
    drawn = time.monotonic()
    with closing(updates):
        for update in updates:
            if session.panes is not panes:  # stopped, or others were chosen
                break
            place = places[update.pane]
            pane = panes[place].with_update(update)
            if update.kind == "done":
                pane = _finished(pane, example)
                if keeps_history:
                    _remember(session, place, request.prompt, update)
            panes[place] = pane
            if update.kind != "text" or time.monotonic() - drawn >= SECONDS_BETWEEN_SCREENS:
                yield session
                drawn = time.monotonic()
    if session.panes is panes:
        _reveal_unless_voted(session)
    yield session  # also when it was left: gradio shows what comes last once more


def stop(session: Session) -> Session:
    """Ends the answer and marks what was not finished; text that is there stays."""
    session.panes = [
        replace(pane, was_stopped=True, status="")
        if (pane.status or pane.update) and not pane.is_final
        else pane
        for pane in session.panes
    ]
    _reveal_unless_voted(session)
    return session


def reveal(session: Session) -> Session:
    """Shows who is who, in the places where they answered."""
    session.is_blind = False
    return session


def in_order(session: Session) -> Session:
    """Shows who is who, each under its own choice again."""
    session.order = tuple(range(MAX_PANES))
    return reveal(session)


def compare(session: Session, against: int | None) -> Session:
    """Marks in each pane what differs from the pane at that place of the page, or nothing."""
    shown = session.order[against] if against is not None and 0 <= against < MAX_PANES else None
    other = session.panes[shown] if shown is not None else None
    for place, pane in enumerate(session.panes):
        pieces: tuple[Piece, ...] = ()
        if other is not None and place != shown and _has_text(pane) and _has_text(other):
            pieces = tuple(word_differences(pane.answer, other.answer))
        if pieces != pane.pieces:  # a pane that still answers is left to its answer
            session.panes[place] = replace(pane, pieces=pieces)
    return session


def _reveal_unless_voted(session: Session) -> None:
    """Panes on which no vote can be cast have no reason to be nameless."""
    if not session.can_vote:
        reveal(session)


def _has_text(pane: Pane) -> bool:
    return pane.is_final and bool(pane.answer)


def _source(runs_folder: Path, name: str) -> PaneSource:
    try:
        return find_source(runs_folder, name)
    except (FtlabError, OSError):
        return PaneSource(name, name)  # said in its pane when it is asked


def _order(places: Sequence[int], blind_seed: int | None) -> tuple[int, ...]:
    """Answering panes come first only when they are shuffled."""
    if blind_seed is None:
        return tuple(range(MAX_PANES))
    mixed = [places[i] for i in shuffled(len(places), blind_seed)]
    return (*mixed, *[place for place in range(MAX_PANES) if place not in mixed])


def _example(
    request: GenerateRequest, held_out: HeldOut, panes: Sequence[Pane]
) -> HeldOutExample | None:
    """The held-out example that the prompt is, if it is asked as training asked it."""
    if request.mode == COMPLETION or request.histories or request.system.strip():
        return None
    tasks = [pane.source.task for pane in panes if pane.source and pane.source.task]
    found = held_out.find(request.prompt, list(dict.fromkeys(tasks)))
    return found if found is not None and len(found.example.prompt) == 1 else None


def _finished(pane: Pane, example: HeldOutExample | None) -> Pane:
    if example is None:
        return pane
    return replace(pane, score=HeldOut.score(example, pane.answer))


def _remember(session: Session, place: int, prompt: str, update: PaneUpdate) -> None:
    before = session.histories.get(place, ())
    turns = Message("user", prompt), Message("assistant", update.text)
    session.histories[place] = (*before, *turns)
