"""Whose prompt is answered next."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

from ftlab.playground import visitors
from ftlab.playground.visitors import VisitorTurns


def order_of(*came: str) -> list[str]:
    """In which order these prompts are answered, all waiting behind one of "ann"."""
    turns, answered = VisitorTurns(), []

    def wait(visitor: str) -> None:
        with turns.line(visitor) as place:
            while not place.has_come(0.05):
                pass
            answered.append(visitor)

    threads = []
    with turns.line("ann") as first:
        assert first.has_come(1)
        for number, visitor in enumerate(came, 2):
            thread = threading.Thread(target=wait, args=(visitor,))
            thread.start()
            threads.append(thread)
            while len(turns._asked) < number:
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert not turns._waiting
    assert not turns._last_turn
    return answered


def test_who_came_first_is_answered_first() -> None:
    assert order_of("bob", "cyd", "dan") == ["bob", "cyd", "dan"]


def test_a_visitor_with_many_prompts_lets_the_others_in_between() -> None:
    came = ["ann", "ann", "ann", "bob", "bob", "cyd"]
    assert order_of(*came) == ["bob", "cyd", "ann", "bob", "ann", "ann"]


def test_a_reader_who_no_longer_asks_holds_up_nobody() -> None:
    turns = VisitorTurns()
    with ExitStack() as gone:
        holder = gone.enter_context(turns.line("ann"))
        assert holder.has_come(1)
        absent = gone.enter_context(turns.line("bob"))
        assert not absent.has_come(0.01)
        with turns.line("cyd") as place:
            assert not place.has_come(0.01)
            turns._holder = None  # ann has her answer
            assert not place.has_come(0.01), "bob asked a moment ago"
            turns._asked[absent.number] -= visitors._SECONDS_OF_PATIENCE
            assert place.has_come(0.01)


def test_a_place_is_given_up_also_by_who_leaves_while_waiting() -> None:
    turns = VisitorTurns()
    with turns.line("ann") as first:
        assert first.has_come(1)
        with turns.line("bob") as second:
            assert not second.has_come(0.01)
    with turns.line("cyd") as third:
        assert third.has_come(0.01)
