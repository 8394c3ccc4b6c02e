"""One pane of the playground as HTML: who answers, the proof, the chat so far, the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ftlab.methods.registry import look_of
from ftlab.playground.differences import Piece, changed_share
from ftlab.playground.held_out import AnswerScore
from ftlab.playground.panes import BASE, PaneSource
from ftlab.playground.protocol import PaneUpdate
from ftlab.tasks.spec import Message, ResultTable, ResultTables
from ftlab.ui.html import chip, escape, field_error, named
from ftlab.units import format_number, format_share

_HELD_BACK = "This pane could not answer; why is said after the vote."
_CARET = '<span class="caret"></span>'
_TAGS = {"same": "span", "added": "ins", "removed": "del"}


@dataclass(frozen=True)
class Pane:
    """What one pane shows. `letter` stands for its name while the panes are blind.

    `update` is the last one with an answer or its end, `status` what is being waited for. `doubt`
    says that its adapter names another base, `is_vouched` that a person has vouched for it.
    `history` is what was said before `question`, the turn of a chat that is being answered.
    """

    source: PaneSource | None = None
    update: PaneUpdate | None = None
    status: str = ""
    history: tuple[Message, ...] = ()
    question: str = ""
    score: AnswerScore | None = None
    pieces: tuple[Piece, ...] = ()
    letter: str = ""
    limit: int = 0
    was_stopped: bool = False
    doubt: str = ""
    is_vouched: bool = False

    @property
    def name(self) -> str:
        """The source's name; "" where nobody answers."""
        return self.source.name if self.source else ""

    @property
    def is_final(self) -> bool:
        return self.was_stopped or (self.update is not None and self.update.is_final)

    @property
    def answer(self) -> str:
        """The text so far; of an answer that failed, what there was of it."""
        if self.update is None:
            return ""
        return self.update.partial if self.update.kind == "error" else self.update.text

    def with_update(self, update: PaneUpdate) -> Pane:
        """A status leaves the text that is there as it is, and so does an error without any."""
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
    # Apart from what was said before, which scrolls, and which would tell who a nameless pane is.
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
    """How it is known that the adapter was trained on this base, where its name does not say it."""
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
        hint = f"SHA-256 of the weights file that this pane wears: {sha}"
        parts.append(chip(f"sha {sha[:4]}…{sha[-4:]}", "seal", hint))
    told = update.next_token
    if told is not None:
        hint = (
            "Distance of the first next-token distribution from the base's on this prompt, "
            f"KL(pane || base). Likeliest here {told.token!r}, in the base {told.base_token!r}. "
            "In 16 bits up to about 0.006 nats and in 4 bits 0.015 may be rounding alone."
        )
        if update.changes_nothing:
            parts.append(chip("changes nothing here", "bad", hint))
        else:
            parts.append(chip(f"KL {_kl(told.kl_nats)} nats", "seal", hint))
            changed = ("top-1 changed", "ok") if told.top1_changed else ("top-1 same", "warn")
            parts.append(chip(*changed, hint))
    return "".join(parts)


def _kl(nats: float | None) -> str:
    return format_number(nats) if nats is None or nats >= 0.01 else f"{nats:.0e}"


def _history(turns: Sequence[Message]) -> str:
    said = "".join(
        f'<p class="{"asked" if turn.role == "user" else "said"}">{escape(turn.content)}</p>'
        for turn in turns
    )
    return f'<div class="turns" tabindex="0">{said}</div>' if said else ""


def _answer(pane: Pane) -> str:
    update = pane.update
    text = _pieces(pane.pieces) if pane.pieces else str(escape(pane.answer))
    if update is not None and update.kind == "error":
        # The sentence may name who answers.
        return text + field_error([_HELD_BACK if pane.letter else update.text])
    if update is None and pane.doubt and not (pane.letter or pane.status):
        say_so = "If that is its base, say so with the button above."
        return f'<p class="meta">{escape(pane.doubt)}. {say_so}</p>'
    if update is None or (update.kind == "status"):
        return f'<small class="status">{escape(pane.status)}</small>' if pane.status else ""
    if update.kind == "done":
        return text or "<small>The answer is empty.</small>"
    waiting = f'<br><small class="status">{escape(pane.status)}</small>' if pane.status else ""
    return f"{text}{'' if pane.was_stopped else _CARET}{waiting}"


def _pieces(pieces: Sequence[Piece]) -> str:
    return "".join(f"<{_TAGS[p.kind]}>{escape(p.text)}</{_TAGS[p.kind]}>" for p in pieces)


def _note(pane: Pane) -> str:
    note = pane.update.note if pane.update and not pane.letter else ""
    return f'<p class="meta">{escape(note)}</p>' if note else ""


def _score(pane: Pane) -> str:
    score = pane.score
    if score is None or pane.letter:  # a score would sway the vote
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


def _table(table: ResultTable) -> str:
    head = "".join(f"<th>{escape(str(name))}</th>" for name in table.columns)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(_cell(cell))}</td>' for cell in row)}</tr>"
        for row in table.rows
    )
    more = f"<small>{table.more:,} more rows</small>" if table.more else ""
    none = "<small>no rows</small>" if not table.rows else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="rows"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{none}{more}"
    )


def _cell(value: object) -> str:
    return "NULL" if value is None else str(value)[:80]


def _state(pane: Pane) -> str:
    update = pane.update
    if pane.was_stopped:
        return chip("stopped", "mute")
    if update is None or update.kind == "status":
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
