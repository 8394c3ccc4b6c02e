"""The state of one visitor's playground, and its panes as HTML.

Plain functions and data without components: the tab stores a `Session` and shows its panes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.units import format_number, format_share
from ftlab.basics.visitor_turns import NOBODY, Visitor
from ftlab.methods.registry import look_of
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import AnswerScore, HeldOut, HeldOutExample
from ftlab.playground.panes import BASE, PaneSource, base_doubt, find_source
from ftlab.playground.requests import (
    KL_BANDS,
    MAX_PANES,
    WAITING,
    GenerateRequest,
    PaneUpdate,
)
from ftlab.playground.text_difference import Piece, changed_share, word_differences
from ftlab.playground.uploaded import vouch_for_base
from ftlab.playground.votes import shuffled
from ftlab.tabs.widgets import chip, escape, field_error, named, note_html, table
from ftlab.tasks.spec import Message, ResultTable, ResultTables

_HELD_BACK = "This pane could not answer; why is said after the vote."
_CARET = '<span class="caret"></span>'
_TAGS = {"same": "span", "added": "ins", "removed": "del"}


@dataclass(frozen=True)
class Pane:
    """The content of one pane. `letter` replaces its name during a blind vote.

    `update` is the last one that is not a status; `status` describes what the pane waits for.
    `doubt` says that its adapter names another base; `is_vouched`: the user has confirmed the base.
    `history` holds the earlier turns of a chat, `question` the turn that is being answered.
    `request` is the one that was sent to this pane, `asked_at` its time in seconds since the epoch.
    """

    source: PaneSource | None = None
    update: PaneUpdate | None = None
    status: str = ""
    history: tuple[Message, ...] = ()
    question: str = ""
    request: GenerateRequest | None = None
    asked_at: float = 0.0
    score: AnswerScore | None = None
    pieces: tuple[Piece, ...] = ()
    letter: str = ""
    limit: int = 0
    was_stopped: bool = False
    doubt: str = ""
    is_vouched: bool = False

    @property
    def name(self) -> str:
        """The source's name; "" for an empty pane."""
        return self.source.name if self.source else ""

    @property
    def is_final(self) -> bool:
        return self.was_stopped or (self.update is not None and self.update.is_final)

    @property
    def answer(self) -> str:
        """The text so far; the partial text if the answer failed."""
        if self.update is None:
            return ""
        return self.update.partial if self.update.kind == "error" else self.update.text

    def with_update(self, update: PaneUpdate) -> Pane:
        """Returns the pane after an update. A status, or an error without text, keeps the text."""
        if update.kind == "status":
            return replace(self, status=update.text)
        if update.kind == "error" and self.answer and not update.partial:
            assert self.update is not None
            update = replace(self.update, kind="error", text=update.text, partial=self.answer)
        return replace(self, update=update, status="")


def pane_html(pane: Pane) -> str:
    source = pane.source
    if source is None:
        return '<div class="answer"><small>Choose who answers here.</small></div>'
    colour = "var(--line)" if pane.letter else look_of(source.method).colour
    # The question is separate from the history, which scrolls and would identify a blind pane.
    asked = (Message("user", pane.question),) if pane.question else ()
    head = _blind_head(pane.letter) if pane.letter else _head(source, pane)
    return (
        f'<div class="proof" style="--c:{colour}">{head}</div>'
        f"{'' if pane.letter else _history(pane.history)}"
        f"{_history(asked)}"
        f'<div class="answer">{_answer(pane)}</div>'
        f"{_note(pane)}{_score(pane)}"
        f'<div class="foot">{_state(pane)}<span class="grow"></span>{_speed(pane)}</div>'
    )


def _blind_head(letter: str) -> str:
    return f'<span class="who"><b>{escape(letter)}</b></span>{chip("name hidden", "mute")}'


def _head(source: PaneSource, pane: Pane) -> str:
    hint = escape(f"{source.title} ({source.name})")
    who = f'<span class="who" title="{hint}">{named(source.method, source.label)}</span>'
    if source.name == BASE:
        return who + chip("no adapter: weights as shipped", "mute")
    return who + _proof(pane.update) + _base_chip(source, pane)


def _base_chip(source: PaneSource, pane: Pane) -> str:
    """HTML: why the adapter is taken to fit this base, if it names another one."""
    named = f"It names {source.model}; its tensors fit this base in names and shapes."
    if pane.doubt:
        return chip("base not vouched for", "warn", named)
    if pane.is_vouched:
        return chip("base vouched for by you", "warn", named)
    if source.same_weights:
        return chip("base known by its weights", "seal", "The folder that it names holds them.")
    return ""


def _proof(update: PaneUpdate | None) -> str:
    if update is None:
        return ""
    parts = []
    sha = update.adapter_sha256
    if sha:
        hint = f"SHA-256 of this pane's weights file: {sha}"
        parts.append(chip(f"sha {sha[:4]}…{sha[-4:]}", "seal", hint))
    told = update.next_token
    if told is not None:
        hint = (
            "The probabilities of the first token, compared with the base's on this prompt: "
            f"KL(pane || base) is {kl_words(told.kl_nats)} nats; {KL_BANDS}. "
            f"Likeliest here {told.token!r}, in the base {told.base_token!r} (top-1). In 16 bits "
            "up to about 0.006 nats and in 4 bits 0.015 may be rounding alone."
        )
        if update.changes_nothing:
            parts.append(chip("changes nothing here", "bad", hint))
        else:
            parts.append(chip(f"begins {told.difference} the base", "seal", hint))
            changed = (
                ("first word changed", "ok") if told.top1_changed else ("same first word", "warn")
            )
            parts.append(chip(*changed, hint))
    return "".join(parts)


def kl_words(nats: float | None) -> str:
    """A KL divergence in nats as text, however small."""
    return format_number(nats) if nats is None or nats >= 0.01 else f"{nats:.0e}"


def _history(turns: Sequence[Message]) -> str:
    said = "".join(
        f'<p class="{"asked" if turn.role == "user" else "said"}">{escape(turn.content)}</p>'
        for turn in turns
    )
    return f'<div class="turns" tabindex="0">{said}</div>' if said else ""


def _answer(pane: Pane) -> str:
    update = pane.update
    text = marked(pane.pieces) if pane.pieces else str(escape(pane.answer))
    if update is not None and update.kind == "error":
        # The message may contain the name of the pane.
        return text + field_error([_HELD_BACK if pane.letter else update.text])
    if update is not None and update.kind == "done":
        return text or "<small>The answer is empty.</small>"
    status = f'<small class="status">{escape(pane.status)}</small>' if pane.status else ""
    if update is not None:
        return f"{text}{'' if pane.was_stopped else _CARET}{status and f'<br>{status}'}"
    if pane.doubt and not (pane.letter or status):
        return note_html(f"{pane.doubt}. If that is its base, say so with the button above.")
    return status


def marked(pieces: Sequence[Piece]) -> str:
    """HTML: the text with its added and removed words marked."""
    return "".join(f"<{_TAGS[p.kind]}>{escape(p.text)}</{_TAGS[p.kind]}>" for p in pieces)


def _note(pane: Pane) -> str:
    return note_html(pane.update.note if pane.update and not pane.letter else "")


def _score(pane: Pane) -> str:
    score = pane.score
    if score is None or pane.letter:  # a score would influence the vote
        return ""
    kind = "ok" if score.score >= 0.999 else "bad" if score.verdict.startswith("error") else "warn"
    words = score.verdict or f"{score.metric} {format_number(score.score)}"
    line = chip(words[:60], kind, f"{score.metric} {format_number(score.score)}; {words}")
    tables = _tables(score.tables) if score.tables else ""
    return f'<div class="score">{line}{tables}</div>'


def _tables(tables: ResultTables) -> str:
    if tables.found is None:
        return ""
    wanted = f"<small>wanted</small>{_table(tables.expected)}" if tables.found else ""
    same = tables.found == tables.expected
    return f"<small>its rows</small>{_table(tables.found)}{'' if same else wanted}"


def _table(found: ResultTable) -> str:
    rows = [["NULL" if cell is None else str(cell)[:80] for cell in row] for row in found.rows]
    more = f"<small>{found.more:,} more rows</small>" if found.more else ""
    none = "" if rows else "<small>no rows</small>"
    return f"{table(map(str, found.columns), rows, 'rows')}{none}{more}"


def _state(pane: Pane) -> str:
    update = pane.update
    if pane.was_stopped:
        return chip("stopped", "mute")
    if update is None:
        return chip("waiting", "running") if pane.status else chip("nothing asked yet", "mute")
    if update.kind == "error":
        return chip("no answer", "bad")
    if update.kind != "done":
        return chip("answering", "running")
    if pane.limit and update.tokens >= pane.limit:
        return chip(f"{update.tokens} tokens, the limit", "warn")
    state = chip(f"{update.tokens} tokens", "ok")
    if pane.pieces:
        share = format_share(changed_share(pane.pieces))
        state += chip(f"{share} of words differ", "mute")
    return state


def _speed(pane: Pane) -> str:
    update = pane.update
    if update is None or update.kind != "done" or pane.letter:
        return ""
    speed = format_number(update.tokens_per_second, 1)
    first = format_number(update.first_token_seconds)
    parts = [
        f'<span title="After the first token, while all panes took turns"><b>{speed}</b> tok/s'
        "</span>",
        f'<span title="From prompt to first token">first <b>{first}</b> s</span>',
    ]
    if update.swap_seconds is not None:
        swap = format_number(update.swap_seconds)
        parts.append(f'<span title="To put the adapter on">swap <b>{swap}</b> s</span>')
    return "".join(parts)


SECONDS_BETWEEN_SCREENS = 0.1
"""Minimum time between updates of the page: a busy page does not react to its Stop button."""

SINGLE, CHAT, COMPLETION = "single", "chat", "completion"
LETTERS = "ABCDEF"


@dataclass
class Session:
    """The chosen panes, and the last prompt with its answers.

    `order` maps each position on the page to a pane; blind panes are shuffled. `histories` holds
    the chat turns of each pane. `doubts` maps a pane's name to a sentence, if its adapter names
    another base than the page's; `vouched` are the names whose base the user has confirmed. `drawn`
    is the `selection` that the page shows, `None` before the first. The functions here change the
    session in place. A running answer continues in its own thread, and ends when `panes` is
    replaced by another list.
    """

    panes: list[Pane] = field(default_factory=lambda: [Pane()] * MAX_PANES)
    request: GenerateRequest | None = None
    order: tuple[int, ...] = tuple(range(MAX_PANES))
    is_blind: bool = False
    histories: dict[int, tuple[Message, ...]] = field(default_factory=dict)
    errors: tuple[FieldError, ...] = ()
    doubts: dict[str, str] = field(default_factory=dict)
    vouched: frozenset[str] = frozenset()
    drawn: object = None

    @property
    def selection(self) -> tuple[object, ...]:
        """Compares equal while the same panes are chosen and the same is said of their bases."""
        return tuple(pane.name for pane in self.panes), dict(self.doubts), self.vouched

    def shown(self) -> list[Pane]:
        """Returns the panes in page order; during a blind vote with letters instead of names."""
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
        """True if the vote is blind, at least two panes have answered, and none is running."""
        answered = [pane for pane in self.panes if pane.update and pane.update.kind == "done"]
        asked = [pane for pane in self.panes if pane.update or pane.status]
        return self.is_blind and len(answered) >= 2 and all(pane.is_final for pane in asked)

    def begin_anew(self, panes: list[Pane]) -> None:
        """Replaces the panes, and clears the last request, its errors and the shuffled order."""
        self.panes, self.request, self.errors = panes, None, ()
        in_order(self)


def choose(session: Session, names: Sequence[str | None], runs_folder: Path) -> Session:
    """Selects the panes; a pane that stays keeps its answer and its chat.

    A changed selection ends a running answer.
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


def judge_bases(session: Session, model: str | None) -> Session:
    """Sets `doubts` and `vouched` for the panes' adapters on the base `model`; none without one."""
    session.doubts, session.vouched = {}, frozenset()
    if not model:
        return session
    sources = [pane.source for pane in session.panes if pane.source is not None]
    doubts = {source.name: base_doubt(source, model) for source in sources}
    session.doubts = {name: doubt for name, doubt in doubts.items() if doubt}
    session.vouched = frozenset(s.name for s in sources if s.is_vouched_for(model))
    return session


def vouch(session: Session, place: int, model: str, runs_folder: Path) -> Session:
    """Records the user's confirmation that `model` is the base of the adapter in that pane.

    Raises `FtlabError` if it is not an uploaded adapter, or does not fit that base.
    """
    source = vouch_for_base(runs_folder, session.panes[place].name, model)
    panes = stop(session).panes
    session.begin_anew([Pane(source) if pane.name == source.name else pane for pane in panes])
    return judge_bases(session, model)


def new_chat(session: Session) -> Session:
    """Clears the answers and chats of all panes."""
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
    """Streams the answers into the session's panes; yields the session when the page must update.

    `request` has no panes: the session's panes are used. With a `blind_seed` they are shuffled and
    their names hidden; the names return when all answers ended, if no vote is possible.
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
            request=request,
            asked_at=time.time(),
            limit=request.max_new_tokens,
        )
    session.panes = panes
    yield session
    example = _example(request, held_out, panes)
    drawn = time.monotonic()
    with closing(updates):
        for update in updates:
            if session.panes is not panes:  # stopped, or the selection changed
                break
            place = places[update.pane]
            pane = panes[place].with_update(update)
            if update.kind == "done" and example is not None:
                pane = replace(pane, score=HeldOut.score(example, pane.answer))
            if update.kind == "done" and keeps_history:
                turns = Message("user", request.prompt), Message("assistant", update.text)
                session.histories[place] = (*session.histories.get(place, ()), *turns)
            panes[place] = pane
            if update.kind != "text" or time.monotonic() - drawn >= SECONDS_BETWEEN_SCREENS:
                yield session
                drawn = time.monotonic()
    if session.panes is panes:
        _reveal_unless_voted(session)
    yield session  # also after a stop: gradio sends the last value once more at the end


def stop(session: Session) -> Session:
    """Ends the running answer and marks unfinished panes as stopped; keeps their text."""
    session.panes = [
        replace(pane, was_stopped=True, status="")
        if (pane.status or pane.update) and not pane.is_final
        else pane
        for pane in session.panes
    ]
    _reveal_unless_voted(session)
    return session


def reveal(session: Session) -> Session:
    """Shows the names; the panes keep their shuffled positions."""
    session.is_blind = False
    return session


def in_order(session: Session) -> Session:
    """Shows the names and restores the original order."""
    session.order = tuple(range(MAX_PANES))
    return reveal(session)


def compare(session: Session, against: int | None) -> Session:
    """Marks in each pane the differences from the pane at that position; `None` clears them."""
    shown = session.order[against] if against is not None and 0 <= against < MAX_PANES else None
    other = session.panes[shown] if shown is not None else None
    for place, pane in enumerate(session.panes):
        pieces: tuple[Piece, ...] = ()
        if other is not None and place != shown and _has_text(pane) and _has_text(other):
            pieces = tuple(word_differences(pane.answer, other.answer))
        if pieces != pane.pieces:  # does not overwrite a pane that is still answering
            session.panes[place] = replace(pane, pieces=pieces)
    return session


def _reveal_unless_voted(session: Session) -> None:
    """Shows the names if no vote is possible."""
    if not session.can_vote:
        reveal(session)


def _has_text(pane: Pane) -> bool:
    return pane.is_final and bool(pane.answer)


def _source(runs_folder: Path, name: str) -> PaneSource:
    try:
        return find_source(runs_folder, name)
    except (FtlabError, OSError):
        return PaneSource(name, name)  # the error is shown in its pane when a prompt is sent


def _order(places: Sequence[int], blind_seed: int | None) -> tuple[int, ...]:
    """Returns the pane of each position; a blind order puts the answering panes first, shuffled."""
    if blind_seed is None:
        return tuple(range(MAX_PANES))
    mixed = [places[i] for i in shuffled(len(places), blind_seed)]
    return (*mixed, *[place for place in range(MAX_PANES) if place not in mixed])


def _example(
    request: GenerateRequest, held_out: HeldOut, panes: Sequence[Pane]
) -> HeldOutExample | None:
    """Returns the test example with this prompt, if the request formats it as in training."""
    if request.mode == COMPLETION or request.histories or request.system.strip():
        return None
    tasks = [pane.source.task for pane in panes if pane.source and pane.source.task]
    found = held_out.find(request.prompt, list(dict.fromkeys(tasks)))
    return found if found is not None and len(found.example.prompt) == 1 else None
