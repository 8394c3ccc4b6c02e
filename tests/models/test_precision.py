"""Which dtype weights and products get, also on a GPU without bf16; the GPU is a stand-in."""

from __future__ import annotations

import pytest
import torch

from ftlab.models.loading import compute_dtype, weight_dtype
from ftlab.training.step import Arithmetic

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4: torch says that it can do bf16 only if emulation counts."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )


@pytest.fixture
def with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


def test_the_cpu_computes_in_bf16_but_for_fp32() -> None:
    assert compute_dtype("bf16", CPU) is torch.bfloat16
    assert compute_dtype("mixed", CPU) is torch.bfloat16
    assert compute_dtype("fp32", CPU) is torch.float32
    assert weight_dtype("bf16", CPU, weights_learn=True) is torch.bfloat16
    assert weight_dtype("mixed", CPU, weights_learn=True) is torch.float32


@pytest.mark.usefixtures("with_bf16")
def test_a_gpu_with_bf16_needs_no_gradient_scaler() -> None:
    assert compute_dtype("bf16", CUDA) is torch.bfloat16
    assert not Arithmetic("mixed", CUDA).needs_grad_scaler


@pytest.mark.usefixtures("without_bf16")
def test_a_gpu_without_bf16_computes_in_fp16_and_trains_no_fp16_weight() -> None:
    assert compute_dtype("bf16", CUDA) is torch.float16
    assert Arithmetic("bf16", CUDA).needs_grad_scaler
    assert weight_dtype("bf16", CUDA, weights_learn=False) is torch.float16
    assert weight_dtype("bf16", CUDA, weights_learn=True) is torch.float32
    assert not Arithmetic("fp32", CUDA).needs_grad_scaler
