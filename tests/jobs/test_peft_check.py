"""Sweeps with a PeftConfig by hand: PEFT is asked first, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.jobs import peft_check
from ftlab.jobs.launch import enqueue_sweep, plan_sweep
from ftlab.jobs.peft_check import check_request
from ftlab.methods.variant import Variant, read_variants
from ftlab.records.run import run_directories
from ftlab.records.spec import SweepRequest, dump_spec, load_spec
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task

Answers = Callable[[list[dict[str, Any]]], None]


def request(model: str, *variants: Variant, **settings: Any) -> SweepRequest:
    return SweepRequest(model, parse_task("sql"), variants, TrainingSettings(**settings))


def by_hand(**fields: Any) -> Variant:
    (variant,) = read_variants(json.dumps({"peft_type": "C3A"} | fields))
    return variant


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Lets the helper give these answers, without starting it."""

    def give(rows: list[dict[str, Any]]) -> None:
        usual = {"trainable": None, "error": ""}
        text = json.dumps([usual | row for row in rows])
        monkeypatch.setattr(peft_check, "_answer", lambda question, changed_at: text)

    return give


@pytest.mark.slow
def test_peft_is_asked_in_a_process_of_its_own_and_its_answer_remembered(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = by_hand(block_size=32, bias="none", base="nf4", learning_rate=0.01)
    asked = request(str(tiny_model), Variant("lora"), wanted)
    specs = enqueue_sweep(asked, tmp_path)
    assert [(spec.label, spec.base_precision) for spec in specs] == [
        ("Base bf16", None), ("Base nf4", "nf4"), ("LoRA", None),
        ("C3A block_size=32 on nf4 lr=0.01", "nf4"),
    ]  # fmt: skip
    assert specs[-1].learning_rate == 0.01
    monkeypatch.setattr(peft_check, "answer_once", None)
    again, errors = check_request(asked)
    assert errors == []
    assert again.variants == tuple(spec.variant for spec in specs[2:])


def test_what_peft_refuses_is_named_and_nothing_is_queued(
    tmp_path: Path, tiny_model: Path, answers: Answers
) -> None:
    config = '{"peft_type":"C3A"}'
    answers([{"config": config}, {"config": config, "error": "C3A has no field 'x'."}])
    asked = request(str(tiny_model), by_hand(), by_hand(x=1))
    with pytest.raises(InvalidRequest) as caught:
        enqueue_sweep(asked, tmp_path)
    (error,) = caught.value.errors
    assert (error.field, error.message) == ("peft_json", "C3A has no field 'x'.")
    assert run_directories(tmp_path) == []


def test_two_texts_of_one_configuration_are_the_same_variant(
    tiny_model: Path, answers: Answers
) -> None:
    answers([{"config": '{"peft_type":"C3A"}'}] * 2)
    _, errors = check_request(request(str(tiny_model), by_hand(), by_hand(block_size=256)))
    assert [error.message for error in errors] == ["C3A is in the sweep twice; name it once."]


def test_a_request_without_one_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peft_check, "answer_once", None)
    plain = request("bundled", Variant("lora"))
    assert check_request(plain) == (plain, [])


def test_the_number_of_steps_is_a_new_question_for_adalora_alone(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    questions = set()

    def answer(question: str, changed_at: int) -> str:
        questions.add(question)
        return json.dumps([{"config": "{}", "trainable": None, "error": ""}])

    monkeypatch.setattr(peft_check, "_answer", answer)
    for kind in ("C3A", "ADALORA"):
        for steps in (10, 20):
            check_request(request(str(tiny_model), by_hand(peft_type=kind), steps=steps))
    assert len(questions) == 3


@pytest.mark.parametrize(
    ("code", "seconds", "sentence"),
    [
        ("import time; time.sleep(60)", 1, "for 1 s and did not answer"),
        ("import os; os.kill(os.getpid(), 9)", 60, "ended early (killed, perhaps because memory"),
        ("raise ValueError('b')", 60, "ended early (ValueError: b)"),
    ],
)
def test_where_peft_gives_no_answer_that_is_said(
    code: str, seconds: int, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "checking.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(peft_check, "MODULE", "checking")
    monkeypatch.setattr(peft_check, "SECONDS", seconds)
    monkeypatch.setattr(peft_check, "SECONDS_EACH", 0)
    with pytest.raises(FtlabError) as caught:
        check_request(request("bundled", by_hand(block_size=7)))
    assert sentence in str(caught.value)


def test_where_peft_cannot_be_asked_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(FtlabError, match="cannot be asked about the PeftConfig"):
        check_request(request("bundled", by_hand(block_size=7)))


def test_a_record_names_a_base_only_where_it_has_one_of_its_own() -> None:
    variants = (Variant("lora"), Variant("lora", base="int8"), by_hand())
    specs = plan_sweep(request("bundled", *variants))[2:]
    texts = [dump_spec(spec) for spec in specs]
    assert [b'"base":' in text for text in texts] == [False, True, False]
    assert [load_spec(text) for text in texts] == specs
