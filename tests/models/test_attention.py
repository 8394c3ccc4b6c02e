"""Attention on a CPU: the same function as torch's, in less time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, Gemma2Config

from ftlab.models import attention
from ftlab.models.attention import CausalAttention, cpu_attention, use_cpu_attention

SCALE = 0.3


def tensors(
    dtype: torch.dtype, heads: int = 6, key_heads: int = 2, length: int = 11
) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(3, count, length, 8, dtype=dtype, requires_grad=True)
        for count in (heads, key_heads, key_heads)
    ]


def reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=SCALE, enable_gqa=True
    )


@pytest.fixture(params=[1 << 18, 300, 1])
def scores_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All key heads together, a few, and one after another."""
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", request.param)


@pytest.mark.usefixtures("scores_at_once")
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (4, 4), (5, 1)])
def test_output_and_gradients_are_those_of_torchs_attention(heads: int, key_heads: int) -> None:
    given = tensors(torch.float64, heads, key_heads)
    ours, theirs = CausalAttention.apply(*given, SCALE), reference(*given)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn_like(theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, given, gradient), torch.autograd.grad(theirs, given, gradient)
    )


def test_the_gradient_agrees_with_finite_differences() -> None:
    given = tensors(torch.float64, 2, 1, 4)
    assert torch.autograd.gradcheck(lambda q, k, v: CausalAttention.apply(q, k, v, SCALE), given)


def test_inputs_in_the_layout_of_a_projection_need_no_copy_by_the_caller() -> None:
    query, key, value = (t.detach().transpose(1, 2) for t in tensors(torch.float64, 4, 4))
    torch.testing.assert_close(
        CausalAttention.apply(query, key, value, SCALE), reference(query, key, value)
    )


def test_in_bf16_it_strays_from_fp32_by_a_few_roundings() -> None:
    given = tensors(torch.bfloat16, length=80)
    exact = reference(*(t.float() for t in given))
    ours = CausalAttention.apply(*given, SCALE).float()
    assert (ours - exact).norm() <= 2**-6 * exact.norm()  # bf16 rounds to 2**-9


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the two attentions was asked."""
    asked: list[str] = []
    theirs, ours = attention.sdpa_attention_forward, CausalAttention.apply

    def torchs(*given: Any, **options: Any) -> Any:
        asked.append("torch")
        return theirs(*given, **options)

    def own(*given: Any) -> Any:
        asked.append("ours")
        return ours(*given)

    monkeypatch.setattr(attention, "sdpa_attention_forward", torchs)
    monkeypatch.setattr(attention.CausalAttention, "apply", own)
    return asked


def attend(dtype: torch.dtype = torch.bfloat16, mask: Tensor | None = None, **options: Any) -> Any:
    given = [t.detach() for t in tensors(dtype, 4, 4)]
    return cpu_attention(nn.Module(), *given, mask, **options)[0]


def test_whole_causal_sequences_in_bf16_are_computed_here(calls: list[str]) -> None:
    output = attend()
    assert calls == ["ours"]
    assert output.shape == (3, 11, 4, 8)
    assert output.is_contiguous()


def test_fp32_tensors_under_bf16_autocast_are_computed_here_in_bf16(calls: list[str]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = attend(torch.float32)
    assert calls == ["ours"]
    assert output.dtype is torch.bfloat16


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.float32},
        {"mask": torch.ones(3, 1, 11, 11, dtype=torch.bool).tril()},
        {"dropout": 0.1},
        {"is_causal": False},
    ],
)
def test_what_is_not_supported_is_left_to_torch(options: dict[str, Any], calls: list[str]) -> None:
    attend(**options)
    assert calls == ["torch"]


def test_one_new_token_after_a_cache_is_left_to_torch(calls: list[str]) -> None:
    query, key, value = (t.detach() for t in tensors(torch.bfloat16, 4, 4))
    cpu_attention(nn.Module(), query[:, :, -1:], key, value, None)
    assert calls == ["torch"]


def test_a_model_uses_it_without_its_file_saying_so(tiny_model: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    use_cpu_attention(model)
    assert model.config._attn_implementation == attention.NAME
    model.save_pretrained(tmp_path)
    assert attention.NAME not in (tmp_path / "config.json").read_text()
    assert AutoConfig.from_pretrained(tmp_path)._attn_implementation != attention.NAME


def test_a_model_that_does_not_use_torchs_attention_keeps_its_own() -> None:
    config = Gemma2Config(
        hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, vocab_size=64, attn_implementation="eager",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    use_cpu_attention(model)
    assert model.config._attn_implementation == "eager"
