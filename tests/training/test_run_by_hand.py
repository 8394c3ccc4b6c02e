"""Runs of a PeftConfig by hand, in this process, on a tiny model; and who wears the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ftlab.jobs.launch import plan_sweep
from ftlab.methods.variant import parse_variant, read_variants
from ftlab.models.loading import load_base_model
from ftlab.models.resolve import resolve_model
from ftlab.playground.attach import attach
from ftlab.playground.panes import find_source
from tests.training.test_run import IDS, do, request


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads on a tiny model wait for each other more than they compute."""
    monkeypatch.setattr("ftlab.training.run.cpu_count", lambda: 1)


@pytest.mark.parametrize(
    ("config", "saved"),
    [
        ({"peft_type": "C3A", "block_size": 32}, {"peft_type": "C3A", "block_size": 32}),
        ({"peft_type": "ADALORA", "init_r": 4, "target_r": 2}, {"total_step": 3}),
        (
            {"peft_type": "LORA", "init_lora_weights": "pissa", "r": 2},
            {"init_lora_weights": True, "r": 4},
        ),
    ],
)
def test_a_run_trains_and_saves_what_plain_peft_and_the_playground_wear(
    config: dict[str, Any], saved: dict[str, Any], tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    asked = request(tiny_model, task_file, eval_answers=False)
    variants = tuple(read_variants(json.dumps(config | {"learning_rate": 0.01})))
    _, spec = plan_sweep(replace(asked, variants=variants))
    result = do(spec, tmp_path)
    assert result.measures.trainable_params
    adapter = tmp_path / spec.run_id / "adapter"
    text = (adapter / "adapter_config.json").read_text(encoding="utf-8")
    written = json.loads(text)
    assert {key: written[key] for key in saved} == saved
    assert written["base_model_name_or_path"] == tiny_model.name
    assert str(tmp_path) not in text
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapter)
    shared = load_base_model(resolve_model(str(tiny_model)), "fp32", None, torch.device("cpu"))
    with torch.inference_mode():
        untouched = shared(IDS).logits
        worn = attach(shared, find_source(tmp_path, spec.run_id))
        expected = plain.eval()(IDS).logits
        assert not torch.allclose(expected, untouched, atol=1e-5)
        assert torch.equal(shared(IDS).logits, untouched)
        if worn.model is not None:
            assert torch.allclose(worn.model(IDS).logits, expected, atol=1e-5)
        else:
            assert worn.low_rank is not None
            assert set(worn.low_rank.layers)


def test_an_adapter_of_the_registry_trains_on_a_base_in_4_bits(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    asked = replace(
        request(tiny_model, task_file, eval_answers=False),
        variants=(parse_variant("oft:base=nf4"),),
    )
    base_spec, spec = plan_sweep(asked)
    assert base_spec.base_precision == spec.base_precision == "nf4"
    before = do(base_spec, tmp_path)
    result = do(spec, tmp_path)
    assert result.measures.eval_loss_before == before.measures.eval_loss_before
    assert result.measures.eval_loss_after != before.measures.eval_loss_before
    assert any("Only the linear layers of a 4-bit base" in note for note in result.notes)
