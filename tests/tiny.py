"""A tiny random model, made in a second. Without pytest, which a bare machine may lack."""

from __future__ import annotations

import json
from pathlib import Path

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

    from ftlab.training.probe import byte_tokenizer

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


def give_merges(folder: Path) -> Path:
    """Gives the model's byte-level tokenizer six merges; llama.cpp takes none without merges."""
    file = folder / "tokenizer.json"
    raw = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = raw["model"]["vocab"]
    for pair in (["t", "h"], ["th", "e"], ["Ġ", "the"], ["i", "n"], ["Ċ", "Ċ"], ["Ġ", "Ġ"]):
        vocabulary["".join(pair)] = max(vocabulary.values()) + 1
        raw["model"]["merges"].append(pair)
    file.write_text(json.dumps(raw), encoding="utf-8")
    return folder
