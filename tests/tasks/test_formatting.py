"""From examples to tokens: where prompt and completion meet, and what is too long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.tasks.formatting import FileTokenizer, PromptFormatter, TransformersTokenizer, encode
from ftlab.tasks.spec import Example, Message
from tests.tiny import make_tiny_model


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
    items = [example("Überlänge?\nTwo lines", "naïve  answer"), example("A longer one " * 9, "b")]
    assert light.format_all(items) == heavy.format_all(items)
    assert light.format_all(items) == [light.format(item) for item in items], "nothing is padded"
    assert light.format_all([]) == heavy.format_all([]) == []


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
    items = [example("long " * 50, "yes"), example("short", "yes"), example("short", "y")]
    most = formatter.format(items[1]).length
    encoded = encode(formatter, items, most, "training")
    assert encoded.examples == (items[1], items[2])
    assert encoded.formatted == (formatter.format(items[1]), formatter.format(items[2]))
    note = encoded.note("training", most)
    assert f"1 of 3 training examples are longer than {most} tokens" in note
    assert encode(formatter, items, most - 1, "training").examples == (items[2],)
    assert encode(formatter, items[1:], most, "training").note("training", most) == ""


def test_only_long_examples_are_an_error_that_names_the_shortest(
    formatter: PromptFormatter,
) -> None:
    with pytest.raises(
        FtlabError, match="All 1 training examples are longer than 20 tokens; the shortest has"
    ):
        encode(formatter, [example("long " * 50, "yes")], 20, "training")


class WithoutEnd(FileTokenizer):
    """A tokenizer with no end token, which knows none of the letters of some answers."""

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        known = [text.replace("<|end|>", "").replace("?", "") for text in texts]
        return super().encode(known, add_special_tokens)


def test_an_example_without_a_completion_token_is_refused_with_its_answer(
    tiny_model: Path,
) -> None:
    formatter = PromptFormatter(WithoutEnd(tiny_model))
    items = [example("hi", "yes"), example("hello", "???")]
    with pytest.raises(
        FtlabError, match=r"1 of 2 training examples has an answer of no token.*'\?\?\?"
    ):
        encode(formatter, items, 100, "training")
