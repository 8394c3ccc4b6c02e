"""What a visitor's playground holds between two clicks, and how a prompt changes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import PaneSource
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
    SQL,
    ScriptedClient,
    answers_of,
    done,
    failed,
    lora,
    names_of,
    session_of,
    status,
    text,
)

HELD_OUT = HeldOut()
ONE, TWO = lora("run-1", "LoRA r=4"), lora("run-2", "LoRA r=8")


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


# ---- who answers


def test_a_person_vouches_for_the_base_of_an_adapter_in_its_pane(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "small", 576)
    runs = tmp_path / "runs"
    adapter = upload_adapter(adapter_folder(tmp_path / "mine"), runs, base=str(base))
    session = judge_bases(choose(Session(), ["base", adapter.name], runs), str(base))
    assert "its 2 tensors fit small" in session.shown()[1].doubt
    assert "vouched for by you" not in pane_html(session.shown()[1])
    vouch(session, 1, str(base), runs)
    shown = session.shown()[1]
    assert (shown.doubt, shown.is_vouched) == ("", True)
    assert "base vouched for by you" in pane_html(shown)
    judge_bases(session, "bundled")
    assert session.shown()[1].is_vouched is False, "there its name says it"


def test_nobody_vouches_for_a_pane_that_is_no_adapter_from_elsewhere(tmp_path: Path) -> None:
    session = choose(Session(), ["base", None], tmp_path)
    for place in (0, 1):
        with pytest.raises(FtlabError, match="names no uploaded adapter"):
            vouch(session, place, "bundled", tmp_path)


def test_panes_are_chosen_by_name_and_the_rest_are_empty(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", hyperparameters={"r": 4})
    session = choose(Session(), ["base", None, run.run_id, ""], tmp_path)
    labels = [pane.source.label if pane.source else None for pane in session.panes]
    assert labels == ["Base", None, "LoRA r=4", None, None, None]


def test_a_run_that_is_gone_keeps_its_name_and_is_told_so_when_it_is_asked(
    tmp_path: Path,
) -> None:
    session = choose(Session(), ["base", "gone"], tmp_path)
    client = PlaygroundClient(tmp_path, FAKE)
    send(session, client, "hello")
    client.close()
    base, gone = (pane.update for pane in session.panes[:2])
    assert base is not None
    assert base.text.startswith("hello by")
    assert gone is not None
    assert gone.text.startswith("There is no run 'gone'")


def test_a_pane_that_stays_keeps_its_answer_and_a_new_one_has_none(tmp_path: Path) -> None:
    session = choose(Session(), ["base", "gone"], tmp_path)
    send(session, ScriptedClient(), "hi")
    choose(session, ["base", "other"], tmp_path)
    assert names_of(session) == ["base", "other"]
    assert answers_of(session) == ["hi by base", ""]


def test_the_same_choice_once_more_changes_nothing(tmp_path: Path) -> None:
    session = choose(Session(), ["base", "gone"], tmp_path)
    send(session, ScriptedClient(), "hi", blind=1)
    before = session.panes
    choose(session, ["base", "gone", None, ""], tmp_path)
    assert session.panes is before
    assert session.is_blind


def test_other_panes_are_shown_by_name_and_in_their_order(tmp_path: Path) -> None:
    session = choose(Session(), ["base", "a", "b"], tmp_path)
    send(session, ScriptedClient(), "hi", blind=3)
    choose(session, ["base", "a", "c"], tmp_path)
    assert not session.is_blind
    assert [pane.name for pane in session.shown()[:3]] == ["base", "a", "c"]


# ---- answers


def test_each_answer_comes_in_the_pane_of_its_own_source() -> None:
    session = session_of(BASE_SOURCE, None, ONE)
    client = ScriptedClient()
    send(session, client)
    assert client.requests[0].panes == ("base", "run-1")
    assert answers_of(session) == ["hi by base", "hi by run-1"]
    assert [pane.answer for pane in session.panes[:3]] == ["hi by base", "", "hi by run-1"]


def test_the_last_text_of_each_pane_is_always_shown() -> None:
    session = session_of(BASE_SOURCE, ONE)
    words = [text(pane, "word " * n) for n in range(1, 30) for pane in (0, 1)]
    screens = send(session, ScriptedClient(*words, done(0, "end one"), done(1, "end two")))
    assert screens[0] == ["", ""]
    assert screens[-1] == ["end one", "end two"]


def test_text_that_comes_fast_is_shown_together() -> None:
    """A page that is kept busy does not hear its Stop."""
    words = [text(0, "w" * n) for n in range(1, 200)]
    assert len(send(session_of(BASE_SOURCE), ScriptedClient(*words, done(0, "end")))) < 10


def test_text_that_comes_slowly_is_shown_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground_session, "SECONDS_BETWEEN_SCREENS", 0.0)
    words = [text(0, "w" * n) for n in range(1, 20)]
    screens = send(session_of(BASE_SOURCE), ScriptedClient(*words, done(0, "end")))
    assert [["w" * n] for n in range(1, 20)] == screens[1:20]


def test_a_status_never_takes_text_away() -> None:
    session = session_of(ONE)
    screens = send(
        session,
        ScriptedClient(
            status(0, "Loading …"), text(0, "half"), status(0, "Training first."), done(0, "whole")
        ),
    )
    assert ["half"] in screens
    assert screens.index(["half"]) <= len(screens) - 3
    assert screens[-1] == ["whole"]


def test_an_error_of_one_pane_keeps_what_it_had_and_leaves_the_others_alone() -> None:
    session = session_of(BASE_SOURCE, ONE)
    send(
        session,
        ScriptedClient(
            text(1, "half an"), failed(1, "Out of memory.", partial="half an"), done(0, "whole")
        ),
    )
    assert answers_of(session) == ["whole", "half an"]
    assert "Out of memory." in pane_html(session.panes[1])


def test_a_worker_that_dies_takes_no_text_with_it() -> None:
    session = session_of(BASE_SOURCE, ONE)
    ended = "The playground's worker ended before it had answered."
    send(session, ScriptedClient(text(0, "half"), failed(0, ended), failed(1, ended)))
    assert answers_of(session) == ["half", ""]
    assert "ended before it had answered" in pane_html(session.panes[0])


def test_a_wrong_form_is_said_and_the_answers_before_it_stay() -> None:
    session = session_of(BASE_SOURCE)
    client = ScriptedClient()
    send(session, client)
    send(session, client, " ", temperature=9)
    assert [error.field for error in session.errors] == ["prompt", "temperature"]
    assert answers_of(session) == ["hi by base"]
    send(session, client, "again")
    assert session.errors == ()


def test_without_a_pane_there_is_a_sentence_and_nothing_is_asked() -> None:
    session, client = session_of(), ScriptedClient()
    send(session, client)
    assert session.errors[0].field == "panes"
    assert client.requests == []


# ---- chats


def test_a_chat_keeps_each_panes_own_turns_and_sends_them() -> None:
    session, client = session_of(BASE_SOURCE, ONE), ScriptedClient()
    send(session, client, "first", chat=True)
    send(session, client, "second", chat=True)
    assert client.requests[0].histories == ()
    assert client.requests[1].histories == (
        said("first", "first by base"),
        said("first", "first by run-1"),
    )
    send(session, client, "third", chat=True)
    assert client.requests[2].history(1) == said(
        "first", "first by run-1", "second", "second by run-1"
    )
    assert session.panes[1].history == client.requests[2].history(1)


def test_a_chat_shows_the_question_that_is_being_answered_from_the_press_on() -> None:
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


def test_a_nameless_pane_shows_the_question_and_not_what_was_said_before() -> None:
    pane = Pane(ONE, letter="A", question="now?", history=said("before?", "by run-1"))
    assert "now?" in pane_html(pane)
    assert "by run-1" not in pane_html(pane)


def test_a_pane_that_is_changed_begins_its_chat_anew(tmp_path: Path) -> None:
    session, client = choose(Session(), ["base", "a"], tmp_path), ScriptedClient()
    send(session, client, "first", chat=True)
    choose(session, ["base", "b"], tmp_path)
    send(session, client, "second", chat=True)
    assert client.requests[1].histories == (said("first", "first by base"), ())
    choose(session, ["base", "a"], tmp_path)
    send(session, client, "third", chat=True)
    assert client.requests[2].history(1) == ()


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_a_single_prompt_and_a_completion_send_no_history(mode: Any) -> None:
    session, client = session_of(BASE_SOURCE), ScriptedClient()
    send(session, client, "first", chat=True)
    send(session, client, "second", mode=mode)
    assert client.requests[1].histories == ()
    assert session.panes[0].history == ()
    send(session, client, "third", chat=True)
    assert client.requests[2].history(0) == said("first", "first by base")


def test_an_answer_that_failed_or_was_stopped_is_no_turn_of_the_chat() -> None:
    session = session_of(BASE_SOURCE, ONE)
    client = ScriptedClient(text(0, "half"), failed(1, "No."), done(0, "whole"))
    asking = ask(session, request("first"), True, client, HELD_OUT)
    for now in asking:
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


def leave(
    session: Session, client: ScriptedClient, how: Callable[[], object], at: int
) -> list[list[str]]:
    """Asks, and does something as the update of that number is about to come."""
    client.before = lambda number: number == at and how()
    return send(session, client)


def test_stop_marks_only_what_is_unfinished_and_keeps_its_text() -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    client = ScriptedClient(done(0, "whole"), text(1, "half"), text(1, "half of"), done(1, "all"))
    leave(session, client, lambda: stop(session), at=2)
    assert answers_of(session) == ["whole", "half", ""]
    assert [pane.was_stopped for pane in session.panes] == [False, True, True] + [False] * 3
    shown = [pane_html(pane) for pane in session.panes]
    assert ["stopped" in html for html in shown] == [False, True, True, False, False, False]
    assert "Waiting" not in shown[2]


def test_a_stopped_answer_is_asked_no_further() -> None:
    session = session_of(BASE_SOURCE)
    words = [text(0, "w" * n) for n in range(1, 50)]
    client = ScriptedClient(*words, done(0, "end"))
    leave(session, client, lambda: stop(session), at=3)
    assert client.left == 1
    assert answers_of(session) == ["www"]


def test_stop_without_an_answer_changes_nothing() -> None:
    session = session_of(BASE_SOURCE)
    assert "nothing asked yet" in pane_html(stop(session).panes[0])


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


def test_a_new_chat_ends_the_answer_of_the_old_one() -> None:
    session = session_of(BASE_SOURCE)
    client = ScriptedClient(text(0, "old"), done(0, "old answer"))
    leave(session, client, lambda: new_chat(session), at=1)
    assert answers_of(session) == [""]
    assert session.histories == {}


# ---- blind votes


def blind_letters(session: Session) -> list[str]:
    return [pane.letter for pane in session.shown() if pane.source]


def test_blind_answers_are_shuffled_and_have_letters_for_names() -> None:
    session = session_of(BASE_SOURCE, None, ONE, TWO)
    send(session, ScriptedClient(), blind=4)
    assert blind_letters(session) == ["A", "B", "C"]
    order = [pane.name for pane in session.shown()[:3]]
    assert sorted(order) == ["base", "run-1", "run-2"]
    assert answers_of(session) == [f"hi by {name}" for name in order]
    assert session.shown()[3:] == [session.panes[1]] * 3  # empty ones come last


def test_every_pane_can_come_first() -> None:
    first = set()
    for seed in range(30):
        session = session_of(BASE_SOURCE, ONE, TWO)
        send(session, ScriptedClient(), blind=seed)
        first.add(session.shown()[0].name)
    assert first == {"base", "run-1", "run-2"}


def test_no_name_and_no_score_is_seen_while_it_is_blind() -> None:
    (prompt,) = HELD_OUT.prompts(SQL, 1)
    session = session_of(BASE_SOURCE, ONE)
    for now in ask(session, request(prompt), False, ScriptedClient(), HELD_OUT, 1):
        assert session.panes[0].score is None or now.is_blind
        page = "".join(pane_html(pane) for pane in now.shown()[:2])
        assert "LoRA" not in page
        assert "SQL score" not in page
    assert "SQL score" in pane_html(reveal(session).shown()[0])


def test_reveal_shows_who_is_who_in_the_same_places() -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    send(session, ScriptedClient(), blind=4)
    before = answers_of(session)
    reveal(session)
    assert answers_of(session) == before
    assert blind_letters(session) == ["", "", ""]
    assert before != ["hi by base", "hi by run-1", "hi by run-2"], "the seed shuffles nothing"


def test_without_blindness_each_pane_is_under_its_own_choice_again() -> None:
    """The page would show an adapter's answer below the choice "Base"."""
    session = session_of(BASE_SOURCE, ONE, TWO)
    send(session, ScriptedClient(), blind=4)
    in_order(session)
    assert not session.is_blind
    assert answers_of(session) == ["hi by base", "hi by run-1", "hi by run-2"]


def test_the_next_prompt_that_is_not_blind_has_the_panes_in_their_own_order() -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    send(session, ScriptedClient(), blind=4)
    send(session, ScriptedClient())
    assert answers_of(session) == ["hi by base", "hi by run-1", "hi by run-2"]


def test_a_vote_waits_until_every_pane_has_ended() -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    client = ScriptedClient(done(0, "a"), done(1, "b"), text(2, "c"), failed(2, "No."))
    can = [now.can_vote for now in ask(session, request(), False, client, HELD_OUT, 1)]
    assert can[-1]
    assert not any(can[:-2])


@pytest.mark.parametrize(
    "updates", [(done(0, "a"), failed(1, "No.")), (failed(0, "No."), failed(1, "No."))]
)
def test_without_two_answers_there_is_no_vote_and_no_reason_for_secrets(
    updates: Sequence[Any],
) -> None:
    session = session_of(BASE_SOURCE, ONE)
    send(session, ScriptedClient(*updates), blind=1)
    assert not session.can_vote
    assert not session.is_blind
    assert any("No." in pane_html(pane) for pane in session.shown())


def test_blind_answers_that_are_stopped_are_voted_on_if_two_are_there() -> None:
    three = BASE_SOURCE, ONE, TWO
    updates = done(0, "a"), text(1, "half"), done(2, "c"), done(1, "b")
    voted, revealed = session_of(*three), session_of(*three)
    stopped = ScriptedClient(*updates)
    stopped.before = lambda number: number == 3 and stop(voted)
    send(voted, stopped, blind=1)
    assert voted.can_vote
    stopped.before = lambda number: number == 2 and stop(revealed)
    send(revealed, stopped, blind=1)
    assert not revealed.is_blind


# ---- scores


@pytest.fixture(scope="module")
def example() -> tuple[str, str]:
    """A held-out prompt and its reference."""
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


def test_a_prompt_of_ones_own_has_no_score() -> None:
    session = session_of(ONE)
    send(session, ScriptedClient(), "What is the capital of France?")
    assert session.panes[0].score is None


@pytest.mark.parametrize(
    "settings", [{"mode": "completion"}, {"system": "Be brief."}], ids=["completion", "system"]
)
def test_a_prompt_asked_otherwise_than_in_training_has_no_score(
    example: tuple[str, str], settings: dict[str, Any]
) -> None:
    session = session_of(ONE)
    send(session, ScriptedClient(), example[0], **settings)
    assert session.panes[0].score is None


def test_within_a_chat_only_the_first_turn_is_scored(example: tuple[str, str]) -> None:
    session = session_of(ONE)
    send(session, ScriptedClient(), example[0], chat=True)
    assert session.panes[0].score is not None
    send(session, ScriptedClient(), example[0], chat=True)
    assert session.panes[0].score is None


# ---- differences


@pytest.fixture
def answered() -> Session:
    session = session_of(BASE_SOURCE, ONE, TWO)
    send(session, ScriptedClient(done(0, "SELECT a"), done(1, "SELECT b"), text(2, "SEL")))
    return session


def marks(session: Session) -> list[list[str]]:
    return [
        [f"{piece.kind} {piece.text}" for piece in pane.pieces]
        for pane in session.shown()
        if pane.source
    ]


def test_differences_are_marked_against_the_chosen_pane_and_off_again(answered: Session) -> None:
    compare(answered, 0)
    assert marks(answered) == [[], ["same SELECT", "removed  a", "added  b"], []]
    compare(answered, 1)
    assert marks(answered) == [["same SELECT", "removed  b", "added  a"], [], []]
    compare(answered, -1)
    assert marks(answered) == [[], [], []]


def test_differences_are_off_with_six_panes_as_well() -> None:
    session = session_of(BASE_SOURCE, *[lora(f"run-{n}") for n in range(5)])
    send(session, ScriptedClient())
    compare(session, -1)
    assert marks(session) == [[]] * 6


def test_a_pane_that_has_no_answer_marks_nothing(answered: Session) -> None:
    for pane in (2, 5):
        compare(answered, pane)
        assert marks(answered) == [[], [], []]


def test_the_pane_to_compare_with_is_that_at_the_place_on_the_page() -> None:
    session = session_of(BASE_SOURCE, ONE, TWO)
    send(session, ScriptedClient(), blind=4)
    compare(session, 0)
    assert [bool(pane.pieces) for pane in session.shown()[:3]] == [False, True, True]


def test_marks_of_the_last_answer_are_not_laid_over_the_next(answered: Session) -> None:
    compare(answered, 0)
    send(answered, ScriptedClient())
    assert marks(answered) == [[], [], []]


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


# ---- with a real process


def test_answers_of_a_real_process_stay_with_their_names(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora")
    session = choose(Session(), ["", run.run_id, "base", "base"], tmp_path)
    client = PlaygroundClient(tmp_path, FAKE)
    send(session, client, "hello")
    client.close()
    assert all(answer.startswith("hello by") for answer in answers_of(session))
    sources: list[PaneSource | None] = [pane.source for pane in session.panes[:4]]
    assert [source and source.label for source in sources] == [None, "LoRA", "Base", "Base"]
