"""What one visitor may ask for, and how long somebody who asked for more has to wait."""

from __future__ import annotations

import asyncio

import pytest

from ftlab.tabs.gate import Attempts, OneAtATime, OpenRequests, Rate, visitor_at, when
from tests.asynchronous import run


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [0.0]
    monkeypatch.setattr("ftlab.tabs.gate.time.monotonic", lambda: seconds[0])
    return seconds


def test_failures_are_counted_by_visitor_and_forgotten_in_time(now: list[float]) -> None:
    attempts = Attempts(most=2, most_in_all=4, seconds=60)
    for visitor in ("a", "a", "b"):
        attempts.begin(visitor)
    assert [attempts.wait(visitor) for visitor in "abc"] == [60.0, 0.0, 0.0]
    now[0] = 61.0
    assert attempts.wait("a") == 0.0


def test_many_failures_in_all_lock_out_only_visitors_with_failures(now: list[float]) -> None:
    attempts = Attempts(most=10, most_in_all=4, seconds=60)
    for _ in range(5):  # a right password is not counted
        attempts.begin("e")
        attempts.forgive("e")
    for visitor in "abcd":
        attempts.begin(visitor)
    assert attempts.wait("a") == 60.0
    assert attempts.wait("e") == 0.0


def test_a_visitor_has_some_requests_at_once_and_then_so_many_a_second(now: list[float]) -> None:
    rate = Rate(per_second=2.0, burst=3.0)
    assert [rate.wait("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rate.wait("b") == 0.0, "others have their own"
    now[0] = 0.5
    assert rate.wait("a") == 0.0
    assert rate.wait("a") == 0.5


def test_a_request_waits_for_its_cost_and_a_refused_one_costs_nothing(now: list[float]) -> None:
    rate = Rate(per_second=2.0, burst=10.0)
    assert [rate.wait("a", cost=10.0) for _ in range(3)] == [0.0, 5.0, 5.0]


def test_open_requests_are_counted_while_they_are_answered() -> None:
    requests = OpenRequests(most=2)
    with requests.one_more("a"), requests.one_more("a"):
        assert requests.are_too_many("a")
        assert not requests.are_too_many("b")
    assert not requests.are_too_many("a")


def test_what_takes_long_is_done_one_at_a_time_for_each_visitor() -> None:
    order: list[str] = []

    async def answer(turns: OneAtATime, visitor: str, name: str) -> None:
        async with turns.turn(visitor):
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    async def all_at_once() -> None:
        turns = OneAtATime()
        await asyncio.gather(
            answer(turns, "a", "first"), answer(turns, "a", "second"), answer(turns, "b", "other")
        )

    run(all_at_once())
    assert order.index("first ends") < order.index("second begins")
    assert order.index("other begins") < order.index("first ends")


@pytest.mark.parametrize(
    ("address", "visitor"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_a_network_that_one_machine_owns_is_one_visitor(address: str, visitor: str) -> None:
    assert visitor_at(address) == visitor


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.05, "in 1 second"), (1.2, "in 2 seconds"), (60.0, "in 1 minute"), (299.0, "in 5 minutes")],
)
def test_when_to_try_again_is_said_in_words(seconds: float, said: str) -> None:
    assert when(seconds) == said
