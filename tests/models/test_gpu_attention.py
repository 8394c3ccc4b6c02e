"""Attention on a GPU, seen by what it hands to torch: no GPU is needed for that."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ftlab.models import loading, openmp
from ftlab.models.gpu_attention import Capability, GpuAttention, flash_takes_groups
from ftlab.models.libraries import GPU_SETTINGS, prepare_for_libraries
from ftlab.records.comparability import comparability_of_runs
from ftlab.records.store import RunStore
from tests.fakes import make_run

T4, A100, L4, H100 = (7, 5), (8, 0), (8, 9), (9, 0)
HEADS, KEY_HEADS, WIDTH = 6, 2, 8
MODULE: Any = SimpleNamespace(num_key_value_groups=HEADS // KEY_HEADS, is_causal=True)


def tensors(length: int, keys: int, dtype: torch.dtype, learns: bool = True) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(3, heads, tokens, WIDTH, dtype=dtype, requires_grad=learns)
        for heads, tokens in ((HEADS, length), (KEY_HEADS, keys), (KEY_HEADS, keys))
    ]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Heads of query and key, and the options, of each call of torch's attention."""
    seen: list[dict[str, Any]] = []
    whole = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        seen.append({"heads": query.shape[1], "key_heads": key.shape[1], **options})
        return whole(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    return seen


@pytest.mark.parametrize(
    ("capability", "dtype", "takes"),
    [
        (T4, torch.float16, False),
        (A100, torch.bfloat16, True),
        (A100, torch.float16, True),
        (H100, torch.float32, False),
        (None, torch.bfloat16, False),
        ((13, 0), torch.bfloat16, False),
    ],
)
def test_fewer_key_heads_are_handed_over_only_where_flash_takes_them(
    capability: Capability | None, dtype: torch.dtype, takes: bool, calls: list[dict[str, Any]]
) -> None:
    GpuAttention(capability)(MODULE, *tensors(11, 11, dtype), None)
    (call,) = calls
    assert bool(call.get("enable_gqa")) == takes
    assert call["key_heads"] == (KEY_HEADS if takes else HEADS)
    assert call["is_causal"]


@pytest.mark.parametrize(
    ("capability", "width", "value_width", "learns", "takes"),
    [
        (A100, 256, 256, True, True),
        (A100, 264, 264, True, False),
        (A100, 192, 128, True, False),
        (L4, 224, 224, True, False),
        (L4, 224, 224, False, True),
        (L4, 256, 256, True, True),
        ((12, 0), 200, 200, True, False),
        (H100, 200, 200, True, True),
    ],
)
def test_flash_is_limited_in_the_width_of_a_head(
    capability: Capability, width: int, value_width: int, learns: bool, takes: bool
) -> None:
    assert flash_takes_groups(capability, torch.bfloat16, width, value_width, learns) == takes


def test_under_autocast_the_type_of_the_products_counts(calls: list[dict[str, Any]]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        GpuAttention(A100)(MODULE, *tensors(11, 11, torch.float32), None)
    assert calls[0]["enable_gqa"]


@pytest.mark.parametrize(("length", "keys"), [(11, 11), (1, 11), (1, 1)])
def test_the_output_is_that_of_the_attention_of_transformers(length: int, keys: int) -> None:
    ours, theirs = (tensors(length, keys, torch.float64) for _ in range(2))
    left, _ = GpuAttention(T4)(MODULE, *ours, None, scaling=0.3)
    right, _ = sdpa_attention_forward(MODULE, *theirs, None, scaling=0.3)
    torch.testing.assert_close(left, right)
    left.square().sum().backward()
    right.square().sum().backward()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_for_the_next_token_of_an_answer_no_key_is_copied(calls: list[dict[str, Any]]) -> None:
    GpuAttention(T4)(MODULE, *tensors(1, 500, torch.float16, learns=False), None)
    assert (calls[0]["heads"], calls[0]["key_heads"]) == (KEY_HEADS, KEY_HEADS)
    assert not calls[0].get("is_causal")


def test_under_a_mask_the_attention_of_transformers_is_unchanged(
    calls: list[dict[str, Any]],
) -> None:
    mask = torch.ones(3, 1, 11, 11, dtype=torch.bool).tril()
    ours, _ = GpuAttention(T4)(MODULE, *tensors(11, 11, torch.float32), mask)
    theirs, _ = sdpa_attention_forward(MODULE, *tensors(11, 11, torch.float32), mask)
    assert torch.equal(ours, theirs)
    assert calls[0]["key_heads"] == calls[1]["key_heads"]


@pytest.mark.parametrize("capability", [T4, H100])
def test_a_model_on_a_gpu_takes_it_with_the_capability_of_its_card(
    capability: Capability, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    before = AttentionInterface()["sdpa"]
    try:
        loading.use_kernels(torch.device("cuda", 0))
        registered: Any = AttentionInterface()["sdpa"]
    finally:
        AttentionInterface.register("sdpa", before)
    assert isinstance(registered, GpuAttention)
    assert registered._capability == capability


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_cudnns_attention_is_put_behind_the_others_unless_a_person_wants_it(
    given: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name,) = GPU_SETTINGS
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(openmp, "yield_cores", lambda: None)
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    prepare_for_libraries("cpu")
    assert os.environ[name] == kept
    assert name == "TORCH_CUDNN_SDPA_DEPRIORITIZED"


def test_runs_on_two_equal_cards_are_like_for_like(tmp_path: Path) -> None:
    where = {"device": "NVIDIA L4", "driver": "580.1", "cuda": "13.0"}
    make_run(tmp_path, "lora", environment=where, device="cuda:0")
    make_run(tmp_path, "full", environment=where, device="cuda:3")
    assert comparability_of_runs(RunStore(tmp_path).runs()).is_like
    make_run(tmp_path, "qlora", environment=where | {"driver": "570.2"}, device="cuda:1")
    assert "driver (580.1, 570.2)" in comparability_of_runs(RunStore(tmp_path).runs()).values
