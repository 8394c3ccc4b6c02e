"""Answers that continue from the prompts a model has read for its loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlab.methods.registry import METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.decoding import ReadPrompts, answers_what_it_read, greedy_answers
from ftlab.models.generation import (
    generation_inputs,
    greedy_config,
    left_padded,
    virtual_tokens,
)
from ftlab.models.loading import load_base_model
from ftlab.models.resolve import resolve_model
from ftlab.tasks.formatting import FormattedExample
from ftlab.training.model import apply_method
from ftlab.training.step import collate, completion_losses, losses_and_cache
from tests.architectures import FAMILIES, config_of
from tests.tiny import make_tiny_model

CPU = torch.device("cpu")
NEW = 10
STOPS = list(range(0, 320, 4))  # so that rows end at different steps


def some_examples() -> list[FormattedExample]:
    """Prompts of 1 to 24 tokens with completions of other lengths."""
    generator = torch.Generator().manual_seed(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, 258, (count,), generator=generator).tolist())

    sizes = ((1, 9), (24, 2), (5, 14), (12, 1), (8, 8), (17, 3), (3, 20))
    return [FormattedExample("", "", tokens(prompt), tokens(rest)) for prompt, rest in sizes]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With biases for BitFit, and weights so large that each prompt has an answer of its own."""
    return make_tiny_model(tmp_path_factory.mktemp("model"), spread=0.2, biases=True)


def trained(folder: Path, method: str) -> Any:
    """As after some training: each weight that learns is moved at random."""
    spec = METHODS[method]
    variant = Variant(method, {"layers": 1} if method == "last_layers" else {})
    source = resolve_model(str(folder))
    torch.manual_seed(0)
    base = load_base_model(source, "fp32", variant.base_precision, CPU, not spec.is_adapter)
    model: Any = apply_method(base, variant, "fp32", False, RunPlan(10, str(source.folder)))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def plain_answers(model: Any, prompts: list[tuple[int, ...]]) -> list[list[int]]:
    """What `generate` answers, until the first stop token."""
    callee, inputs = generation_inputs(model, left_padded(prompts, 0, CPU))
    output = callee.generate(**inputs, generation_config=greedy_config(NEW, STOPS, 0))
    rows = output[:, inputs["input_ids"].shape[1] :] if "input_ids" in inputs else output
    return [
        row[: next((i + 1 for i, token in enumerate(row) if token in STOPS), NEW)]
        for row in rows.tolist()
    ]


def read_in_two(model: Any, examples: list[FormattedExample]) -> list[ReadPrompts]:
    found = []
    for part in (examples[:3], examples[3:]):
        batch = collate(part, 0)
        losses, cache = losses_and_cache(model, batch, use_cache=True)
        assert cache is not None
        torch.testing.assert_close(losses, completion_losses(model, batch)[0])
        prompts = [example.prompt_ids for example in part]
        found.append(ReadPrompts(cache, prompts, virtual_tokens(model)))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_each_method_answers_after_its_loss_what_generate_answers(
    method: str, folder: Path
) -> None:
    model, examples = trained(folder, method), some_examples()
    assert answers_what_it_read(model) == (METHODS[method].base_precision != "int8")
    if not answers_what_it_read(model):
        return
    with torch.inference_mode():
        wanted = plain_answers(model, [example.prompt_ids for example in examples])
        found = greedy_answers(model, read_in_two(model, examples), NEW, STOPS)
    assert found == wanted
    assert len({len(answer) for answer in found}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_each_architecture_that_continues_after_its_loss_answers_what_generate_answers(
    family: str,
) -> None:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config_of(family)).eval()
    examples = some_examples()
    if not answers_what_it_read(model):
        assert family in LEFT_TO_GENERATE
        return
    assert family not in LEFT_TO_GENERATE
    with torch.inference_mode():
        wanted = plain_answers(model, [example.prompt_ids for example in examples])
        assert greedy_answers(model, read_in_two(model, examples), NEW, STOPS) == wanted


LEFT_TO_GENERATE = ("gemma2", "gemma3_text", "exaone4", "gpt_oss", "lfm2", "mamba")
"""Sliding windows and states."""


def test_a_model_with_its_own_rule_for_the_choice_of_tokens_is_left_to_generate(
    folder: Path,
) -> None:
    model = trained(folder, "lora")
    assert answers_what_it_read(model)
    model.get_base_model().generation_config.suppress_tokens = [7]
    assert not answers_what_it_read(model)


def test_rows_that_ended_are_computed_no_more(folder: Path) -> None:
    model, examples, sizes = trained(folder, "full"), some_examples(), []
    with torch.inference_mode():
        batches = read_in_two(model, examples)
        model.model.register_forward_pre_hook(
            lambda module, args, given: sizes.append(len(given["input_ids"])), with_kwargs=True
        )
        found = greedy_answers(model, batches, NEW, STOPS)
    open_at = [sum(len(answer) > step for answer in found) for step in range(len(sizes))]
    assert sizes == open_at
    assert sizes[-1] < sizes[0]
