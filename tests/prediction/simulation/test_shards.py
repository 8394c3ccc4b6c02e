"""A step over several cards: the bytes of one of them, by part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from ftlab.basics.cards import find_card
from ftlab.basics.errors import InvalidRequest
from ftlab.methods.variant import parse_variant
from ftlab.models.dimensions import known_model
from ftlab.prediction.fit import fit
from ftlab.prediction.question import Prediction, Question, Step, ask_about
from ftlab.prediction.simulation.fake import Guesses, QuickFakeMode, read_config
from ftlab.prediction.simulation.interceptions import CpuAllocationLog
from ftlab.prediction.simulation.shards import ranks
from ftlab.prediction.simulation.step import build, hold_fake, predict, run_steps
from ftlab.prediction.simulation.work import WorkLog
from ftlab.training.shard_allocations import shards_logged
from ftlab.training.sharding import units_of
from tests.prediction.simulation.test_real_memory import LLAMA, peak_of_block, real_model

UNTIED = LLAMA | {"tie_word_embeddings": False}


def asked(method: str = "full", config: dict[str, Any] = LLAMA, **step: Any) -> Question:
    given = {"length": 96, "batch": 4, "completion_tokens": 40} | step
    (question,) = ask_about(config, [parse_variant(method)], Step(**given))
    return question


def predicted(method: str = "full", **step: Any) -> Prediction:
    return predict(asked(method, **step))


@pytest.mark.slow
def test_llama_8b_in_full_over_four_cards_of_24_gb_is_what_the_shapes_say() -> None:
    model = known_model("meta-llama/Llama-3.1-8B")
    assert model is not None
    step = {"length": 896, "completion_tokens": 448, "checkpointing": True}
    found = predict(asked("full", dict(model.config), shard=4, **step))
    width, inner, words, narrow = 4_096, 14_336, 128_256, 1_024
    block = 2 * width * width + 2 * narrow * width + 3 * inner * width + 2 * width
    embedding = words * width
    whole = 32 * block + 2 * embedding + width
    assert found.total_params == found.trainable_params == whole == 8_030_261_248
    # The peak: the gradient of the embeddings, which are the last, is being divided. One block's
    # weights and buffer of the exchange are not given back yet, in numbers of 2 bytes.
    expected = {
        "weights": 2 * whole / 4,
        "gradients": 2 * (whole - embedding) / 4,
        "optimizer": 2 * 2 * whole / 4,
        "gathered": 2 * embedding,
        "communication": 2 * (embedding + block),
    }
    for part, size in expected.items():
        assert found.anatomy[part] == pytest.approx(size, rel=0.001), part
    card = find_card("rtx-4090")
    assert found.peak_reserved_bytes is not None
    assert fit(found.peak_reserved_bytes, card).verdict == "fits"
    # One card would have to hold four times the weights, gradients and states alone.
    assert 2 * 4 * whole > 2 * card.memory_bytes


@pytest.mark.slow
@pytest.mark.parametrize(("method", "config"), [("full", LLAMA), ("dora", UNTIED)])
def test_predicted_bytes_are_those_that_fsdp_takes_on_real_tensors(
    method: str, config: dict[str, Any]
) -> None:
    question = asked(method, config, shard=2, completion_tokens=None)
    step = replace(question.step, batch=question.step.rows)
    model = build(read_config(question.config), question.variant, question.step)
    log = WorkLog()
    with ranks(2) as mesh:
        with QuickFakeMode(), Guesses(0), shards_logged(log):
            hold_fake(model, step, log, mesh)
            with log:
                run_steps(model, question.variant, step, log)
        real = real_model(question)
        for unit in units_of(real):
            fully_shard(unit, mesh=mesh)
        parts = [weight.to_local() for weight in real.parameters()]
        with peak_of_block() as found:
            run_steps(real, question.variant, step, WorkLog())
    held = sum(part.untyped_storage().nbytes() for part in parts)
    assert log.peak(rounding=False).bytes == pytest.approx(found[0] + held, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "dora"])
def test_parameters_and_file_are_those_of_the_whole_model(method: str) -> None:
    one, two = (predicted(method, shard=count) for count in (1, 2))
    assert one.adapter_bytes is not None
    assert two.how == "simulated", two.reason
    assert (two.trainable_params, two.total_params, two.adapter_bytes) == (
        one.trainable_params, one.total_params, one.adapter_bytes,
    )  # fmt: skip


def test_on_a_cpu_gloo_copies_the_whole_of_what_it_exchanges() -> None:
    for exchange in (dist.all_gather_into_tensor, dist.reduce_scatter_tensor):
        log = CpuAllocationLog()
        with ranks(2), log:
            whole, part = torch.empty(2_000), torch.empty(1_000)
            gathers = exchange is dist.all_gather_into_tensor
            exchange(*((whole, part) if gathers else (part, whole)))
        assert log.peak(rounding=False).anatomy["communication"] == 4 * 2_000


def test_the_time_of_a_divided_step_is_not_predicted() -> None:
    found = predicted("lora", shard=2)
    assert (found.work, found.scoring_work) == (None, None)
    assert predicted("lora").work is not None


def test_what_cannot_be_divided_says_why_and_has_no_memory() -> None:
    found = predicted("qlora", shard=2)
    assert "bitsandbytes issue 1945" in found.reason
    assert found.peak_reserved_bytes is None


@pytest.mark.parametrize(
    ("step", "part"),
    [
        ({"shard": 8}, "A batch of 4 cannot be divided over 8 GPUs"),
        ({"shard": 2, "optimizer": "adamw_8bit"}, "choose adamw, or 1 GPU in a run"),
        ({"shard": 65}, "GPUs in a run is 65"),
    ],
)
def test_a_step_that_cannot_be_divided_is_refused(step: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked(**step)
    assert [error.field for error in refused.value.errors] == ["shard"]
    assert part in str(refused.value)


def test_a_process_of_a_divided_run_simulates_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    found = predicted("lora", shard=2)
    assert "predict it with Plan" in found.reason
