"""The process that predicts: it stays for the next question, and its end is said."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ftlab.errors import FtlabError
from ftlab.methods.variant import parse_variant
from ftlab.prediction import client
from ftlab.prediction.client import Predictor
from ftlab.prediction.question import Question, Step
from ftlab.prediction.questions import ask_about

ANSWERING = """
import json, os, sys, time
for line in sys.stdin:
    question = json.loads(line)
    length = question["step"]["length"]
    if length == 13:
        sys.exit(1)
    if length == 14:
        time.sleep(60)
    print(json.dumps({"method": "lora", "label": str(os.getpid()), "total_params": length}),
          flush=True)
"""


def questions(*lengths: int) -> list[Question]:
    return [ask_about({}, [parse_variant("lora")], Step(length))[0] for length in lengths]


@pytest.fixture
def predictor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Predictor]:
    (tmp_path / "answering.py").write_text(ANSWERING)
    monkeypatch.setattr(client, "MODULE", "answering")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Predictor() as made:
        yield made


def test_answers_come_one_by_one_from_one_process(predictor: Predictor) -> None:
    answers = list(predictor.ask(questions(10, 11)))
    assert [(place, answer.total_params) for place, answer in answers] == [(0, 10), (1, 11)]
    (again,) = [answer for _, answer in predictor.ask(questions(12))]
    assert len({answer.label for _, answer in answers} | {again.label}) == 1


def test_an_answer_is_remembered_and_comes_first(predictor: Predictor) -> None:
    (first,) = [answer for _, answer in predictor.ask(questions(11))]
    predictor.close()
    places = [place for place, _ in predictor.ask(questions(10, 11))]
    assert places == [1, 0]
    assert predictor.known(questions(11)[0]) is first
    assert predictor.known(questions(99)[0]) is None


def test_a_process_that_ends_is_said_and_the_next_question_starts_another(
    predictor: Predictor,
) -> None:
    with pytest.raises(FtlabError, match="ended without an answer"):
        list(predictor.ask(questions(13)))
    assert [answer.total_params for _, answer in predictor.ask(questions(10))] == [10]


def test_an_answer_is_not_waited_for_without_end(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(predictor.ask(questions(10)))
    monkeypatch.setattr(client, "SECONDS", 0.2)
    with pytest.raises(FtlabError, match=r"took more than 0\.2 s"):
        list(predictor.ask(questions(14)))


def test_without_questions_the_process_goes(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "_idle_seconds", 0.05)
    (answer,) = [answer for _, answer in predictor.ask(questions(10))]
    until = time.monotonic() + 10
    while psutil.pid_exists(int(answer.label)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not psutil.pid_exists(int(answer.label))


def test_visitors_take_turns_and_share_what_was_asked(predictor: Predictor) -> None:
    found: list[str] = []
    asking = [
        threading.Thread(
            target=lambda: found.extend(a.label for _, a in predictor.ask(questions(20, 21)))
        )
        for _ in range(3)
    ]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(20)
    assert len(found) == 6
    assert len(set(found)) == 1


def test_a_process_that_cannot_start_is_said(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FtlabError, match="cannot be started"):
        list(predictor.ask(questions(10)))
