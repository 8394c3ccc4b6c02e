"""Each way of splitting words that has a name in llama.cpp gives the same tokens there."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ftlab.share.gguf_export import model_contents, write_gguf
from ftlab.share.gguf_tokenizer import DIGITS, GPT2, SPLITS
from tests.llama_cpp import LlamaCpp, needs_llama_cpp
from tests.tiny import make_tiny_model

LEARNT = [
    "The model answers, and don't DON'T we'Ll it's there's.\n\n", "  12 345 6789 1\n\n22  3.14\r\n",
    "SELECT name, count(*) FROM t WHERE a = 1;\n\n\n",
] * 20  # fmt: skip
HARD = (
    "Hello  world 12345 don't DON'T we've\n\n\n 7",
    "  the\t\tx=3.14;\r\n\r\n naïve ÅÄÖ 日本語 ½² ١٢ 🦊🦊\u200d  ",
    "   leading", "trailing   ", "a\n \n  b", "café's 100% \"quoted\"...!!! <|end|>x",
)  # fmt: skip


def make_tokenizer(folder: Path, steps: tuple[str, ...], whole: bool) -> Tokenizer:
    """A byte-level BPE with that split, learnt on a few lines, in the model's folder."""
    known = {
        GPT2: pre_tokenizers.ByteLevel(add_prefix_space=False),
        DIGITS: pre_tokenizers.Digits(individual_digits=True),
    }
    split = [known.get(x) or pre_tokenizers.Split(Regex(x), "isolated") for x in steps]
    if GPT2 not in steps:
        split.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LEARNT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@needs_llama_cpp
@pytest.mark.parametrize("split", SPLITS, ids=list(SPLITS.values()))
def test_llama_cpp_gets_the_same_tokens(
    split: tuple[tuple[str, ...], bool], tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "model")
    tokenizer = make_tokenizer(folder, *split)
    file = tmp_path / "model.gguf"
    contents = model_contents(folder, "f16", "tiny")
    write_gguf(contents, file, replace=False)
    assert contents.vocabulary is not None
    assert contents.vocabulary.pre == SPLITS[split]
    assert LlamaCpp(file).tokens(*HARD) == [tokenizer.encode(text).ids for text in HARD]
