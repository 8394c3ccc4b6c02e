"""What the attention kernel, the untimed first pass and the scored answers take, as predicted."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.generation import answer_batch, greedy_config
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.packed import scales_of
from ftlab.models.resolve import resolve_model
from ftlab.prediction.question import Step, ask_about
from ftlab.prediction.simulation.interceptions import CudaAllocationLog
from ftlab.prediction.simulation.step import predict
from ftlab.settings.training import EVALUATION_BATCH
from ftlab.tasks.formatting import FormattedExample, Scoring
from ftlab.training.allocations import Rehearsal, replay
from ftlab.training.evaluate import evaluate
from ftlab.training.model import apply_method
from ftlab.training.step import Arithmetic
from tests.prediction.simulation.test_real_memory import peak_of_block
from tests.slow import slow
from tests.tiny import make_tiny_model

LLAMA_1B = {
    "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256,
    "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip
LAYERS, KEY_HEADS, HEADS, WIDTH = 16, 8, 32, 64
T4, A100 = (7, 5), (8, 0)


def peak(config: dict[str, Any], capability: tuple[int, int], **step: Any) -> int:
    given: Any = {"length": 1024, "batch": 4, "completion_tokens": 64, "weights": "fp16"} | step
    (question,) = ask_about(config, [Variant("lora")], Step(capability=capability, **given))
    found = predict(question)
    assert found.peak_allocated_bytes is not None, found.reason
    return found.peak_allocated_bytes


@pytest.mark.slow
def test_llama_1b_on_a_t4_takes_its_repeated_keys_more_and_no_scores() -> None:
    """torch's plain kernel would take 20.2 GB there."""
    with_flash, without = peak(LLAMA_1B, A100), peak(LLAMA_1B, T4)
    assert with_flash == pytest.approx(9.6e9, rel=0.01)
    repeated = 2 * LAYERS * 4 * 1024 * HEADS * WIDTH * 2  # keys and values, kept in 16 bits
    as_they_were = repeated * KEY_HEADS // HEADS
    assert without - with_flash == pytest.approx(repeated - as_they_were, rel=0.05)


def test_on_a_t4_memory_grows_with_the_length_and_not_with_its_square() -> None:
    tiny = LLAMA_1B | {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 320,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    }  # fmt: skip
    once, twice, thrice = (peak(tiny, T4, length=2048 * n, batch=1) for n in (1, 2, 3))
    assert thrice - twice < 1.2 * (twice - once)  # squares would make it 5/3 at least


@pytest.mark.parametrize("rows", [4, *slow([1])])
def test_answers_are_predicted_to_take_what_they_take(rows: int, tiny_model: Path) -> None:
    """The prompts of a batch, and the keys and values of all that follows."""
    folder = tiny_model
    scoring = Scoring(rows, prompt=200, new_tokens=100)
    config = resolve_model(str(folder)).config()
    step = Step(16, 1, 8, weights="fp32", device="cpu", scoring=scoring)
    (question,) = ask_about(config, [Variant("full")], step)
    predicted = predict(question).scoring_bytes
    assert predicted is not None
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in model.parameters()}
    held = sum(storage.nbytes() for storage in weights.values())
    tokenizer = load_tokenizer(resolve_model(str(folder)))
    prompts = [[5] * scoring.prompt for _ in range(rows)]
    with torch.inference_mode(), peak_of_block() as found:
        answer_batch(model, tokenizer, prompts, greedy_config(scoring.new_tokens, [-1], 0))
    assert predicted - held == pytest.approx(found[0], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "policy"), [("full", "bf16"), ("qlora", "bf16")])
def test_answers_that_wait_for_each_other_are_predicted_to_take_what_they_take(
    method: str, policy: Any, tmp_path: Path
) -> None:
    """64 of them: four batches are read, and their keys and values wait for the answers. Weights in
    4 bits are unpacked meanwhile, which takes a twelfth of it here; those in bf16 are laid out."""
    source = resolve_model(str(make_tiny_model(tmp_path / "tiny", width=512)))
    scoring = Scoring(EVALUATION_BATCH, prompt=200, new_tokens=100)
    packing: Any = "nf4-double" if method == "qlora" else None
    step = Step(
        16, 1, 8, completion_tokens=4, weights=policy, device="cpu", scoring=scoring,
        packing=packing,
    )  # fmt: skip
    (question,) = ask_about(source.config(), [Variant(method)], step)
    predicted = predict(question).scoring_bytes
    assert predicted is not None
    cpu = torch.device("cpu")
    model: Any = load_base_model(source, policy, "nf4" if packing else None, cpu, not packing)
    model = apply_method(model, Variant(method), policy, False, RunPlan(1, "")).eval()
    kept = [*model.parameters(), *scales_of(model)]
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in kept}
    held = sum(storage.nbytes() for storage in weights.values())
    example = FormattedExample("", "", (5,) * (scoring.prompt - 1), (5,))
    held_out: Any = SimpleNamespace(examples=(None,) * 64, formatted=(example,) * 64)
    metric = SimpleNamespace(score_each=lambda examples, answers: [0.0] * len(answers))
    task: Any = SimpleNamespace(max_new_tokens=scoring.new_tokens, metric=metric)
    with peak_of_block() as found:
        evaluate(
            model, load_tokenizer(source), held_out, task, [-1],
            Arithmetic(policy, cpu), progress=lambda done, total: None,
        )  # fmt: skip
    assert predicted - held == pytest.approx(found[0], rel=0.05)


def test_the_first_pass_leaves_what_it_reserved_to_the_steps_after_it() -> None:
    log = CudaAllocationLog()
    with log:
        weight = torch.zeros(1_000)
        state = torch.zeros(2_000)
        begins = log.position
        activation = torch.zeros(4_000)
        del activation
        ends = log.position
    first = Rehearsal(before=begins - 1, start=begins, end=ends)  # before the optimizer's state
    sizes = [each.size for each in log.allocations(first)]
    assert sizes == [4_000, 16_000, None, 8_000, 16_000, None]
    assert replay(log.allocations(first), 0).most_allocated == (
        replay(log.allocations(), 0).most_allocated
    )
    del weight, state
