"""Fixtures that many tests share: a tiny model, and a cache folder of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def make_tiny_model(
    folder: Path,
    chat_template: str | None = CHAT_TEMPLATE,
    context: int = 2048,
    spread: float = 0.02,
    dtype: str = "float32",
) -> Path:
    """A random Llama with two layers of width 64, and a byte-level tokenizer that pads with its
    end token, as SmolLM2 does. `spread` is the standard deviation of its weights."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<|end|>", "<|start|>", *alphabet])}
    raw = Tokenizer(models.BPE(vocabulary, [], unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(["<|end|>", "<|start|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>", bos_token="<|start|>"
    )
    tokenizer.chat_template = chat_template
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=320,
        max_position_embeddings=context,
        initializer_range=spread,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast units first, then real processes on the real model, then the page in Chromium."""

    def weight(item: pytest.Item) -> int:
        return sum(item.get_closest_marker(name) is not None for name in ("model", "browser"))

    items.sort(key=lambda item: (weight(item), "tests/browser" in str(item.path)))


@pytest.fixture(scope="session", autouse=True)
def own_device_locks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests wait for no run of the person's own, and no run of theirs waits for a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTLAB_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    """A small task of the user's own: repeat a word."""
    words = ["ash", "birch", "cedar", "elm", "fir", "oak", "pine", "rowan", "willow", "yew"]
    lines = [f"Repeat {word} number {i},{word}" for i in range(4) for word in words]
    path = tmp_path / "words.csv"
    path.write_text("prompt,completion\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path
