"""Gives one parser many inputs that hypothesis makes up, steadily the same ones."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from ftlab.basics.errors import FtlabError

SECONDS = 20.0
"""No single input may take longer."""

MOST_CHARACTERS = 5_000
"""Of the sentence for a person."""

Fuzz = Callable[..., None]


@pytest.fixture
def fuzz(record_property: Callable[[str, object], None]) -> Fuzz:
    """`fuzz(strategy, target)`: the target ends, or raises `FtlabError` with a sentence.

    Whatever else it raises fails the test, and so does a hang.
    """

    def run(strategy: SearchStrategy[Any], target: Callable[[Any], object], most: int = 20) -> None:
        tried = 0

        @settings(
            max_examples=most,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def each(value: Any) -> None:
            nonlocal tried
            tried += 1
            with _watchdog():
                sentence = _refusal(target, value)
                assert len(sentence) <= MOST_CHARACTERS

        each()
        record_property("hostile inputs", tried)

    return run


def _refusal(target: Callable[[Any], object], value: Any) -> str:
    """The sentence with which the value was refused; "" where it was taken."""
    try:
        target(value)
    except FtlabError as error:
        return str(error)
    return ""


@contextmanager
def _watchdog() -> Iterator[None]:
    def bark(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"one input took more than {SECONDS:g} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
