"""Generates greedy and sampled answers with a base model or any PEFT model on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel, PeftType
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

PREFIXES = (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)
"""Methods whose soft tokens are keys and values in the cache, not embeddings."""


def virtual_tokens(model: nn.Module) -> int:
    """The number of soft tokens that a prompt method prepends to the input; else 0."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return int(model.active_peft_config.num_virtual_tokens)
    return 0


def soft_outputs(model: nn.Module) -> int:
    """The soft tokens that the model computes outputs for; 0 for a prefix, which is cached."""
    soft = virtual_tokens(model)
    config: Any = model.active_peft_config if isinstance(model, PeftModel) else None
    return 0 if soft and config.peft_type in PREFIXES else soft


def left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, each (n, longest prompt), padded on the left."""
    length = max(len(prompt) for prompt in prompts)
    input_ids = torch.full((len(prompts), length), pad_id)
    attention_mask = torch.zeros((len(prompts), length), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        input_ids[row, length - len(prompt) :] = torch.tensor(list(prompt))
        attention_mask[row, length - len(prompt) :] = 1
    return {"input_ids": input_ids.to(device), "attention_mask": attention_mask.to(device)}


def generation_inputs(
    model: PreTrainedModel | PeftModel, batch: dict[str, Tensor]
) -> tuple[Any, dict[str, Any]]:
    """The module to call `generate` on, and its inputs.

    For a prompt method the soft tokens are inserted right before each row's first real token:
    PEFT's own `generate` puts them before the padding, at positions that training never used. With
    transformers 5.24 it also inserts them before every further token, and passes a prefix under a
    name that is ignored. A prefix is passed as the initial cache.
    """
    if not (isinstance(model, PeftModel) and virtual_tokens(model)):
        return model, batch
    base: Any = model.get_base_model()
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if model.active_peft_config.peft_type in PREFIXES:
        seen = torch.cat([mask.new_ones(len(ids), virtual_tokens(model)), mask], dim=1)
        prefix = model.get_prompt(batch_size=len(ids))
        return base, {"input_ids": ids, "attention_mask": seen, "cache": prefix}
    words = base.get_input_embeddings()(ids)
    soft = model.get_prompt(batch_size=len(ids)).to(words.dtype)
    padding = ids.shape[1] - mask.sum(1)
    embeddings = torch.cat([words, soft], dim=1)  # makes room; rows are filled below
    longer = torch.ones(embeddings.shape[:2], dtype=mask.dtype, device=mask.device)
    for row, pads in enumerate(padding.tolist()):
        embeddings[row] = torch.cat([words[row, :pads], soft[row], words[row, pads:]])
        longer[row, :pads] = 0
    return base, {"inputs_embeds": embeddings, "attention_mask": longer}


def greedy_config(max_new_tokens: int, stop_ids: Sequence[int], pad_id: int) -> GenerationConfig:
    """Greedy decoding; overrides sampling and penalties in the model's own defaults."""
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=list(stop_ids),
        pad_token_id=pad_id,
        use_cache=True,
    )


def answer_batch(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    **options: Any,
) -> list[str]:
    """One answer per prompt, without the end-of-turn token. `options` are passed to `generate`."""
    device = next(model.parameters()).device
    batch = left_padded(prompts, int(config.pad_token_id), device)
    callee, inputs = generation_inputs(model, batch)
    output = callee.generate(**inputs, generation_config=config, **options)
    if "input_ids" in inputs:
        output = output[:, inputs["input_ids"].shape[1] :]
    return answer_texts(tokenizer, output)


def answer_texts(tokenizer: PreTrainedTokenizerBase, ids: Any) -> list[str]:
    """The text of each row of token ids, without special tokens."""
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
