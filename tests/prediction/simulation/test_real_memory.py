"""Predicted live bytes against those that torch's allocator on the CPU really handed out."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bitsandbytes as bnb
import peft
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.packed import scales_of
from ftlab.prediction.question import Question, Step, ask_about
from ftlab.prediction.simulation.fake import Guesses, quantisation, quantise, read_config
from ftlab.prediction.simulation.step import build, hold_fake, run_steps
from ftlab.prediction.simulation.work import WorkLog
from ftlab.training.model import apply_method

LLAMA = {
    "model_type": "llama", "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 8192,
    "tie_word_embeddings": True, "max_position_embeddings": 2048,
}  # fmt: skip


def predicted_bytes(question: Question) -> int:
    """The peak of a step on fake tensors, as the CPU's kernels take memory."""
    model = build(read_config(question.config), question.variant, question.step)
    log = WorkLog()
    with FakeTensorMode(), Guesses(0):
        hold_fake(model, question.step, log)
        with log:
            run_steps(model, question.variant, question.step, log)
    return log.peak(rounding=False).bytes


def measured_bytes(question: Question) -> int:
    """The peak of the same step on real tensors: what lay there before, and torch's own events."""
    model = real_model(question)
    held = [*model.parameters(), *model.buffers()]
    held += scales_of(model) if question.step.packing else []
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in held}
    with peak_of_block() as found:
        run_steps(model, question.variant, question.step, WorkLog())
    return found[0] + sum(storage.nbytes() for storage in storages.values())


@contextmanager
def peak_of_block() -> Iterator[list[int]]:
    """Yields a list that holds, after the block, the peak of the bytes that it allocated."""
    found = [0]
    gc.collect()  # what earlier tests left would else be freed within the block
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        yield found
    now = 0
    events = (e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        found[0] = max(found[0], now)


def real_model(question: Question) -> Any:
    """The model that `build` makes, with random weights."""
    step = question.step
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(
        read_config(question.config),
        dtype=torch.bfloat16,
        attn_implementation=None if step.attention == "sdpa" else step.attention,
    )
    model.config.use_cache = not step.is_own  # the standard loop forbids nothing
    if step.packing is not None:
        weights = dict(model.state_dict())
        model = quantise(model, step.packing, torch.bfloat16)
        for name, layer in model.named_modules():
            if isinstance(layer, bnb.nn.Linear4bit):
                layer.weight = bnb.nn.Params4bit(
                    weights[f"{name}.weight"].clone(), requires_grad=False, quant_type="nf4",
                    compress_statistics=layer.is_nested, module=layer,
                ).to("cpu")  # fmt: skip
        assert quantisation(step.packing, torch.bfloat16).load_in_4bit
        model = peft.prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=step.checkpointing
        )
    model = apply_method(model, question.variant, "fp32", step.checkpointing, RunPlan(10, ""))
    if step.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


@pytest.mark.parametrize(
    ("method", "checkpointing"),
    [
        ("full", False),
        ("qlora", True),
        pytest.param("lora", True, marks=pytest.mark.slow),
        pytest.param("qlora", False, marks=pytest.mark.slow),
        pytest.param("prompt_tuning", False, marks=pytest.mark.slow),
        pytest.param("prompt_tuning", True, marks=pytest.mark.slow),
        pytest.param("ia3", False, marks=pytest.mark.slow),
    ],
)
def test_predicted_bytes_are_those_that_torch_handed_out(method: str, checkpointing: bool) -> None:
    step = Step(96, batch=4, checkpointing=checkpointing)
    (question,) = ask_about(LLAMA, [Variant(method)], step)
    assert predicted_bytes(question) == pytest.approx(measured_bytes(question), rel=0.01)


@pytest.mark.slow
def test_a_longer_step_is_told_from_a_shorter_one() -> None:
    short, long = (ask_about(LLAMA, [Variant("lora")], Step(n))[0] for n in (32, 96))
    assert measured_bytes(short) < 0.9 * measured_bytes(long)
    assert predicted_bytes(short) < 0.9 * predicted_bytes(long)
