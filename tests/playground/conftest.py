"""A tiny random base model and finished runs on it, made in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.runs.directory import RunDirectory
from tests.fakes import make_run

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = "the capital of France is Paris; SELECT name FROM singers WHERE age > 30 ünï\n"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama of context 128, and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([WORDS], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def save_adapter(tiny_model: Path) -> Callable[..., None]:
    """Saves a random adapter of the method into a folder."""

    def save(method: str, target: Path, seed: int = 1, **config: Any) -> None:
        import torch
        from peft import LoraConfig, PromptTuningConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
        if method == "full":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
            model.save_pretrained(target)
            return
        settings: dict[str, Any] = {"task_type": "CAUSAL_LM", **config}
        if method == "prompt_tuning":
            made = get_peft_model(
                model, PromptTuningConfig(**({"num_virtual_tokens": 5} | settings))
            )
        else:
            lora = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False} | settings
            made = get_peft_model(model, LoraConfig(**lora))
        made.save_pretrained(target)

    return save


@pytest.fixture
def runs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder, with device locks of its own."""
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "home"))
    return tmp_path / "runs"


@pytest.fixture
def add_run(
    runs_folder: Path, tiny_model: Path, save_adapter: Callable[..., None]
) -> Callable[..., RunDirectory]:
    """Makes a finished run of a method on the tiny model, with a real adapter."""

    def add(method: str, seed: int = 1, **config: Any) -> RunDirectory:
        directory = make_run(runs_folder, method, model=str(tiny_model))
        save_adapter(method, directory.adapter, seed, **config)
        return directory

    return add
