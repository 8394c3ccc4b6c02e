"""One pane as HTML: what it proves, what it hides, and that no text of a model becomes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from ftlab.methods.registry import METHODS
from ftlab.playground.held_out import AnswerScore
from ftlab.playground.requests import PaneUpdate
from ftlab.playground.text_difference import Piece
from ftlab.tabs.playground.session import Pane, pane_html
from ftlab.tasks.spec import Message, ResultTable, ResultTables
from tests.tabs.playground.fakes import (
    BASE_SOURCE,
    SHA,
    done,
    failed,
    lora,
    next_token,
    status,
    text,
)

EVIL = '"><img src=x onerror=alert(1)>'
EVIL_TABLE = ResultTable((EVIL,), ((EVIL,),), 1)
EVIL_SCORE = AnswerScore(0.0, EVIL, EVIL, ResultTables(ResultTable((), (), 0), EVIL_TABLE, "", ""))
FINISHED = PaneUpdate(
    1, "done", "SELECT 1", 12, 14.94, 0.243, 0.02, "A note.", SHA, next_token(0.25)
)
CHAT = (Message("user", "Who?"), Message("assistant", "Me."))
PIECES = (Piece("same", "SELECT "), Piece("removed", "age"), Piece("added", "name"))


def score(value: float, verdict: str, tables: ResultTables | None = None) -> AnswerScore:
    return AnswerScore(value, "SQL score", verdict, tables)


def table(*rows: tuple[Any, ...], more: int = 0) -> ResultTable:
    return ResultTable(("name",), rows, more)


def scored(value: float, verdict: str, *tables: ResultTable | None) -> Pane:
    """A pane whose answer was scored; `tables` are the expected rows and those of the answer."""
    results = ResultTables(tables[0], tables[1], "", "SELECT") if tables else None  # type: ignore[arg-type]
    return Pane(lora(), done(0, "SELECT"), score=score(value, verdict, results))


def proved(told: Any) -> Pane:
    return Pane(lora(), done(0, "hi", adapter_sha256=SHA, next_token=told))


ANN = table(("Ann",))
HALF = Pane(lora()).with_update(text(0, "SELECT na", adapter_sha256=SHA))

SHOWN: dict[str, tuple[Pane, Sequence[str], Sequence[str]]] = {
    "text that looks like HTML": (
        Pane(lora(), done(0, EVIL)), ["&lt;img src=x onerror=alert(1)&gt;"], [],
    ),
    "empty place": (Pane(), ["Choose who answers here"], []),
    "finished": (
        Pane(lora(), FINISHED, limit=96),
        [
            "LoRA r=4", "sha c41e…9b07", SHA, "begins differently from the base", "is 0.25 nats;",
            "first word changed", "A note.",
            "12 tokens", "<b>14.9</b> tok/s", "first <b>0.24</b> s", "swap <b>0.02</b> s",
            "Likeliest here &#39;SELECT&#39;, in the base &#39;The&#39; (top-1).",
            METHODS["lora"].look.colour,
        ],
        ["caret", "limit"],
    ),
    "base": (
        Pane(BASE_SOURCE, replace(FINISHED, next_token=None, adapter_sha256="")),
        ["no adapter: weights as shipped"],
        ["sha ", "KL", "begins"],
    ),
    "base known by its weights": (
        Pane(lora(same_weights=True), FINISHED), ["base known by its weights"], [],
    ),
    "same likeliest token": (
        proved(next_token(0.004, "The", "The")),
        ["begins much like the base", "4e-03 nats", "same first word"],
        [],
    ),
    "adapter that changes nothing": (
        proved(next_token(1e-9, "The", "The")), ["changes nothing here"], ["begins", "first word"],
    ),
    "nothing asked yet": (Pane(lora()), ["LoRA r=4", "nothing asked yet"], ["sha "]),
    "at its limit": (Pane(lora(), FINISHED, limit=12), ["12 tokens, the limit"], []),
    "empty answer": (Pane(lora(), done(0, "")), ["The answer is empty."], []),
    "waiting": (Pane(lora(), status="Loading the base …"), ["Loading the base …", "waiting"], []),
    "status below a text": (
        HALF.with_update(status(0, "Training first.")),
        ["SELECT na", "Training first.", "answering"],
        [],
    ),
    "status that has passed": (
        HALF.with_update(status(0, "Training first.")).with_update(text(0, "SELECT name")),
        ["SELECT name"],
        ["Training first."],
    ),
    "error below its text": (
        Pane(lora()).with_update(failed(0, "Out of memory.", partial="SELECT na")),
        ["SELECT na", 'role="alert"', "Out of memory.", "no answer"],
        [],
    ),
    "error of a dead worker, without text": (
        HALF.with_update(failed(0, "The worker ended.")),
        ["c41e…9b07", "SELECT na", "The worker ended."],
        [],
    ),
    "answering": (HALF, ["SELECT na", "caret", "answering"], ["stopped"]),
    "stopped": (
        replace(HALF, was_stopped=True), ["SELECT na", "stopped"], ["caret", "answering"],
    ),
    "chat": (
        Pane(lora(), done(0, "Now."), history=CHAT),
        ['<p class="asked">Who?', '<p class="said">Me.', "Now."],
        [],
    ),
    "score without words": (
        Pane(lora(), done(0, "Thou art."), score=AnswerScore(0.62, "chrF", "", None)),
        [">chrF 0.62</span>"],
        [],
    ),
    "right score": (
        scored(1.0, "runs, equal", ANN, ANN),
        ['<span class="chip ok" title="SQL score', "runs, equal", "<td>Ann</td>"],
        ["wanted"],
    ),
    "wrong score": (
        scored(0.0, "runs, differs", table(("Ann",), (None,), more=3), table()),
        [
            '<span class="chip warn" title="SQL score', "runs, differs", "its rows", "no rows",
            "wanted", "<td>Ann</td>", "<td>NULL</td>", "3 more rows",
        ],
        [],
    ),
    "score of an error": (
        scored(0.0, "error: no such table: x"),
        ['<span class="chip bad" title="SQL score', "error: no such table: x"],
        [],
    ),
    "score of an answer that ran nothing": (
        scored(0.0, "no SQL", ANN, None), ["no SQL"], ["<table"],
    ),
    "differences": (
        Pane(lora(), done(0, "SELECT name"), pieces=PIECES),
        ["<span>SELECT </span><del>age</del><ins>name</ins>", "50.0 % of words differ"],
        [],
    ),
}  # fmt: skip
"""By name: a pane, what it shows, and what it does not."""

IN_ORDER = ("status below a text", "error below its text", "error of a dead worker, without text",
            "chat", "wrong score")  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_a_pane_shows_its_proof_its_state_and_its_answer(name: str) -> None:
    pane, there, absent = SHOWN[name]
    shown = pane_html(pane).replace("\u00a0", " ")
    assert [part for part in there if part not in shown] == []
    assert [part for part in absent if part in shown] == []
    if name in IN_ORDER:
        places = [shown.index(part) for part in there[:3]]
        assert places == sorted(places)


def test_the_rows_of_a_right_answer_are_shown_once() -> None:
    assert pane_html(SHOWN["right score"][0]).count("<td>Ann</td>") == 1


def parts_of(html: str) -> tuple[set[str], set[str]]:
    """The names of its tags and of their attributes."""
    tags: set[str] = set()
    attributes: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.add(tag)
            attributes.update(name for name, _ in attrs)

    Reader().feed(html)
    return tags, attributes


@pytest.mark.parametrize(
    "pane",
    [
        Pane(lora(), text(0, EVIL)),
        Pane(lora(), done(0, EVIL)),
        Pane(lora(), failed(0, EVIL, partial=EVIL)),
        Pane(lora(), status=EVIL),
        Pane(lora(), text(0, "half"), status=EVIL),
        Pane(lora(), done(0, "SELECT 1", note=EVIL)),
        Pane(lora(), done(0, "SELECT 1", adapter_sha256=EVIL)),
        Pane(lora(), done(0, "SELECT 1", next_token=next_token(0.25, EVIL, EVIL))),
        Pane(lora(), done(0, "hi"), history=(Message("user", EVIL), Message("assistant", EVIL))),
        Pane(lora(), done(0, "hi"), score=score(0.0, EVIL)),
        Pane(lora(), done(0, "hi"), score=EVIL_SCORE),
        Pane(lora(), done(0, EVIL), pieces=(Piece("added", EVIL), Piece("removed", EVIL))),
        Pane(lora(label=EVIL)),
        Pane(lora(name=EVIL)),
        Pane(lora(method=EVIL)),
        Pane(lora(detail=EVIL)),
        Pane(lora(), done(0, "hi"), letter=EVIL),
    ],
)
def test_nothing_that_a_pane_is_told_becomes_html(pane: Pane) -> None:
    tags, attributes = parts_of(pane_html(pane))
    assert "img" not in tags
    assert not {name for name in attributes if name.startswith("on") or name == "src"}


def test_an_adapter_that_names_another_base_says_so_until_somebody_confirms_it() -> None:
    doubt = "'mine' says it was trained on <b>; its 2 tensors fit tiny"
    pane = Pane(lora(model="<b>"), doubt=doubt)
    asked = pane_html(pane)
    assert "&lt;b&gt;; its 2 tensors fit tiny. If that is its base, say so with the" in asked
    assert "base not vouched for" in asked
    vouched = pane_html(replace(pane, doubt="", is_vouched=True, update=FINISHED))
    assert "base vouched for by you" in vouched
    assert "It names &lt;b&gt;; its tensors fit this base in names and shapes." in vouched
    assert "vouch" not in pane_html(replace(pane, letter="A"))


def test_a_blind_pane_gives_away_nothing_but_its_letter_and_its_answer() -> None:
    pane = Pane(
        lora(),
        FINISHED,
        history=(Message("user", "Who?"), Message("assistant", "said before")),
        score=score(1.0, "runs, equal"),
        letter="B",
    )
    shown = pane_html(pane)
    assert "<b>B</b>" in shown
    assert "SELECT 1" in shown
    for secret in (
        "LoRA", "run-1", "c41e", "sha", METHODS["lora"].look.colour, "KL", "top-1", "A note.",
        "tok/s", "swap", "first", "runs, equal", "said before",
    ):  # fmt: skip
        assert secret not in shown, secret
    assert pane_html(pane) == pane_html(replace(pane, source=BASE_SOURCE))


def test_the_reason_of_an_error_in_a_blind_pane_is_shown_after_the_vote() -> None:
    pane = Pane(lora(), failed(0, "The adapter of 'LoRA r=4' is not there.", partial="SELECT"))
    blind = pane_html(replace(pane, letter="A"))
    assert "LoRA" not in blind
    assert "SELECT" in blind
    assert "why is said after the vote" in blind
    assert "is not there" in pane_html(pane)
