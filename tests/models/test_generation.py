"""Batched answers, also of prompt methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from ftlab.models.generation import (
    answer_batch,
    answer_texts,
    generation_inputs,
    greedy_config,
    left_padded,
)
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.resolve import resolve_model

CPU = torch.device("cpu")
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [20, 21, 22, 23]]


def base(folder: Path) -> Any:
    return load_base_model(resolve_model(str(folder)), "fp32", None, CPU).eval()


def prompt_tuned(folder: Path) -> Any:
    torch.manual_seed(3)
    return get_peft_model(
        base(folder), PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    ).eval()


def prefix_tuned(folder: Path) -> Any:
    config = PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    model = get_peft_model(base(folder), config).eval()
    torch.manual_seed(3)
    torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight)
    return model


def lora(folder: Path) -> Any:
    torch.manual_seed(3)
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(base(folder), config).eval()


@pytest.mark.parametrize("build", [base, lora, prompt_tuned, prefix_tuned])
def test_an_answer_does_not_depend_on_the_padding_of_its_batch(
    build: Any, tiny_model: Path
) -> None:
    model = build(tiny_model)
    tokenizer = load_tokenizer(resolve_model(str(tiny_model)))
    config = greedy_config(12, [0], 0)
    together = answer_batch(model, tokenizer, PROMPTS, config)
    alone = [answer_batch(model, tokenizer, [prompt], config)[0] for prompt in PROMPTS]
    assert together == alone


def test_an_answer_is_the_likeliest_token_each_time_up_to_the_stop_which_is_not_shown(
    tiny_model: Path,
) -> None:
    model, tokenizer = lora(tiny_model), load_tokenizer(resolve_model(str(tiny_model)))
    ids = list(PROMPTS[1])
    with torch.inference_mode():
        for _ in range(6):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    answer = ids[len(PROMPTS[1]) :]
    config = greedy_config(6, [0], 0)
    assert (
        answer_batch(model, tokenizer, PROMPTS, config)[1]
        == tokenizer.decode(answer, skip_special_tokens=True).strip()
    )
    stopped = tokenizer.batch_decode([[*answer[:2], 0, 0]], skip_special_tokens=True)
    assert answer_texts(tokenizer, [[*answer[:2], 0, 0]]) == [text.strip() for text in stopped]
    assert "<|end|>" not in answer_texts(tokenizer, [[*answer[:2], 0, 0]])[0]


def test_soft_tokens_stand_right_before_the_first_real_token(tiny_model: Path) -> None:
    model = prompt_tuned(tiny_model)
    batch = left_padded(PROMPTS, 0, CPU)
    _, inputs = generation_inputs(model, batch)
    assert inputs["inputs_embeds"].shape[:2] == (3, 7 + 4)
    assert inputs["attention_mask"].sum(1).tolist() == [len(p) + 4 for p in PROMPTS]
    soft = model.get_prompt(batch_size=1)[0]
    torch.testing.assert_close(inputs["inputs_embeds"][0, 4:8], soft)


def test_the_output_layer_never_gets_a_strided_slice(tiny_model: Path) -> None:
    """torch copies the whole output matrix once a row for one, if the matrix is frozen."""
    model = lora(tiny_model)
    seen: list[bool] = []
    head = model.get_base_model().lm_head
    head.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0].is_contiguous()))
    answer_batch(
        model, load_tokenizer(resolve_model(str(tiny_model))), PROMPTS, greedy_config(2, [0], 0)
    )
    assert seen
    assert all(seen)
