"""Questions: which base each variant sits on, and numbers that make no sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.methods.variant import parse_variant
from ftlab.prediction.adapters import adapter_from, read_adapter
from ftlab.prediction.question import (
    Prediction,
    Step,
    ask_about,
    dump_prediction,
    dump_question,
    load_prediction,
    load_question,
)

CONFIG = {"model_type": "llama"}


def packing_of(method: str, asked: Any) -> tuple[Any, Any]:
    (question,) = ask_about(CONFIG, [parse_variant(method)], Step(64, packing=asked))
    return question.variant.base_precision, question.step.packing


@pytest.mark.parametrize(
    ("method", "asked", "found"),
    [
        ("lora", None, (None, None)),
        ("lora", "nf4", ("nf4", "nf4")),
        ("lora", "int8", ("int8", "int8")),
        ("qlora", None, ("nf4", "nf4-double")),
        ("qlora", "nf4", ("nf4", "nf4")),
        ("lora_int8", None, ("int8", "int8")),
        ("lora_int8", "nf4", ("int8", "int8")),
    ],
)
def test_a_base_is_packed_as_the_method_says_else_as_asked(
    method: str, asked: Any, found: tuple[Any, Any]
) -> None:
    assert packing_of(method, asked) == found


def test_weights_that_learn_cannot_be_packed() -> None:
    with pytest.raises(InvalidRequest, match="cannot be held in nf4"):
        ask_about(CONFIG, [parse_variant("full")], Step(64, packing="nf4"))


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        (Step(0), ["length"]),
        (Step(64, batch=0, accumulation=0), ["batch", "accumulation"]),
        (Step(64, completion_tokens=64), ["completion_tokens"]),
        (Step(64, completion_tokens=0), ["completion_tokens"]),
    ],
)
def test_every_number_that_makes_no_sense_is_named(step: Step, fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask_about(CONFIG, [parse_variant("lora")], step)
    assert [error.field for error in caught.value.errors] == fields


def test_no_method_is_nothing_to_ask() -> None:
    with pytest.raises(InvalidRequest, match="No method is named"):
        ask_about(CONFIG, [], Step(64))


def test_questions_and_answers_survive_their_json() -> None:
    (question,) = ask_about(CONFIG, [parse_variant("lora:r=4")], Step(64, packing="nf4"))
    assert load_question(dump_question(question)) == question
    assert b"\n" not in dump_question(question)
    answer = Prediction("lora", "LoRA", 1, 2, 3, 4, 5, {"weights": 4}, "simulated", 0.1, "")
    assert load_prediction(dump_prediction(answer)) == answer


def test_an_adapter_config_of_others_is_taken_without_what_says_nothing_of_shapes() -> None:
    config = {
        "peft_type": "LORA", "r": 4, "base_model_name_or_path": "meta-llama/x", "task_type": "x",
        "inference_mode": True, "revision": "main", "auto_mapping": None,
    }  # fmt: skip
    variant = adapter_from(config)
    assert json.loads(str(variant.values()["config"])) == {"peft_type": "LORA", "r": 4}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no JSON object"),
        ('{"peft_type": "LORRA"}', "does not know"),
        ('{"peft_type": "LORA", "auto_map": "x.py"}', "code of its own"),
    ],
)
def test_what_is_no_adapter_config_is_said_with_its_file(
    text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "adapter.json").write_text(text)
    with pytest.raises(FtlabError, match=rf"adapter\.json.*{sentence}"):
        read_adapter(str(tmp_path / "adapter.json"))
    with pytest.raises(FtlabError, match="cannot be read"):
        read_adapter(str(tmp_path / "missing.json"))
