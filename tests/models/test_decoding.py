"""Answers that continue from the prompts a model has read for its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.decoding import (
    ReadPrompts,
    answers_what_it_read,
    begun_answer,
    greedy_answers,
    has_ended,
)
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
from ftlab.training.step import collate, completion_losses, read_batch
from tests.architectures import config_of
from tests.slow import slow
from tests.tiny import make_tiny_model

CPU = torch.device("cpu")
NEW = 10
NOT_ALIKE = (
    "phi", "gpt_neox", "opt", "bloom", "falcon", "cohere", "mixtral", "deepseek_v3", "gemma3_text",
    "exaone4", "gpt_oss", "lfm2", "mamba",
)  # fmt: skip
"""Families that differ in what they keep of a prompt."""
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


def answers_after_reading(model: Any, examples: list[FormattedExample]) -> list[list[int]]:
    """The answers of two batches."""
    answers: list[list[int]] = []
    waiting, left = [], []
    for part in (examples[:3], examples[3:]):
        batch = collate(part, 0)
        found = read_batch(model, batch, True)
        assert found.cache is not None
        assert found.likeliest is not None
        torch.testing.assert_close(found.losses, completion_losses(model, batch)[0])
        own = found.likeliest.split(torch.bincount(batch["rows"], minlength=len(part)).tolist())
        begun = [
            begun_answer(row.tolist(), example.completion_ids, STOPS, NEW)
            for row, example in zip(own, part, strict=True)
        ]
        rows = [row for row, answer in enumerate(begun) if not has_ended(answer, STOPS, NEW)]
        found.cache.batch_select_indices(torch.tensor(rows, dtype=torch.long))
        soft = virtual_tokens(model)
        lengths = [soft + len(part[row].prompt_ids) + len(begun[row]) - 1 for row in rows]
        if rows:
            waiting.append(ReadPrompts(found.cache, lengths, [begun[row] for row in rows]))
        left += [len(answers) + row for row in rows]
        answers += begun
    for place, answer in zip(left, greedy_answers(model, waiting, NEW, STOPS), strict=True):
        answers[place] = answer
    return answers


def partly_right(examples: list[FormattedExample], answers: list[list[int]]) -> list[Any]:
    """The examples with references that the answers follow for 0, 1, 2, ... tokens."""
    return [
        replace(one, completion_ids=(*answer[:place], *one.completion_ids))
        for place, (one, answer) in enumerate(zip(examples, answers, strict=True))
    ]


@pytest.mark.parametrize(
    "method",
    [*CORE, "lora_int8", *slow(["last_layers", "bitfit", "pissa", "ia3", "prefix_tuning"])],
)
def test_each_method_answers_after_its_loss_what_generate_answers(
    method: str, folder: Path
) -> None:
    model, examples = trained(folder, method), some_examples()
    assert answers_what_it_read(model) == (METHODS[method].base_precision != "int8")
    if not answers_what_it_read(model):
        return
    with torch.inference_mode():
        wanted = plain_answers(model, [example.prompt_ids for example in examples])
        found = answers_after_reading(model, examples)
        again = answers_after_reading(model, partly_right(examples, wanted))
    assert found == again == wanted
    assert len({len(answer) for answer in found}) > 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", *slow(NOT_ALIKE)])
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
        assert answers_after_reading(model, partly_right(examples, wanted)) == wanted


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
    """And the first token of an answer, which the loss's own pass shows, is not computed again."""
    model, examples, sizes = trained(folder, "full"), some_examples(), []

    def count(module: Any, args: Any, given: Any) -> None:
        if given["input_ids"].shape[1] == 1:
            sizes.append(len(given["input_ids"]))

    with torch.inference_mode():
        model.model.register_forward_pre_hook(count, with_kwargs=True)
        found = answers_after_reading(model, examples)
    open_at = [sum(len(answer) > step for answer in found) for step in range(1, NEW)]
    assert sizes == [rows for rows in open_at if rows]
    assert sizes[-1] < sizes[0]


def test_an_answer_that_is_the_reference_needs_no_step(folder: Path) -> None:
    model, examples = trained(folder, "full"), some_examples()[1:3]
    with torch.inference_mode():
        wanted = plain_answers(model, [example.prompt_ids for example in examples])
        right = [
            replace(one, completion_ids=tuple(answer))
            for one, answer in zip(examples, wanted, strict=True)
        ]
        found = read_batch(model, collate(right, 0), True).likeliest
    assert found is not None
    begun = [
        begun_answer(row.tolist(), answer, STOPS, NEW)
        for row, answer in zip(found.split([len(a) for a in wanted]), wanted, strict=True)
    ]
    assert begun == wanted
    assert all(has_ended(answer, STOPS, NEW) for answer in begun)


@pytest.mark.parametrize(
    ("likeliest", "reference", "begun"),
    [
        ([5, 6, 7], [1, 2, 3], [5]),
        ([1, 6, 7], [1, 2, 3], [1, 6]),
        ([1, 2, 7], [1, 2, 3], [1, 2, 7]),
        ([1, 9, 7], [1, 9, 3], [1, 9]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2, 3, 4]),
    ],
    ids=["differs at once", "later", "at the end", "ends", "has its most tokens"],
)
def test_an_answer_is_known_up_to_the_first_token_that_differs_from_the_reference(
    likeliest: list[int], reference: list[int], begun: list[int]
) -> None:
    assert begun_answer(likeliest, reference, {9}, 4) == begun
