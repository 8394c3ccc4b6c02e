"""Attention on a CPU: the same function as torch's, in less time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM, MistralConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ftlab.models import cpu_attention as attention
from ftlab.models.cpu_attention import CausalAttention, cpu_attention, use_cpu_attention
from ftlab.models.loading import load_base_model
from ftlab.models.resolve import resolve_model

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
@pytest.mark.parametrize("is_of_a_projection", [False, True])
def test_output_and_gradients_are_those_of_torchs_attention(
    heads: int, key_heads: int, is_of_a_projection: bool
) -> None:
    """Inputs in the layout of a projection, which is not contiguous, need no copy."""
    given = tensors(torch.float64, heads, key_heads)
    if is_of_a_projection:
        given = [
            t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in given
        ]
    ours, theirs = CausalAttention.apply(*given, SCALE), reference(*given)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn_like(theirs.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(
        torch.autograd.grad(ours, given, gradient), torch.autograd.grad(theirs, given, gradient)
    )


def test_the_gradient_agrees_with_finite_differences() -> None:
    given = tensors(torch.float64, 2, 1, 4)
    assert torch.autograd.gradcheck(lambda q, k, v: CausalAttention.apply(q, k, v, SCALE), given)


@pytest.mark.parametrize(("larger", "roundings"), [(1, 4), (10, 8)])
def test_in_bf16_it_strays_from_fp32_by_a_few_roundings(larger: float, roundings: int) -> None:
    """More of them where scores are large, since scores are rounded too."""
    query, key, value = (t.detach() for t in tensors(torch.bfloat16, length=80))
    query = query * larger
    exact = reference(query.float(), key.float(), value.float())
    ours = CausalAttention.apply(query, key, value, SCALE).float()
    assert (ours - exact).norm() <= roundings * 2**-9 * exact.norm()


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


def attend(
    dtype: torch.dtype = torch.bfloat16,
    mask: Tensor | None = None,
    tokens: int = 11,
    **options: Any,
) -> Any:
    query, key, value = (t.detach() for t in tensors(dtype, 4, 4))
    return cpu_attention(nn.Module(), query[:, :, -tokens:], key, value, mask, **options)[0]


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
        {"tokens": 1},  # the next token after a cache
    ],
)
def test_what_is_not_supported_is_left_to_torch(options: dict[str, Any], calls: list[str]) -> None:
    attend(**options)
    assert calls == ["torch"]


@pytest.fixture
def tiny_mistral(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A random model in bf16 whose layers see four tokens back; it uses torch's attention."""
    monkeypatch.setattr(
        AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping)
    )
    AttentionInterface.register("sdpa", sdpa_attention_forward)
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=97, sliding_window=4, initializer_range=0.3,
        pad_token_id=0,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()


def gradients(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    model(**inputs, use_cache=False).logits.float().logsumexp(-1).mean().backward()
    return [parameter.grad.float().clone() for parameter in model.parameters()]


IDS = torch.arange(1, 37).view(3, 12)
PADDED = {"input_ids": IDS, "attention_mask": (IDS % 12 > 2).long()}


@pytest.mark.parametrize("inputs", [PADDED, {"input_ids": IDS}, {"input_ids": IDS[:, :4]}])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_whole_model_computes_what_it_computes_with_torchs_attention(
    tiny_mistral: Any, inputs: dict[str, Tensor], checkpointing: bool
) -> None:
    """Under a mask, beyond the sliding window, and within it, where ours is used."""
    if checkpointing:
        tiny_mistral.train().gradient_checkpointing_enable({"use_reentrant": False})
    theirs = gradients(tiny_mistral, inputs)
    use_cpu_attention()
    for ours, reference_gradient in zip(gradients(tiny_mistral, inputs), theirs, strict=True):
        assert (ours - reference_gradient).norm() <= 0.05 * reference_gradient.norm()


def test_answers_with_a_cache_are_those_of_torchs_attention(tiny_mistral: Any) -> None:
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    theirs = tiny_mistral.generate(**PADDED, **options)
    use_cpu_attention()
    assert torch.equal(tiny_mistral.generate(**PADDED, **options), theirs)


def test_models_that_are_loaded_on_a_cpu_use_it(
    tiny_model: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        AttentionInterface, "_global_mapping", dict(AttentionInterface._global_mapping)
    )
    model = load_base_model(resolve_model(str(tiny_model)), "bf16", None, torch.device("cpu"))
    model(input_ids=IDS)
    assert calls == ["ours", "ours"]
    assert model.config._attn_implementation == "sdpa"
