"""The process that predicts: it stays for the next question, and its end is said."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import KEEPS_OFF_SECONDS, TimedSteps
from ftlab.basics.visitor_turns import Visitor
from ftlab.methods.variant import parse_variant
from ftlab.models.dimensions import catalogue
from ftlab.prediction import client
from ftlab.prediction.client import NobodyWaits, Predictor
from ftlab.prediction.question import (
    Limits,
    Prediction,
    Question,
    Step,
    ask_about,
    of_a_demo,
    usual,
)
from tests.waiting import wait_until

ANSWERING = """
import os, signal, sys, time
from ftlab.prediction.question import Prediction
from ftlab.prediction.worker import serve

def answer(question):
    length = question.step.length
    if length == 12:
        os.kill(os.getppid(), signal.SIGKILL)
    if length == 13:
        os._exit(1)
    if length == 14:
        time.sleep(60)
    while length == 15:
        pass
    kept = []
    while length == 16:
        kept.append(bytearray(1_000_000))
    if length == 17:
        raise SystemExit(0)
    return Prediction("lora", f"{os.getppid()} {os.getpid()}", total_params=length)

serve(answer, 0, 1, float(sys.argv[1]))
"""


def parent(answer: Prediction) -> int:
    return int(answer.label.split()[0])


def questions(*lengths: int) -> list[Question]:
    return [ask_about({}, [parse_variant("lora")], Step(length))[0] for length in lengths]


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Predictor]:
    (tmp_path / "answering.py").write_text(ANSWERING)
    monkeypatch.setattr(client, "MODULE", "answering")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Predictor(limits_of=lambda config: Limits(0.3, 50_000_000)) as made:
        yield made


def test_a_stranger_s_model_gets_less_time_in_a_demo_than_one_of_the_catalogue() -> None:
    known = dict(catalogue()[0].config)
    assert of_a_demo(known) == usual(known)
    assert of_a_demo(known | {"num_hidden_layers": 511}).cpu_seconds == 8
    assert of_a_demo({}).cpu_seconds < usual({}).cpu_seconds


def children(predictor: Predictor) -> list[psutil.Process]:
    assert predictor.process_id is not None
    return psutil.Process(predictor.process_id).children(recursive=True)


def test_answers_come_one_by_one_from_one_worker_and_a_process_of_their_own(
    predictor: Predictor,
) -> None:
    answers = list(predictor.ask(questions(10, 11)))
    assert [(place, answer.total_params) for place, answer in answers] == [(0, 10), (1, 11)]
    (again,) = [answer for _, answer in predictor.ask(questions(20))]
    assert {parent(answer) for _, answer in answers} == {parent(again)} == {predictor.process_id}
    assert len({answer.label for _, answer in answers}) == 2
    wait_until(lambda: not children(predictor))


def test_an_answer_is_remembered_and_comes_first(predictor: Predictor) -> None:
    (first,) = [answer for _, answer in predictor.ask(questions(11))]
    predictor.close()
    places = [place for place, _ in predictor.ask(questions(10, 11))]
    assert places == [1, 0]
    assert predictor.known(questions(11)[0]) is first
    assert predictor.known(questions(99)[0]) is None


@pytest.mark.parametrize("length", [12, 13, 17])
def test_a_process_that_ends_is_said_and_the_next_question_is_answered(
    predictor: Predictor, length: int
) -> None:
    with pytest.raises(FtlabError, match="ended without an answer"):
        list(predictor.ask(questions(length)))
    assert [answer.total_params for _, answer in predictor.ask(questions(10))] == [10]


@pytest.mark.hostile("model configs")
@pytest.mark.parametrize(
    ("length", "said"),
    [
        (15, r"took more than 0\.3 s of computing time and was ended"),
        (16, r"took more than 50\.0 MB of memory and was ended"),
    ],
)
def test_a_question_that_takes_too_much_is_ended_in_a_sentence_and_a_note(
    predictor: Predictor, length: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = list(predictor.ask(questions(10)))
    with pytest.raises(FtlabError, match=said):
        list(predictor.ask(questions(length, 99)))
    assert [record.getMessage() for record in caplog.records] == ["prediction ended"]
    ((_, after),) = predictor.ask(questions(11))
    assert parent(after) == parent(before[0][1])


@pytest.mark.hostile("model configs")
def test_a_question_is_ended_once_nobody_waits_for_it(predictor: Predictor) -> None:
    list(predictor.ask(questions(10)))
    began = time.monotonic()
    with pytest.raises(NobodyWaits):
        list(predictor.ask(questions(14), has_left=lambda: time.monotonic() > began + 0.2))
    assert time.monotonic() - began < 3
    wait_until(lambda: not children(predictor))


@pytest.mark.hostile("model configs")
def test_another_visitor_is_answered_while_one_asks_for_too_much(predictor: Predictor) -> None:
    list(predictor.ask(questions(10)))
    has_left = threading.Event()

    def ask() -> None:
        list(predictor.ask(questions(14), Visitor("a", "1"), has_left.is_set))

    with ThreadPoolExecutor() as threads:
        asking = threads.submit(ask)
        wait_until(lambda: len(children(predictor)) == 1)
        ((_, answer),) = predictor.ask(questions(11), Visitor("b", "2"))
        assert answer.total_params == 11
        assert not asking.done()
        has_left.set()
        assert isinstance(asking.exception(10), NobodyWaits)


def test_with_the_worker_its_children_end(predictor: Predictor) -> None:
    with ThreadPoolExecutor() as threads:
        asking = threads.submit(lambda: list(predictor.ask(questions(14))))
        wait_until(lambda: predictor.process_id is not None and bool(children(predictor)))
        (child,) = children(predictor)
        predictor.close()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
        assert isinstance(asking.exception(10), FtlabError)


def test_a_prediction_rests_while_steps_are_timed_but_for_a_minute_at_most(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    steps = TimedSteps("cpu")
    with ThreadPoolExecutor() as threads, steps.timed():
        asking = threads.submit(lambda: list(predictor.ask(questions(14))))
        wait_until(lambda: predictor.process_id is not None and bool(children(predictor)))
        (child,) = children(predictor)
        wait_until(lambda: child.status() == psutil.STATUS_STOPPED)
        (file,) = (tmp_path / "locks").iterdir()
        os.utime(file, (0, time.time() - KEEPS_OFF_SECONDS))
        wait_until(lambda: child.status() != psutil.STATUS_STOPPED)
        predictor.close()
        assert isinstance(asking.exception(10), FtlabError)


def test_an_answer_is_not_waited_for_without_end(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(predictor.ask(questions(10)))
    monkeypatch.setattr(client, "SECONDS", 0.2)
    with pytest.raises(FtlabError, match=r"took more than 0\.2 s"):
        list(predictor.ask(questions(14)))


def test_without_questions_the_process_goes_and_the_next_question_is_answered(
    predictor: Predictor,
) -> None:
    with Predictor(idle_seconds=0.05) as impatient:
        ((_, answer),) = impatient.ask(questions(10))
        wait_until(lambda: impatient.process_id is None)
        ((_, other),) = impatient.ask(questions(11))
    assert parent(answer) != parent(other)


def test_visitors_take_turns_and_share_what_was_asked(predictor: Predictor) -> None:
    def ask(_: int) -> list[str]:
        return [answer.label for _, answer in predictor.ask(questions(20, 21))]

    with ThreadPoolExecutor() as threads:
        first, *others = threads.map(ask, range(3))
    assert len(set(first)) == 2
    assert [sorted(labels) for labels in others] == [sorted(first)] * 2


def test_a_process_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with Predictor() as predictor, pytest.raises(FtlabError, match="cannot be started"):
        list(predictor.ask(questions(10)))
