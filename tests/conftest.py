"""Fixtures that many tests share: a tiny model, and a cache folder of the test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import promises

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
    biases: bool = False,
    width: int = 64,
) -> Path:
    """A random Llama with two layers of that width, and a byte-level tokenizer that pads with its
    end token, as SmolLM2 does. `spread` is the standard deviation of its weights; `biases` gives
    the attention layers some."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftlab.training.probe_model import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = chat_template
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
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
        attention_bias=biases,
    )
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Gives each of several test processes a core of its own, and all that it starts.

    Threads of torch that share a core with those of another process wait for them at every product.
    """
    worker: dict[str, str] = getattr(config, "workerinput", {})
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker["workerid"].removeprefix("gw")) % len(cores)]})
    promises.start(config)


def pytest_addoption(parser: pytest.Parser) -> None:
    promises.add_option(parser)


def pytest_unconfigure(config: pytest.Config) -> None:
    promises.finish(config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    promises.note_markers(item)


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
