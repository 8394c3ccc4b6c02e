"""Formatting, order and padding of training examples."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from ftlab.errors import FtlabError
from ftlab.tasks.formatting import FileTokenizer, PromptFormatter, TransformersTokenizer
from ftlab.tasks.spec import Example, Message
from ftlab.training.data import IGNORED, WINDOW_STEPS, collate, encode, training_order
from tests.conftest import make_tiny_model


def example(question: str, answer: str) -> Example:
    return Example((Message("user", question),), answer)


@pytest.fixture(scope="module")
def formatter(tiny_model: Path) -> PromptFormatter:
    return PromptFormatter(FileTokenizer(tiny_model))


def test_prompt_and_completion_meet_without_a_shared_token(formatter: PromptFormatter) -> None:
    item = formatter.format(example("hi", "yes"))
    assert item.prompt_text == "<|start|>user\nhi<|end|>\n<|start|>assistant\n"
    assert item.completion_text == "yes<|end|>"
    assert item.completion_ids[-1] == 0
    assert item.length == len(item.prompt_ids) + 4


def test_nothing_follows_the_end_of_turn(formatter: PromptFormatter) -> None:
    assert formatter.end_of_turn == "<|end|>"
    assert formatter.stop_ids() == [0]


def test_the_light_tokenizer_agrees_with_transformers(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    heavy = PromptFormatter(TransformersTokenizer(AutoTokenizer.from_pretrained(tiny_model)))
    light = PromptFormatter(FileTokenizer(tiny_model))
    item = example("Überlänge?\nTwo lines", "naïve  answer")
    assert light.format(item) == heavy.format(item)


def test_a_model_without_chat_template_gets_plain_paragraphs(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "plain", chat_template=None)
    formatter = PromptFormatter(FileTokenizer(folder))
    item = formatter.format(example("hi", "yes"))
    assert not formatter.has_template
    assert item.prompt_text == "hi\n\n"
    assert item.completion_text == "yes<|end|>"


def test_a_template_that_refuses_the_turns_is_named(tmp_path: Path) -> None:
    template = "{{ raise_exception('no system role') }}"
    folder = make_tiny_model(tmp_path / "strict", chat_template=template)
    with pytest.raises(FtlabError, match=r"chat template refuses these turns .*no system role"):
        PromptFormatter(FileTokenizer(folder))


def test_long_examples_are_left_out_and_counted_never_cut(formatter: PromptFormatter) -> None:
    items = [example("short", "yes"), example("long " * 50, "yes")]
    encoded = encode(formatter, items, 60, "training")
    assert encoded.examples == (items[0],)
    assert "1 of 2 training examples are longer than 60 tokens" in encoded.note("training", 60)


def test_only_long_examples_are_an_error_that_names_the_shortest(
    formatter: PromptFormatter,
) -> None:
    with pytest.raises(
        FtlabError, match="All 1 training examples are longer than 20 tokens; the shortest has"
    ):
        encode(formatter, [example("long " * 50, "yes")], 20, "training")


def test_padding_is_on_the_right_and_only_the_completion_carries_loss(
    formatter: PromptFormatter,
) -> None:
    items = [formatter.format(example("a", "yes")), formatter.format(example("longer", "no"))]
    batch = collate(items, pad_id=0)
    rows, length = batch["input_ids"].shape
    assert rows == 2
    assert length % 8 == 0
    assert 0 <= length - max(item.length for item in items) < 8
    for row, item in enumerate(items):
        labels = batch["labels"][row]
        assert labels[labels != IGNORED].tolist() == list(item.completion_ids)
        assert batch["attention_mask"][row].sum() == item.length
        assert torch.all(batch["attention_mask"][row, : item.length] == 1)


LENGTHS = [20 + 7 * index % 50 for index in range(40)]


def test_the_order_is_the_seeds_alone_and_passes_over_all_before_repeating() -> None:
    order = training_order(LENGTHS, steps=20, step_size=4, seed=3)
    assert order == training_order(LENGTHS, steps=20, step_size=4, seed=3)
    assert order != training_order(LENGTHS, steps=20, step_size=4, seed=4)
    assert sorted(order) == sorted(2 * list(range(40)))


def padded_tokens(order: list[int], batch: int) -> int:
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    return sum(len(b) * max(LENGTHS[i] for i in b) for b in batches)


def test_steps_hold_examples_of_like_length_and_come_in_no_order_of_length() -> None:
    order = training_order(LENGTHS, steps=10, step_size=4, seed=0)
    shuffled = random.Random(0).sample(range(40), 40)
    real = sum(LENGTHS)
    assert padded_tokens(order, 4) - real < 0.4 * (padded_tokens(shuffled, 4) - real)
    longest = [max(LENGTHS[i] for i in order[s : s + 4]) for s in range(0, 40, 4)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_a_long_run_meets_long_and_short_examples_in_every_window() -> None:
    lengths = list(range(10, 1010))
    order = training_order(lengths, steps=250, step_size=4, seed=0)
    window = WINDOW_STEPS * 4
    for first in range(0, 1000 - window, window):
        met = [lengths[i] for i in order[first : first + window]]
        assert min(met) < 200
        assert max(met) > 800


@pytest.mark.parametrize("examples", [8, 20, 40, 100])
def test_a_small_set_is_not_dealt_as_steps_of_one_example(examples: int) -> None:
    lengths = [20 + index % 7 for index in range(examples)]
    order = training_order(lengths, steps=30, step_size=4, seed=0)
    distinct = [len(set(order[s : s + 4])) for s in range(0, 120, 4)]
    passes_meet = 30 * 4 // examples
    assert sum(count < 4 for count in distinct) <= passes_meet
    assert min(distinct) >= 2
    counts = [order.count(index) for index in range(examples)]
    assert max(counts) - min(counts) <= 1


class WithoutEnd(FileTokenizer):
    """A tokenizer with no end token, which knows none of the letters of some answers."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        known = text.replace("<|end|>", "").replace("?", "")
        return super().encode(known, add_special_tokens) if known else []


def test_an_example_without_a_completion_token_is_refused_with_its_answer(
    tiny_model: Path,
) -> None:
    formatter = PromptFormatter(WithoutEnd(tiny_model))
    items = [example("hi", "yes"), example("hello", "???")]
    with pytest.raises(
        FtlabError, match=r"1 of 2 training examples has an answer of no token.*'\?\?\?"
    ):
        encode(formatter, items, 100, "training")
