"""The blind vote: when it can be cast, what is recorded, and what the tally says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlab.playground.panes import PaneSource
from ftlab.playground.requests import GenerateRequest, PaneUpdate
from ftlab.playground.votes import read_votes, shuffled
from ftlab.tabs import widgets
from ftlab.tabs.playground import vote as playground_vote
from ftlab.tabs.playground.session import Session, ask, choose
from ftlab.tabs.playground.vote import cast, sheet_updates, tally_html
from tests.tabs.playground.fakes import (
    BASE_SOURCE,
    HELD_OUT,
    ScriptedClient,
    done,
    failed,
    lora,
    session_of,
    text,
)

SWEEP = "20261125-120000-ab12"
ONE = lora("run-1", "LoRA r=4", sweep_id=SWEEP)
TWO = lora("run-2", "<b>LoRA</b>", sweep_id=SWEEP)


def answered(
    *updates: PaneUpdate,
    sources: tuple[PaneSource | None, ...] = (BASE_SOURCE, ONE, TWO),
    seed: int | None = 4,
    **settings: Any,
) -> Session:
    """A session whose prompt was answered blind."""
    session = session_of(*sources)
    request = GenerateRequest((), "Who?", **settings)
    for _ in ask(session, request, False, ScriptedClient(*updates), HELD_OUT, seed):
        pass
    return session


def sheet(session: Session, folder: Path) -> tuple[str, list[bool]]:
    """What is said, and whether each button is there: six letters, tie, skip."""
    said, *buttons = sheet_updates(session, folder)
    return said, [button["visible"] for button in buttons]


def test_the_buttons_come_when_all_panes_have_answered(tmp_path: Path) -> None:
    session = session_of(BASE_SOURCE, ONE)
    client = ScriptedClient(text(0, "a"), done(0, "a"), done(1, "b"))
    ready = [
        sheet(now, tmp_path)[1]
        for now in ask(session, GenerateRequest((), "hi"), False, client, HELD_OUT, 1)
    ]
    assert ready[-1] == [True, True, False, False, False, False, True, True]
    assert not any(any(buttons) for buttons in ready[:-2])


def test_the_next_prompt_takes_the_buttons_of_the_last_away(tmp_path: Path) -> None:
    session = answered()
    asking = ask(session, GenerateRequest((), "hi"), False, ScriptedClient(), HELD_OUT, 1)
    next(asking)
    said, buttons = sheet(session, tmp_path)
    assert "when all have answered" in said
    assert not any(buttons)


@pytest.mark.parametrize("case", ["not blind", "other panes", "revealed"])
def test_only_a_blind_prompt_of_these_panes_is_voted_on(tmp_path: Path, case: str) -> None:
    session = answered(seed=None if case == "not blind" else 4)
    if case == "other panes":
        choose(session, ["base", "another"], tmp_path)
    elif case == "revealed":
        playground_vote.reveal(session)
    said, buttons = sheet(session, tmp_path)
    assert ("No vote yet" in said) == (case != "other panes")
    assert not any(buttons)
    assert cast(session, 0, tmp_path) is session
    assert read_votes(tmp_path, [SWEEP]) == []


def test_only_places_with_an_answer_have_a_button_and_a_key(tmp_path: Path) -> None:
    assert "when all have answered, press a key" in sheet(session_of(BASE_SOURCE), tmp_path)[0]
    assert "Press 1, 2 or 3, or 0" in sheet(answered(), tmp_path)[0]
    session = answered(done(0, "a"), failed(1, "No."), done(2, "c"))
    keys = [n for n, pane in enumerate(session.shown()[:3], 1) if pane.name != "run-1"]
    said, buttons = sheet(session, tmp_path)
    assert f"Press {keys[0]} or {keys[1]}, or 0 for no difference" in said
    assert [n for n, there in enumerate(buttons[:6], 1) if there] == keys


def test_a_vote_records_the_answers_as_they_were_shown_and_reveals(tmp_path: Path) -> None:
    session = answered(precision="fp32", model="someone/model")
    order = [pane.name for pane in session.shown()[:3]]
    assert order != ["base", "run-1", "run-2"], "the seed shuffles nothing"
    cast(session, 1, tmp_path)
    (vote,) = read_votes(tmp_path, [SWEEP])
    labels = {"base": "Base", "run-1": "LoRA r=4", "run-2": "<b>LoRA</b>"}
    assert vote.panes == tuple(order)
    assert vote.labels == tuple(labels[name] for name in order)
    assert vote.answers == tuple(f"Who? by {name}" for name in order)
    assert vote.winner == 1
    assert (vote.prompt, vote.model, vote.precision) == ("Who?", "someone/model", "fp32")
    assert vote.sweep_ids == (SWEEP,)
    assert not session.is_blind


def test_the_button_of_a_letter_votes_for_the_pane_that_showed_it(tmp_path: Path) -> None:
    seed = next(seed for seed in range(50) if shuffled(3, seed)[0] == 1)
    session = answered(done(0, "a"), failed(1, "No."), done(2, "c"), seed=seed)
    place = next(n for n, pane in enumerate(session.shown()) if pane.name == "run-2")
    cast(session, place, tmp_path)
    (vote,) = read_votes(tmp_path, [SWEEP])
    assert vote.winner is not None
    assert vote.panes[vote.winner] == "run-2"
    assert vote.answers[vote.winner] == "c"
    assert "run-1" not in vote.panes


def test_no_difference_is_a_vote_too_and_a_key_pressed_twice_votes_once(tmp_path: Path) -> None:
    session = answered(sources=(BASE_SOURCE, ONE))
    for _ in range(2):
        cast(session, None, tmp_path)
    (vote,) = read_votes(tmp_path, [SWEEP])
    assert vote.winner is None
    assert tally_html(session, tmp_path).count("<td><b>50%</b></td>") == 2, "a part for each"
    cast(answered(sources=(BASE_SOURCE, lora("shipped:sql", "SQL"))), 0, tmp_path)
    assert len(read_votes(tmp_path, [])) == 1, "votes between panes of no sweep are kept as well"


def test_a_vote_before_all_have_answered_is_none(tmp_path: Path) -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    client = ScriptedClient(done(0, "a"), done(1, "b"), text(2, "c"), done(2, "c"))
    client.before = lambda number: number == 3 and cast(session, 0, tmp_path)
    for _ in ask(session, GenerateRequest((), "hi"), False, client, HELD_OUT, 1):
        pass
    assert read_votes(tmp_path, [SWEEP]) == []
    assert session.is_blind


def test_after_the_vote_the_sheet_shows_the_tally_of_the_open_panes(tmp_path: Path) -> None:
    session = answered()
    place = [pane.name for pane in session.shown()].index("run-1")
    cast(session, place, tmp_path)
    said, buttons = sheet(session, tmp_path)
    assert "LoRA r=4 wins 1 of 1" in said
    assert "no difference shown yet" in said
    assert "<td>1</td><td>0</td><td>1</td><td><b>100%</b></td>" in said
    assert "<b>LoRA</b>" not in said
    assert "&lt;b&gt;LoRA" in said
    assert not any(buttons)


def test_a_vote_that_cannot_be_kept_is_said_and_still_reveals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(widgets.gr, "Warning", lambda sentence, **kw: said.append(sentence))
    (tmp_path / ".ftlab").write_text("in the way")
    session = cast(answered(), 0, tmp_path)
    assert "The vote cannot be kept" in said[0]
    assert not session.is_blind


def test_votes_that_cannot_be_read_are_said_in_the_sheet(tmp_path: Path) -> None:
    session = answered()
    cast(session, 0, tmp_path)
    (file,) = (tmp_path / ".ftlab" / "votes").iterdir()
    file.unlink()
    file.mkdir()
    assert "cannot be read" in sheet(session, tmp_path)[0]
