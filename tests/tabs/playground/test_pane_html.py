"""One pane as HTML: what it proves, what it hides, and that nothing in it is HTML of a model's."""

from __future__ import annotations

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


def score(value: float, verdict: str, tables: ResultTables | None = None) -> AnswerScore:
    return AnswerScore(value, "SQL score", verdict, tables)


def table(*rows: tuple[Any, ...], more: int = 0) -> ResultTable:
    return ResultTable(("name",), rows, more)


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


def test_text_that_looks_like_html_is_there_to_be_read() -> None:
    assert "&lt;img src=x onerror=alert(1)&gt;" in pane_html(Pane(lora(), done(0, EVIL)))


def test_a_place_where_nobody_answers_says_what_to_do() -> None:
    assert "Choose who answers here" in pane_html(Pane())


def test_a_finished_pane_proves_what_it_wears_and_says_how_fast_it_was() -> None:
    shown = pane_html(Pane(lora(), FINISHED, limit=96))
    for part in (
        "LoRA r=4",
        "sha c41e…9b07",
        SHA,
        "KL 0.25 nats",
        "top-1 changed",
        "A note.",
        "12 tokens",
        "<b>14.9</b> tok/s",
        "first <b>0.24</b> s",
        "swap <b>0.02</b> s",
        METHODS["lora"].look.colour,
    ):
        assert part in shown
    assert "caret" not in shown
    assert "limit" not in shown


def test_the_tokens_that_the_first_token_was_chosen_from_are_named_in_the_hint() -> None:
    shown = pane_html(Pane(lora(), FINISHED))
    assert "Likeliest here &#39;SELECT&#39;, in the base &#39;The&#39;." in shown


def test_the_base_pane_has_no_adapter_to_prove() -> None:
    shown = pane_html(Pane(BASE_SOURCE, replace(FINISHED, next_token=None, adapter_sha256="")))
    assert "no adapter: weights as shipped" in shown
    assert "sha " not in shown
    assert "KL " not in shown


def test_an_adapter_that_names_another_base_says_so_until_somebody_vouches_for_it() -> None:
    doubt = "'mine' says it was trained on <b>; its 2 tensors fit tiny"
    pane = Pane(lora(model="<b>"), doubt=doubt)
    asked = pane_html(pane)
    assert "&lt;b&gt;; its 2 tensors fit tiny. If that is its base, say so with the" in asked
    assert "base not vouched for" in asked
    vouched = pane_html(replace(pane, doubt="", is_vouched=True, update=FINISHED))
    assert "base vouched for by you" in vouched
    assert "It names &lt;b&gt;; its tensors fit this base in names and shapes." in vouched
    assert "vouch" not in pane_html(replace(pane, letter="A"))


def test_a_base_that_was_known_by_its_weights_is_shown_as_that() -> None:
    assert "base known by its weights" in pane_html(Pane(lora(same_weights=True), FINISHED))


def test_an_adapter_that_keeps_the_likeliest_token_says_so() -> None:
    told = next_token(0.004, "The", "The")
    shown = pane_html(Pane(lora(), done(0, "hi", adapter_sha256=SHA, next_token=told)))
    assert "KL 4e-03 nats" in shown
    assert "top-1 same" in shown


def test_an_adapter_that_changes_nothing_is_flagged_instead_of_measured() -> None:
    told = next_token(1e-9, "The", "The")
    shown = pane_html(Pane(lora(), done(0, "hi", adapter_sha256=SHA, next_token=told)))
    assert "changes nothing here" in shown
    assert "KL " not in shown
    assert "top-1" not in shown


def test_before_it_has_answered_a_pane_proves_nothing() -> None:
    shown = pane_html(Pane(lora()))
    assert "LoRA r=4" in shown
    assert "nothing asked yet" in shown
    assert "sha " not in shown


def test_an_answer_that_reached_its_limit_says_so() -> None:
    assert "12 tokens, the limit" in pane_html(Pane(lora(), FINISHED, limit=12))


def test_an_empty_answer_is_said_to_be_empty() -> None:
    assert "The answer is empty." in pane_html(Pane(lora(), done(0, "")))


def test_a_waiting_pane_says_what_it_waits_for() -> None:
    shown = pane_html(Pane(lora(), status="Loading the base model …"))
    assert "Loading the base model …" in shown
    assert "waiting" in shown


def test_a_status_stands_below_the_text_and_takes_none_of_it_away() -> None:
    pane = Pane(lora()).with_update(text(0, "SELECT na")).with_update(status(0, "Training first."))
    shown = pane_html(pane)
    assert "SELECT na" in shown
    assert "Training first." in shown
    assert "answering" in shown
    assert "Training first." not in pane_html(pane.with_update(text(0, "SELECT name")))


def test_an_error_stands_below_what_had_been_answered() -> None:
    shown = pane_html(Pane(lora()).with_update(failed(0, "Out of memory.", partial="SELECT na")))
    assert shown.index("SELECT na") < shown.index("Out of memory.")
    assert 'role="alert"' in shown
    assert "no answer" in shown


def test_an_error_that_brings_no_text_keeps_what_is_there() -> None:
    """The client says of a worker that died only that it did."""
    pane = Pane(lora()).with_update(text(0, "SELECT na", adapter_sha256=SHA))
    pane = pane.with_update(failed(0, "The worker ended."))
    assert pane.answer == "SELECT na"
    shown = pane_html(pane)
    assert "SELECT na" in shown
    assert "The worker ended." in shown
    assert "c41e…9b07" in shown


def test_a_stopped_pane_keeps_its_text_and_no_longer_answers() -> None:
    pane = Pane(lora(), text(0, "half an ans"))
    assert "caret" in pane_html(pane)
    shown = pane_html(replace(pane, was_stopped=True))
    assert "half an ans" in shown
    assert "stopped" in shown
    assert "caret" not in shown
    assert "answering" not in shown


def test_the_chat_so_far_stands_above_the_answer() -> None:
    history = (Message("user", "Who?"), Message("assistant", "Me."))
    shown = pane_html(Pane(lora(), done(0, "Now."), history=history))
    assert shown.index("Who?") < shown.index("Me.") < shown.index("Now.")
    assert '<p class="asked">Who?' in shown
    assert '<p class="said">Me.' in shown


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (score(1.0, "runs, equal"), "ok"),
        (score(0.0, "runs, differs"), "warn"),
        (score(0.0, "error: no such table: x"), "bad"),
    ],
)
def test_a_score_is_said_in_words_and_never_by_colour_alone(found: AnswerScore, kind: str) -> None:
    shown = pane_html(Pane(lora(), done(0, "SELECT 1"), score=found))
    assert f'<span class="chip {kind}" title="SQL score' in shown
    assert found.verdict in shown


def test_a_score_without_words_is_a_number() -> None:
    shown = pane_html(Pane(lora(), done(0, "Thou art."), score=AnswerScore(0.62, "chrF", "", None)))
    assert ">chrF 0.62</span>" in shown


def test_the_rows_of_a_right_answer_are_shown_once() -> None:
    tables = ResultTables(table(("Ann",)), table(("Ann",)), "", "SELECT")
    shown = pane_html(Pane(lora(), done(0, "SELECT"), score=score(1.0, "runs, equal", tables)))
    assert shown.count("<td>Ann</td>") == 1
    assert "wanted" not in shown


def test_the_rows_of_a_wrong_answer_stand_beside_those_wanted() -> None:
    tables = ResultTables(table(("Ann",), (None,), more=3), table(), "", "SELECT")
    shown = pane_html(Pane(lora(), done(0, "SELECT"), score=score(0.0, "runs, differs", tables)))
    assert shown.index("its rows") < shown.index("no rows") < shown.index("wanted")
    assert "<td>Ann</td>" in shown
    assert "<td>NULL</td>" in shown
    assert "3 more rows" in shown


def test_an_answer_that_ran_nothing_has_no_rows() -> None:
    tables = ResultTables(table(("Ann",)), None, "no SQL", "")
    shown = pane_html(Pane(lora(), done(0, "hi"), score=score(0.0, "no SQL", tables)))
    assert "<table" not in shown


def test_differences_are_marked_and_their_share_is_said() -> None:
    pieces = (Piece("same", "SELECT "), Piece("removed", "age"), Piece("added", "name"))
    shown = pane_html(Pane(lora(), done(0, "SELECT name"), pieces=pieces))
    assert "<span>SELECT </span><del>age</del><ins>name</ins>" in shown
    assert "50.0 % of words differ" in shown.replace("\u00a0", " ")


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
        "LoRA",
        "run-1",
        "c41e",
        "sha",
        METHODS["lora"].look.colour,
        "KL",
        "top-1",
        "A note.",
        "tok/s",
        "swap",
        "first",
        "runs, equal",
        "said before",
    ):
        assert secret not in shown, secret
    assert pane_html(pane) == pane_html(replace(pane, source=BASE_SOURCE))


def test_the_reason_of_a_blind_panes_error_is_said_after_the_vote() -> None:
    pane = Pane(lora(), failed(0, "The adapter of 'LoRA r=4' is not there.", partial="SELECT"))
    blind = pane_html(replace(pane, letter="A"))
    assert "LoRA" not in blind
    assert "SELECT" in blind
    assert "why is said after the vote" in blind
    assert "is not there" in pane_html(pane)
