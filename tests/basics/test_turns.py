"""Visitors take turns, whatever one of them asks for."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from ftlab.basics import visitor_turns as module
from ftlab.basics.errors import FtlabError
from ftlab.basics.visitor_turns import Places, Visitor, VisitorQueue

ANN, BEN, CYD = Visitor("192.0.2.1", "a"), Visitor("192.0.2.2", "b"), Visitor("192.0.2.3", "c")
SAME_NAME = Visitor(ANN.name, "another page")


def order_of(*came: Visitor) -> list[Visitor]:
    """In which order they are served, all waiting behind one of Ann's."""
    turns, served = VisitorQueue(Places()), list[Visitor]()

    def wait(visitor: Visitor) -> None:
        with turns.line(visitor) as place:
            while not place.has_come(0.05):
                pass
            served.append(visitor)

    threads = []
    with turns.line(ANN) as first:
        assert first.has_come(1)
        for visitor in came:
            threads.append(threading.Thread(target=wait, args=(visitor,)))
            threads[-1].start()
            while len(turns._waiting) < len(threads):
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert not turns._waiting
    assert not turns._held
    return served


def test_who_came_first_is_served_first() -> None:
    assert order_of(BEN, CYD, Visitor("dan")) == [BEN, CYD, Visitor("dan")]


def test_a_visitor_who_asks_much_lets_the_others_in_between() -> None:
    assert order_of(ANN, ANN, ANN, BEN, BEN, CYD) == [BEN, CYD, ANN, BEN, ANN, ANN]


def test_of_one_name_the_sessions_take_turns_too() -> None:
    assert order_of(ANN, ANN, SAME_NAME, BEN) == [BEN, SAME_NAME, ANN, ANN]


def test_one_name_never_holds_all_places() -> None:
    turns = VisitorQueue(Places(all=3, of_a_name=2))
    with ExitStack() as held:
        for session in ("1", "2"):
            assert held.enter_context(turns.line(Visitor("x", session))).has_come(1)
        third = held.enter_context(turns.line(Visitor("x", "3")))
        assert not third.has_come(0.01)
        assert held.enter_context(turns.line(BEN)).has_come(1)


def test_a_session_is_served_once_at_a_time() -> None:
    turns = VisitorQueue(Places(all=3, of_a_name=3))
    with turns.line(ANN) as first, turns.line(ANN) as second, turns.line(SAME_NAME) as other:
        assert first.has_come(1)
        assert not second.has_come(0.01)
        assert other.has_come(1)


@pytest.mark.hostile("floods of requests")
def test_too_many_requests_of_a_session_are_refused_and_others_are_not() -> None:
    turns = VisitorQueue(Places(waiting_of_a_session=2))
    with ExitStack() as waiting:
        for _ in range(2):
            waiting.enter_context(turns.line(ANN))
        with pytest.raises(FtlabError, match="Too many are waiting"), turns.line(ANN):
            raise AssertionError("a third")
        waiting.enter_context(turns.line(BEN))


@pytest.mark.parametrize(
    ("places", "refused"),
    [
        (Places(waiting=2), BEN),
        (Places(waiting_of_a_name=2), ANN),
    ],
)
def test_no_more_wait_than_there_are_places_for_all_and_for_a_name(
    places: Places, refused: Visitor
) -> None:
    turns = VisitorQueue(places)
    with ExitStack() as waiting:
        for session in ("1", "2"):
            waiting.enter_context(turns.line(Visitor(ANN.name, session)))
        with pytest.raises(FtlabError, match="Too many are waiting"), turns.line(refused):
            raise AssertionError("a third")


def test_a_place_that_is_not_polled_blocks_nobody_and_is_not_counted() -> None:
    turns = VisitorQueue(Places(waiting_of_a_session=1))
    with ExitStack() as gone:
        holder = gone.enter_context(turns.line(ANN))
        assert holder.has_come(1)
        absent = gone.enter_context(turns.line(BEN))
        assert not absent.has_come(0.01)
        with turns.line(CYD) as place:
            assert not place.has_come(0.01)
            turns._held.clear()  # Ann has her answer
            assert not place.has_come(0.01), "Ben asked a moment ago"
            absent.asked -= module._SECONDS_OF_PATIENCE
            assert place.has_come(0.01)
            turns._held.remove(place)
            turns._waiting.append(place)
        with turns.line(BEN):
            pass
        turns._held.append(holder)


def test_a_place_is_also_given_up_by_leaving_while_waiting() -> None:
    turns = VisitorQueue(Places())
    with turns.line(ANN) as first:
        assert first.has_come(1)
        with turns.line(BEN) as second:
            assert not second.has_come(0.01)
    with turns.line(CYD) as third:
        assert third.has_come(0.01)
