"""Lanes: rows that are read token by token give the logits of one whole forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ftlab.basics.errors import FtlabError
from ftlab.playground.decoding import Lane
from ftlab.playground.engine import Engine
from tests.playground.asking import attached
from tests.playground.conftest import AddAdapter, NewEngine
from tests.playground.kinds import first_logits, load_plain

PROMPTS = ([1, 40, 50], [1, 90, 80, 70, 60, 50, 40], [1, 33, 44, 55, 66])
THEN = ([70, 71], [80, 81], [90, 91])


def assert_is_forward_of(logits: Tensor, model: Any, rows: Sequence[list[int]]) -> None:
    """Every row's logits are those of one whole forward over the row alone."""
    assert logits.dtype is torch.float32
    assert logits.shape[0] == len(rows)
    for row, ids in zip(logits, rows, strict=True):
        torch.testing.assert_close(row, first_logits(model, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kind", ["base", "lora", "dora", "ia3", "prompt_tuning", "p_tuning", "prefix_tuning", "cpt"]
)
def test_padded_rows_give_the_logits_of_each_row_alone(
    kind: str, engine: Engine, add_adapter: AddAdapter, tiny_model: Path
) -> None:
    adapter = None if kind == "base" else add_adapter(kind, noise=0.5).folder
    model = load_plain(tiny_model, adapter)
    lane = Lane(model, PROMPTS, 0)
    with torch.inference_mode():
        assert_is_forward_of(lane.prefill(), model, PROMPTS)
        rows = [list(prompt) for prompt in PROMPTS]
        for step in range(2):
            tokens = [then[step] for then in THEN]
            rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
            assert_is_forward_of(lane.step(tokens), model, rows)


@pytest.mark.parametrize("kind", ["base", "prompt_tuning", "prefix_tuning"])
@pytest.mark.parametrize("kept", [[1], [0, 2], [2, 1], [0, 1, 2]])
def test_kept_rows_do_not_depend_on_dropped_rows(
    kept: list[int], kind: str, engine: Engine, add_adapter: AddAdapter, tiny_model: Path
) -> None:
    """Dropping the short rows takes the padding away, and the mask with it."""
    adapter = None if kind == "base" else add_adapter(kind, noise=0.5).folder
    model = load_plain(tiny_model, adapter)
    lane = Lane(model, PROMPTS, 0)
    with torch.inference_mode():
        lane.prefill()
        lane.keep(kept)
        for step in (1, 2):
            logits = lane.step([THEN[row][step - 1] for row in kept])
            rows = [[*PROMPTS[row], *THEN[row][:step]] for row in kept]
            assert_is_forward_of(logits, model, rows)


def test_a_bf16_lane_gives_fp32_logits(new_engine: NewEngine) -> None:
    lane = Lane(new_engine("bf16").base, PROMPTS, 0)
    with torch.inference_mode():
        assert lane.prefill().dtype is torch.float32
        assert lane.step([5, 6, 7]).shape == (3, 320)


def test_sliding_window_attention_works_token_by_token(tmp_path: Path, one_thread: None) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=4, initializer_range=0.3,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    lane = Lane(model, PROMPTS, 0)
    with torch.inference_mode():
        assert_is_forward_of(lane.prefill(), model, PROMPTS)
        rows = [[*prompt, then[0]] for prompt, then in zip(PROMPTS, THEN, strict=True)]
        assert_is_forward_of(lane.step([then[0] for then in THEN]), model, rows)


def test_soft_tokens_are_placed_before_each_rows_first_token(
    engine: Engine, add_adapter: AddAdapter
) -> None:
    """Five soft tokens before a prompt of three, and the padding before those."""
    model = attached(engine, add_adapter("prompt_tuning").name).model
    assert model is not None
    lane = Lane(model, PROMPTS, 0)
    with torch.inference_mode():
        lane.prefill()
    assert lane.rows.mask.sum(dim=1).tolist() == [8, 12, 10]
    assert lane.rows.mask[0].tolist() == [0] * 4 + [1] * 8


def test_a_model_without_a_cache_is_refused(one_thread: None) -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(vocab_size=320, n_embd=64, n_layer=1, n_head=2)
    with pytest.raises(FtlabError, match="keeps no cache"):
        Lane(OpenAIGPTLMHeadModel(config), PROMPTS, 0).prefill()
