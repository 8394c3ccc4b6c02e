"""What a visitor's playground holds between two clicks, and how a prompt changes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.requests import GenerateRequest
from ftlab.playground.uploaded import upload_adapter
from ftlab.tabs.playground import session as playground_session
from ftlab.tabs.playground.session import (
    Pane,
    Session,
    ask,
    choose,
    compare,
    in_order,
    judge_bases,
    new_chat,
    pane_html,
    reveal,
    stop,
    vouch,
)
from ftlab.tasks.spec import Message
from tests.fakes import make_run
from tests.playground.adapters import adapter_folder, base_folder
from tests.playground.test_client import FAKE
from tests.tabs.playground.fakes import (
    BASE_SOURCE,
    HELD_OUT,
    SQL,
    ScriptedClient,
    answers_of,
    done,
    failed,
    lora,
    names_of,
    session_of,
    text,
)

ONE, TWO = lora("run-1", "LoRA r=4"), lora("run-2", "LoRA r=8")
IN_ORDER = ["hi by base", "hi by run-1", "hi by run-2"]


def request(prompt: str = "hi", **settings: Any) -> GenerateRequest:
    return GenerateRequest((), prompt, **settings)


def send(
    session: Session,
    client: PlaygroundClient,
    prompt: str = "hi",
    *,
    chat: bool = False,
    blind: int | None = None,
    **settings: Any,
) -> list[list[str]]:
    """Asks to the end; gives the answers on the page after each change."""
    answers = ask(session, request(prompt, **settings), chat, client, HELD_OUT, blind)
    return [answers_of(now) for now in answers]


def said(*turns: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns))


def blind_session(seed: int = 4) -> Session:
    session = session_of(BASE_SOURCE, ONE, TWO)
    send(session, ScriptedClient(), blind=seed)
    return session


# ---- who answers


def test_a_person_vouches_for_the_base_of_an_adapter_in_its_pane(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "small", 576)
    runs = tmp_path / "runs"
    adapter = upload_adapter(adapter_folder(tmp_path / "mine"), runs, base=str(base))
    session = judge_bases(choose(Session(), ["base", adapter.name, None], runs), str(base))
    assert "its 2 tensors fit small" in session.shown()[1].doubt
    for place in (0, 2):
        with pytest.raises(FtlabError, match="names no uploaded adapter"):
            vouch(session, place, str(base), runs)
    vouch(session, 1, str(base), runs)
    shown = session.shown()[1]
    assert (shown.doubt, shown.is_vouched) == ("", True)
    judge_bases(session, None)
    assert not session.doubts
    judge_bases(session, "bundled")
    assert session.shown()[1].is_vouched is False, "it names that base itself"


def test_panes_are_chosen_by_name_and_a_real_process_answers_under_their_names(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, "lora", hyperparameters={"r": 4})
    session = choose(Session(), ["base", None, run.run_id, "gone", "base"], tmp_path)
    labels = [pane.source.label if pane.source else None for pane in session.panes]
    assert labels == ["Base", None, "LoRA r=4", "gone", "Base", None]
    client = PlaygroundClient(tmp_path, FAKE)
    send(session, client, "hello")
    client.close()
    texts = [pane.update.text if pane.update else "" for pane in session.panes]
    assert all(texts[place].startswith("hello by") for place in (0, 2, 4))
    assert texts[3].startswith("There is no run 'gone'")
    assert texts[1] == texts[5] == ""


def test_only_a_pane_that_is_changed_loses_its_answer_and_a_new_choice_ends_a_blind_vote(
    tmp_path: Path,
) -> None:
    session = choose(Session(), ["base", "gone"], tmp_path)
    send(session, ScriptedClient(), blind=3)
    before = session.panes
    choose(session, ["base", "gone", None, ""], tmp_path)
    assert session.panes is before, "the same choice"
    assert session.is_blind
    choose(session, ["base", "other"], tmp_path)
    assert not session.is_blind
    assert [pane.name for pane in session.shown()[:2]] == names_of(session) == ["base", "other"]
    assert answers_of(session) == ["hi by base", ""]


# ---- answers


def test_each_answer_comes_in_the_pane_of_its_own_source() -> None:
    session = session_of(BASE_SOURCE, None, ONE)
    client = ScriptedClient()
    send(session, client)
    assert client.requests[0].panes == ("base", "run-1")
    assert [pane.answer for pane in session.panes[:3]] == ["hi by base", "", "hi by run-1"]


def test_text_that_comes_fast_is_shown_together_and_slow_text_as_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page that is kept busy does not react to its Stop button."""
    session = session_of(BASE_SOURCE, ONE)
    fast = [text(pane, "word " * n) for n in range(1, 100) for pane in (0, 1)]
    screens = send(session, ScriptedClient(*fast, done(0, "end one"), done(1, "end two")))
    assert len(screens) < 10
    assert (screens[0], screens[-1]) == (["", ""], ["end one", "end two"])
    monkeypatch.setattr(playground_session, "SECONDS_BETWEEN_SCREENS", 0.0)
    words = [text(0, "w" * n) for n in range(1, 20)]
    screens = send(session_of(BASE_SOURCE), ScriptedClient(*words, done(0, "end")))
    assert [["w" * n] for n in range(1, 20)] == screens[1:20]


def test_an_error_keeps_the_text_of_its_pane_and_the_other_panes() -> None:
    session = session_of(BASE_SOURCE, ONE)
    updates = text(1, "half an"), failed(1, "Out of memory.", partial="half an"), done(0, "whole")
    send(session, ScriptedClient(*updates))
    assert answers_of(session) == ["whole", "half an"]
    assert "Out of memory." in pane_html(session.panes[1])
    ended = "The playground's worker ended before it had answered."
    send(session, ScriptedClient(text(0, "half"), failed(0, ended), failed(1, ended)))
    assert answers_of(session) == ["half", ""]
    assert "ended before it had answered" in pane_html(session.panes[0])


def test_an_invalid_prompt_is_reported_and_the_answers_before_it_stay() -> None:
    session, client = session_of(BASE_SOURCE), ScriptedClient()
    send(session, client)
    send(session, client, " ", temperature=9)
    assert [error.field for error in session.errors] == ["prompt", "temperature"]
    assert answers_of(session) == ["hi by base"]
    send(session, client, "again")
    assert session.errors == ()
    nobody, client = session_of(), ScriptedClient()
    send(nobody, client)
    assert nobody.errors[0].field == "panes"
    assert client.requests == []


# ---- chats


def test_a_chat_keeps_each_panes_own_turns_and_sends_them() -> None:
    session, client = session_of(BASE_SOURCE, ONE), ScriptedClient()
    for prompt in ("first", "second", "third"):
        send(session, client, prompt, chat=True)
    first, second, third = client.requests
    assert first.histories == ()
    assert second.histories == (said("first", "first by base"), said("first", "first by run-1"))
    assert third.history(1) == said("first", "first by run-1", "second", "second by run-1")
    assert session.panes[1].history == third.history(1)


def test_a_chat_shows_the_question_as_soon_as_it_is_sent() -> None:
    session, client = session_of(BASE_SOURCE, ONE), ScriptedClient()
    send(session, client, "first", chat=True)
    for now in ask(session, request("<second>"), True, ScriptedClient(), HELD_OUT):
        for pane in now.panes[:2]:
            html = pane_html(pane)
            assert html.index("first") < html.index("&lt;second&gt;")
            assert html.count("&lt;second&gt;") == 1 + ("second>" in pane.answer)
        assert "second" not in pane_html(now.panes[2])  # nobody answers there
    send(session, client, "third", chat=False)
    assert session.panes[0].question == ""  # the prompt of a single answer stands in its field
    blind = pane_html(Pane(ONE, letter="A", question="now?", history=said("before?", "by run-1")))
    assert "now?" in blind
    assert "by run-1" not in blind, "which would identify the pane"


def test_a_pane_that_is_changed_begins_its_chat_anew(tmp_path: Path) -> None:
    session, client = choose(Session(), ["base", "a"], tmp_path), ScriptedClient()
    for names, prompt in ((["base", "a"], "first"), (["base", "b"], "second"), (["base", "a"], "")):
        choose(session, names, tmp_path)
        send(session, client, prompt or "third", chat=True)
    assert client.requests[1].histories == (said("first", "first by base"), ())
    assert client.requests[2].history(1) == ()


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_a_single_prompt_and_a_completion_send_no_history(mode: Any) -> None:
    session, client = session_of(BASE_SOURCE), ScriptedClient()
    send(session, client, "first", chat=True)
    send(session, client, "second", mode=mode)
    assert client.requests[1].histories == session.panes[0].history == ()
    send(session, client, "third", chat=True)
    assert client.requests[2].history(0) == said("first", "first by base")


def test_an_answer_that_failed_or_was_stopped_is_no_turn_of_the_chat() -> None:
    session = session_of(BASE_SOURCE, ONE)
    client = ScriptedClient(text(0, "half"), failed(1, "No."), done(0, "whole"))
    for now in ask(session, request("first"), True, client, HELD_OUT):
        if now.panes[1].is_final:
            stop(session)
    assert session.histories == {}


def test_a_new_chat_keeps_the_panes_and_forgets_what_was_said() -> None:
    session, client = session_of(BASE_SOURCE, ONE), ScriptedClient()
    send(session, client, "first", chat=True)
    new_chat(session)
    assert names_of(session) == ["base", "run-1"]
    assert answers_of(session) == ["", ""]
    send(session, client, "second", chat=True)
    assert client.requests[1].histories == ()


# ---- an answer that is left


def leave(session: Session, client: ScriptedClient, how: Callable[[], object], at: int) -> None:
    """Asks, and does something as the update of that number is about to come."""
    client.before = lambda number: number == at and how()
    send(session, client)


def test_stop_marks_only_what_is_unfinished_and_keeps_its_text() -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    assert "nothing asked yet" in pane_html(stop(session).panes[0])
    client = ScriptedClient(done(0, "whole"), text(1, "half"), text(1, "half of"), done(1, "all"))
    leave(session, client, lambda: stop(session), at=2)
    assert client.left == 1
    assert answers_of(session) == ["whole", "half", ""]
    assert [pane.was_stopped for pane in session.panes] == [False, True, True] + [False] * 3
    shown = [pane_html(pane) for pane in session.panes]
    assert ["stopped" in html for html in shown] == [False, True, True, False, False, False]
    assert "Waiting" not in shown[2]


def test_a_reader_who_goes_leaves_the_answer() -> None:
    session, client = session_of(BASE_SOURCE), ScriptedClient(done(0, "a"), done(0, "b"))
    asking = ask(session, request(), False, client, HELD_OUT)
    next(asking)
    next(asking)
    asking.close()
    assert client.left == 1


def test_no_answer_gets_into_a_pane_that_was_changed_meanwhile(tmp_path: Path) -> None:
    """The page would show the adapter's answer under "base"."""
    session = choose(Session(), ["a", "b"], tmp_path)
    client = ScriptedClient(text(0, "by a"), text(1, "by b"), done(0, "all by a"), done(1, "by b"))
    leave(session, client, lambda: choose(session, ["base", "b"], tmp_path), at=2)
    assert names_of(session) == ["base", "b"]
    assert answers_of(session) == ["", "by b"]
    assert session.panes[1].was_stopped
    assert client.left == 1
    client = ScriptedClient(text(0, "old"), done(0, "old answer"))
    leave(session, client, lambda: new_chat(session), at=1)
    assert answers_of(session) == ["", ""], "a new chat ends the answer of the old one"
    assert session.histories == {}


# ---- blind votes


def test_blind_answers_are_shuffled_and_have_letters_for_names() -> None:
    session = session_of(BASE_SOURCE, None, ONE, TWO)
    send(session, ScriptedClient(), blind=4)
    assert [pane.letter for pane in session.shown()] == ["A", "B", "C", "", "", ""]
    order = [pane.name for pane in session.shown()[:3]]
    assert sorted(order) == ["base", "run-1", "run-2"]
    assert answers_of(session) == [f"hi by {name}" for name in order]
    assert session.shown()[3:] == [session.panes[1]] * 3  # empty ones come last
    first = {blind_session(seed).shown()[0].name for seed in range(30)}
    assert first == {"base", "run-1", "run-2"}, "every pane can come first"


def test_no_name_and_no_score_is_seen_while_it_is_blind() -> None:
    (prompt,) = HELD_OUT.prompts(SQL, 1)
    session = session_of(BASE_SOURCE, ONE)
    for now in ask(session, request(prompt), False, ScriptedClient(), HELD_OUT, 1):
        assert session.panes[0].score is None or now.is_blind
        page = "".join(pane_html(pane) for pane in now.shown()[:2])
        assert "LoRA" not in page
        assert "SQL score" not in page
    assert "SQL score" in pane_html(reveal(session).shown()[0])


def test_reveal_shows_names_in_the_same_places_and_the_next_prompt_restores_the_order() -> None:
    """The page would show an adapter's answer below the choice "Base"."""
    session = blind_session()
    before = answers_of(session)
    assert before != IN_ORDER, "the seed shuffles nothing"
    assert answers_of(reveal(session)) == before
    assert {pane.letter for pane in session.shown()} == {""}
    assert answers_of(in_order(session)) == IN_ORDER
    session = blind_session()
    send(session, ScriptedClient())
    assert not session.is_blind
    assert answers_of(session) == IN_ORDER


def test_a_vote_waits_until_every_pane_has_ended() -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    client = ScriptedClient(done(0, "a"), done(1, "b"), text(2, "c"), failed(2, "No."))
    can = [now.can_vote for now in ask(session, request(), False, client, HELD_OUT, 1)]
    assert can[-1]
    assert not any(can[:-2])


def test_without_two_answers_there_is_no_vote_and_the_names_are_shown() -> None:
    for first in (done(0, "a"), failed(0, "No.")):
        session = session_of(BASE_SOURCE, ONE)
        send(session, ScriptedClient(first, failed(1, "No.")), blind=1)
        assert not session.can_vote
        assert not session.is_blind
        assert any("No." in pane_html(pane) for pane in session.shown())
    for at, is_vote in ((3, True), (2, False)):  # stopped after two answers, and after one
        session = session_of(BASE_SOURCE, ONE, TWO)
        client = ScriptedClient(done(0, "a"), text(1, "half"), done(2, "c"), done(1, "b"))
        client.before = lambda number, at=at, now=session: number == at and stop(now)  # type: ignore[misc]
        send(session, client, blind=1)
        assert session.can_vote == session.is_blind == is_vote


# ---- scores


@pytest.fixture(scope="module")
def example() -> tuple[str, str]:
    """A test prompt and its reference."""
    (prompt,) = HELD_OUT.prompts(SQL, 1)
    found = HELD_OUT.find(prompt, [SQL])
    assert found is not None
    return prompt, found.example.completion


def test_a_held_out_prompt_is_scored_in_every_pane(example: tuple[str, str]) -> None:
    prompt, reference = example
    session = session_of(BASE_SOURCE, ONE, TWO)
    send(session, ScriptedClient(done(0, "Hm."), done(1, reference), failed(2, "No.")), prompt)
    base, right, none = (pane.score for pane in session.panes[:3])
    assert base is not None
    assert (base.score, base.verdict) == (0.0, "no SQL")
    assert right is not None
    assert (right.score, right.metric) == (1.0, "SQL score")
    assert none is None
    assert "runs, equal" in pane_html(session.panes[1])


@pytest.mark.parametrize(
    "settings",
    [{"prompt": "What is the capital of France?"}, {"mode": "completion"}, {"system": "Be brief."}],
    ids=["own prompt", "completion", "system"],
)
def test_a_prompt_that_differs_from_training_has_no_score(
    example: tuple[str, str], settings: dict[str, Any]
) -> None:
    session = session_of(ONE)
    send(session, ScriptedClient(), **({"prompt": example[0]} | settings))
    assert session.panes[0].score is None


def test_within_a_chat_only_the_first_turn_is_scored(example: tuple[str, str]) -> None:
    session = session_of(ONE)
    for is_scored in (True, False):
        send(session, ScriptedClient(), example[0], chat=True)
        assert (session.panes[0].score is not None) == is_scored


# ---- differences


def marks(session: Session) -> list[list[str]]:
    return [
        [f"{piece.kind} {piece.text}" for piece in pane.pieces]
        for pane in session.shown()
        if pane.source
    ]


def test_differences_are_marked_against_the_chosen_pane_and_off_again() -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    send(session, ScriptedClient(done(0, "SELECT a"), done(1, "SELECT b"), text(2, "SEL")))
    against_first = [[], ["same SELECT", "removed  a", "added  b"], []]
    assert marks(compare(session, 0)) == against_first
    assert marks(compare(session, 1)) == [["same SELECT", "removed  b", "added  a"], [], []]
    for none in (-1, 2, 5):  # off, a pane whose answer is unfinished, and an empty one
        assert marks(compare(session, none)) == [[], [], []]
    compare(session, 0)
    send(session, ScriptedClient())
    assert marks(session) == [[], [], []], "marks of the last answer are not on the next"
    six = session_of(BASE_SOURCE, *[lora(f"run-{n}") for n in range(5)])
    send(six, ScriptedClient())
    assert marks(compare(six, -1)) == [[]] * 6
    blind = compare(blind_session(), 0)  # the first place on the page is another pane
    assert [bool(pane.pieces) for pane in blind.shown()[:3]] == [False, True, True]


def test_comparing_leaves_an_answer_under_way_as_it_is() -> None:
    session = session_of(BASE_SOURCE, ONE)
    kept = []

    def compare_meanwhile() -> None:
        before = session.panes[1]
        compare(session, 0)
        kept.append(session.panes[1] is before)

    client = ScriptedClient(done(0, "SELECT a"), text(1, "SEL"), done(1, "SELECT b"))
    leave(session, client, compare_meanwhile, at=2)
    assert kept == [True]
    assert answers_of(session) == ["SELECT a", "SELECT b"]
