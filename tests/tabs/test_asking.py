"""A page is asked for as long as somebody looks at it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.visitor_turns import Visitor
from ftlab.methods.variant import Variant
from ftlab.prediction.client import NobodyWaits
from ftlab.prediction.fit import Ask
from ftlab.prediction.question import Question, Step
from ftlab.tabs import context
from ftlab.tabs.context import while_there
from tests.prediction.fakes import SizedPredictor, failing

QUESTION = Question({}, Variant("lora"), Step(8))
ANN = Visitor("192.0.2.1", "a")


class SlowPredictor(SizedPredictor):
    """Answers nothing until whoever asks has left."""

    def __init__(self) -> None:
        super().__init__(lambda question: 1)
        self.was_left = threading.Event()

    def ask(self, questions, visitor=ANN, has_left=lambda: False):  # type: ignore[no-untyped-def]
        while not has_left():
            threading.Event().wait(0.01)
        self.was_left.set()
        raise NobodyWaits


@pytest.fixture(autouse=True)
def quick_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "SECONDS_BETWEEN_SIGNS", 0.05)


def peaks(ask: Ask) -> Iterator[int]:
    yield 0
    for _, answer in ask([QUESTION, QUESTION]):
        yield answer.peak_allocated_bytes or -1


def test_what_is_made_comes_in_its_order() -> None:
    made = while_there(SizedPredictor(lambda question: 1), ANN, peaks)
    assert [item for item in made if item is not None] == [0, 10**9, 10**9]


def test_a_silent_wait_gives_signs_and_is_ended_by_closing_it() -> None:
    predictor = SlowPredictor()
    made = while_there(predictor, ANN, peaks)
    assert [next(made) for _ in range(3)] == [0, None, None]
    made.close()  # type: ignore[attr-defined]
    assert predictor.was_left.wait(5)


def test_what_is_wanted_no_longer_is_ended_and_not_shown() -> None:
    predictor, is_old = SlowPredictor(), threading.Event()
    made = while_there(predictor, ANN, peaks, lambda: not is_old.is_set())
    assert next(made) == 0
    is_old.set()
    assert list(made) == []
    assert predictor.was_left.wait(5)


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    with pytest.raises(FtlabError, match="ended"):
        list(while_there(SizedPredictor(failing), ANN, peaks))
