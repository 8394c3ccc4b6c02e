"""What PEFT says of a configuration by hand: its class, and one step on the model's layers."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs import peft_check_worker
from ftlab.jobs.peft_check_worker import Answer, Circumstances, check


@pytest.fixture
def asked(tiny_model: Path) -> Any:
    def ask(
        kind: str, base: str | None = None, checkpointing: bool = False, **fields: Any
    ) -> Answer:
        where = Circumstances(str(tiny_model), "fp32", checkpointing, 30)
        return check(json.dumps({"peft_type": kind} | fields), base, where)

    return ask


def test_what_fits_is_counted_and_loses_what_is_at_its_default(asked: Any) -> None:
    found = asked("C3A", block_size=32, init_weights="xavier_uniform", target_modules=["q_proj"])
    assert found.error == ""
    assert json.loads(found.config) == {
        "peft_type": "C3A", "block_size": 32, "target_modules": ["q_proj"]
    }  # fmt: skip
    assert found.trainable == 2 * 64 * 64 // 32


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("DELORA", {"r": 4}),
        ("ROAD", {"group_size": 32}),
        ("VBLORA", {"vector_length": 32, "num_vectors": 16}),
        ("ADALORA", {"init_r": 4, "target_r": 2}),
        ("LORA", {"init_lora_weights": "pissa_niter_4", "target_modules": "all-linear"}),
        ("PROMPT_TUNING", {
            "num_virtual_tokens": 4, "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "hi"
        }),
        ("PREFIX_TUNING", {"num_virtual_tokens": 4}),
        ("TRAINABLE_TOKENS", {"token_indices": [300]}),
    ],
)  # fmt: skip
def test_kinds_of_every_family_train_save_and_answer(
    kind: str, fields: dict[str, Any], asked: Any
) -> None:
    found = asked(kind, **fields)
    assert found.error == ""
    assert found.trainable
    assert "tokenizer_name_or_path" not in found.config


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("C3A", {"block_sise": 32}, "C3A has no field 'block_sise' in PEFT 0.21"),
        ("C3A", {"block_sise": 32}, "Did you mean 'block_size'?"),
        ("ROAD", {"zzzz": 1}, "It has auto_mapping, "),
        ("LORA", {"r": "8"}, 'LORA: r is "8"; it must be a whole number.'),
        ("LORA", {"r": True}, "LORA: r is true; it must be a whole number."),
        ("LORA", {"r": 2.5}, "it must be a whole number."),
        ("LORA", {"r": None}, "LORA: r is null; it must be a whole number."),
        ("LORA", {"use_dora": 1}, "it must be true or false."),
        ("LORA", {"target_modules": [1]}, "it must be a list (of a text) or a text or null."),
        ("LORA", {"init_lora_weights": "good"}, 'one of "gaussian"'),
        ("PROMPT_TUNING", {"num_virtual_tokens": 4, "prompt_tuning_init": "X"}, 'one of "TEXT"'),
        ("LORA", {"r": -1}, "PEFT refuses this LORA: `r` should be a positive integer"),
        ("LORA", {"target_modules": ["nope"]}, "linear layers: q_proj, k_proj, v_proj, o_proj"),
        ("C3A", {"block_size": 48}, "The block size should be a factor"),
        ("PROMPT_TUNING", {}, "PROMPT_TUNING needs num_virtual_tokens, a whole number"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(
    kind: str, fields: dict[str, Any], sentence: str, asked: Any
) -> None:
    found = asked(kind, **fields)
    assert sentence in found.error
    assert found.error.endswith((".", "?"))
    assert found.trainable is None


def test_a_base_in_4_bits_is_tried(asked: Any) -> None:
    assert asked("LORA", "nf4").error == ""
    assert "HRA does not work on a base in nf4" in asked("HRA", "nf4", r=4).error
    pissa = asked("LORA", "nf4", init_lora_weights="pissa").error
    assert "LORA init_lora_weights=pissa on nf4 does not fit this model" in pissa


def test_gradient_checkpointing_is_tried(asked: Any) -> None:
    assert asked("LORA", checkpointing=True).error == ""
    broken = asked("PREFIX_TUNING", checkpointing=True, num_virtual_tokens=4).error
    assert "PREFIX_TUNING does not work with these settings" in broken


def test_layers_that_only_the_whole_model_has_are_found_in_it(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        peft_check_worker, "TRIAL_PARAMETERS", 60_000
    )  # one layer of the tiny model
    assert asked("LORA", r=2).error == ""
    one = asked("LORA", r=2, target_modules=["q_proj"], layers_to_transform=[1])
    assert (one.error, one.trainable) == ("", 2 * (64 + 64))
    none = asked("LORA", r=2, target_modules=["q_proj"], layers_to_transform=[9])
    assert "PEFT refuses this LORA" in none.error


def test_a_model_that_is_not_here_leaves_the_fields_to_be_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peft_check_worker, "_lay_over_whole_model", None)
    nowhere = Circumstances("", "fp32", False, 30)
    assert check('{"peft_type":"C3A","block_size":48}', None, nowhere).error == ""
    assert "no field" in check('{"peft_type":"C3A","x":48}', None, nowhere).error


def test_a_size_without_end_asks_for_too_much_memory(
    asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(peft_check_worker, "_train_save_and_answer", out_of_memory)
    assert "LORA asks for more memory than a check may take (4 GB)" in asked("LORA").error


@pytest.mark.hostile("patterns of layers")
@pytest.mark.parametrize("pattern", [".?" * 45 + "Z", "((.+)+)+Z", "(.|.)" * 30 + "Z"])
@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("LORA", "target_modules"), ("LORA", "exclude_modules"), ("LORA", "rank_pattern"),
        ("LORA", "modules_to_save"), ("IA3", "feedforward_modules"), ("OSF", "rank_pattern"),
    ],
)  # fmt: skip
def test_a_pattern_that_re_would_run_for_years_is_through_in_a_moment(
    kind: str, field: str, pattern: str, asked: Any
) -> None:
    value: Any = {pattern: 2} if field == "rank_pattern" else pattern
    value = [pattern] if field == "modules_to_save" else value
    began = time.process_time()
    given = {"target_modules": ["q_proj"], field: value}
    asked(kind, **(given | ({"target_modules": ".*proj"} if kind == "IA3" else {})))
    assert time.process_time() - began < 10  # a step of training and its answer with it
