"""Visitors take turns, whatever one of them asks for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from ftlab.errors import FtlabError
from ftlab.prediction.turns import NobodyWaits, Places, Turns, Visitor

ANN, BEN = Visitor("192.0.2.1", "a"), Visitor("192.0.2.2", "b")


def stays() -> bool:
    return False


def leaves(seconds: float = 0.3) -> Callable[[], bool]:
    """Of a visitor who waits so long and then leaves."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until


class Queue:
    """Visitors who wait in threads of their own for one place, and the order of their turns."""

    def __init__(self, places: Places) -> None:
        self.turns, self.order = Turns(places), list[Visitor]()
        self.left = threading.Event()
        self._threads: list[threading.Thread] = []

    def join(self, visitor: Visitor) -> None:
        self._threads.append(threading.Thread(target=self._take, args=(visitor,)))
        self._threads[-1].start()
        time.sleep(0.02)  # so that they come one after another

    def _take(self, visitor: Visitor) -> None:
        with suppress(NobodyWaits), self.turns.turn(visitor, self.left.is_set):
            self.order.append(visitor)

    def wait(self) -> list[Visitor]:
        for thread in self._threads:
            thread.join(10)
        return self.order


def test_the_next_place_is_of_whoever_had_none_longest() -> None:
    queue = Queue(Places(all=1))
    with queue.turns.turn(ANN, stays):
        for visitor in (ANN, ANN, ANN, BEN):
            queue.join(visitor)
    assert queue.wait() == [BEN, ANN, ANN, ANN]


def test_of_one_name_the_sessions_take_turns_too() -> None:
    queue = Queue(Places(all=1))
    other = Visitor(ANN.name, "another page")
    with queue.turns.turn(ANN, stays):
        for visitor in (ANN, ANN, other, BEN):
            queue.join(visitor)
    assert queue.wait() == [BEN, other, ANN, ANN]


@pytest.mark.hostile("model configs")
def test_many_sessions_of_one_name_leave_a_place_to_others() -> None:
    turns = Turns()
    with ExitStack() as held:
        for session in ("1", "2"):
            held.enter_context(turns.turn(Visitor("192.0.2.1", session), stays))
        with (
            pytest.raises(NobodyWaits),
            turns.turn(Visitor("192.0.2.1", "3"), leaves()),
        ):
            raise AssertionError("a third place of one name")
        with turns.turn(BEN, leaves()):
            pass


def test_a_session_holds_one_place() -> None:
    turns = Turns()
    with turns.turn(ANN, stays), pytest.raises(NobodyWaits), turns.turn(ANN, leaves()):
        raise AssertionError("a second place of one session")


@pytest.mark.hostile("model configs")
def test_who_joins_too_often_is_refused_and_others_are_not() -> None:
    queue = Queue(Places(all=2, of_a_name=1, waiting_of_a_session=2))
    with queue.turns.turn(ANN, stays):
        queue.join(ANN)
        queue.join(ANN)
        with (
            pytest.raises(FtlabError, match="Too many predictions"),
            queue.turns.turn(ANN, stays),
        ):
            raise AssertionError("a third")
        with queue.turns.turn(BEN, stays):
            pass
    assert queue.wait() == [ANN, ANN]


def test_who_has_left_is_not_counted_among_those_who_wait() -> None:
    queue = Queue(Places(all=1, waiting_of_a_session=1))
    with queue.turns.turn(BEN, stays):
        queue.join(ANN)
        queue.left.set()
        with pytest.raises(NobodyWaits), queue.turns.turn(ANN, leaves()):
            raise AssertionError("there is no place")
