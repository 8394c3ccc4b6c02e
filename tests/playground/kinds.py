"""Adapters of many kinds, as PEFT puts them on a model; and what PEFT answers with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    CPTConfig,
    GloraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ftlab.models.generation import greedy_config
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer
from ftlab.tasks.spec import Message

_ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
_SOFT = {"num_virtual_tokens": 5}


def _maker(config_class: Any, **defaults: Any) -> Callable[..., PeftModel]:
    def make(model: PreTrainedModel, **config: Any) -> PeftModel:
        given = {"task_type": "CAUSAL_LM"} | defaults | config
        made: PeftModel = get_peft_model(model, config_class(**given))
        return made

    return make


KINDS: dict[str, Callable[..., PeftModel]] = {
    "lora": _maker(LoraConfig, r=4, target_modules="all-linear", init_lora_weights=False),
    "qlora": _maker(LoraConfig, r=4, target_modules="all-linear", init_lora_weights=False),
    "dora": _maker(LoraConfig, use_dora=True, init_lora_weights=False, **_ATTENTION),
    "adalora": _maker(AdaLoraConfig, total_step=10, **_ATTENTION),
    "ia3": _maker(
        IA3Config, target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "loha": _maker(LoHaConfig, init_weights=False, **_ATTENTION),
    "lokr": _maker(LoKrConfig, init_weights=False, **_ATTENTION),
    "oft": _maker(OFTConfig, init_weights=False, **_ATTENTION),
    "glora": _maker(GloraConfig, init_weights=False, **_ATTENTION),
    "vera": _maker(VeraConfig, r=4, target_modules=["q_proj", "o_proj"]),
    "tokens": _maker(TrainableTokensConfig, token_indices=[40, 70, 90]),
    "prompt_tuning": _maker(PromptTuningConfig, **_SOFT),
    "p_tuning": _maker(PromptEncoderConfig, encoder_hidden_size=16, **_SOFT),
    "prefix_tuning": _maker(PrefixTuningConfig, **_SOFT),
    "cpt": _maker(CPTConfig, **_SOFT),
}  # fmt: skip


def load_plain(model: Path, adapter: Path | None, dtype: torch.dtype = torch.float32) -> Any:
    """The model, or the adapter on it, by transformers and PEFT alone."""
    torch.set_num_threads(1)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    if adapter is not None and (adapter / "adapter_config.json").is_file():
        loaded = PeftModel.from_pretrained(loaded, str(adapter))
    elif adapter is not None:
        loaded = AutoModelForCausalLM.from_pretrained(adapter, dtype=dtype)
    return loaded.eval()


def chat_ids(model: Path, *turns: str) -> list[int]:
    """The ids of a chat whose turns are by user and assistant in turn."""
    formatter = PromptFormatter(TransformersTokenizer(AutoTokenizer.from_pretrained(model)))
    roles = ("user", "assistant")
    return formatter.prompt_ids([Message(roles[i % 2], turn) for i, turn in enumerate(turns)])


def generated(loaded: Any, ids: list[int], max_new_tokens: int, **options: Any) -> list[int]:
    """The greedy ids of the model's own `generate`."""
    config = greedy_config(max_new_tokens, [0], 0)
    for name, value in options.items():
        setattr(config, name, value)
    with torch.inference_mode():
        output = loaded.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            generation_config=config,
        )
    return [int(token) for token in output[0, len(ids) :]]


def forwarded(loaded: Any, ids: list[int], max_new_tokens: int) -> list[int]:
    """The greedy ids by one whole forward a token, without a cache."""
    made: list[int] = []
    with torch.inference_mode():
        while len(made) < max_new_tokens and 0 not in made:
            whole = torch.tensor([ids + made])
            logits = loaded(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
            made.append(int(logits[0, -1].argmax()))
    return made


def first_logits(loaded: Any, ids: list[int]) -> torch.Tensor:
    """(vocabulary,) fp32: the logits of the next token."""
    whole = torch.tensor([ids])
    with torch.inference_mode():
        output = loaded(input_ids=whole, attention_mask=torch.ones_like(whole))
    logits: torch.Tensor = output.logits[0, -1].float()
    return logits


def spelt(model: Path, ids: list[int]) -> str:
    """The ids as a pane shows them."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
