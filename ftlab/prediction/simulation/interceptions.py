"""What CUDA's kernels take within themselves, made visible to the log.

A dispatch mode sees what an operation returns, not what its kernel takes and gives back. Two take
much, and fake operations leave both out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState
from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl
from torch import Tensor
from transformers import masking_utils

from ftlab.models.attention import attention_of
from ftlab.prediction.question import DeviceKind
from ftlab.prediction.simulation.allocations import AllocationLog


class CudaAllocationLog(AllocationLog):
    """Records a step on fake CPU tensors as its kernels on CUDA would take memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.bitsandbytes.gemm_4bit.default:
            with self:  # for many rows the weight is first unpacked, into 16 bits
                return _gemm_4bit_default_impl(*args, **(kwargs or {}))
        if func is torch.ops.aten._softmax_backward_data.default:
            with self:  # `grad * output`, in host_softmax_backward of SoftMax.cu
                product = args[0] * args[1]
            result = super().__torch_dispatch__(func, types, args, kwargs)
            del product
            return result
        return super().__torch_dispatch__(func, types, args, kwargs)


@contextmanager
def kernels_of(device: DeviceKind) -> Iterator[AllocationLog]:
    """A log, with the kernels in place that a run on that kind of device takes."""
    with attention_of(device), _one_sequence_a_row():
        if device == "cpu":
            yield AllocationLog()
        else:
            with eight_bits_as_on_cuda():
                yield CudaAllocationLog()


@contextmanager
def _one_sequence_a_row() -> Iterator[None]:
    """Answers what transformers asks of the values of positions: that no row is packed.

    It cannot read those of fake tensors, and then builds a mask that a real step has not.
    """
    before = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = before


@contextmanager
def eight_bits_as_on_cuda() -> Iterator[None]:
    """Has int8 layers multiply as on CUDA; on a CPU bitsandbytes takes another way in training."""

    def matmul(
        A: Tensor, B: Tensor, out: Tensor | None = None, state: MatmulLtState | None = None,
        threshold: float = 0.0, bias: Tensor | None = None,
    ) -> Any:  # fmt: skip
        return MatMul8bitLt.apply(A, B, out, bias, state or MatmulLtState())

    before = bnb.matmul
    bnb.matmul = matmul
    try:
        yield
    finally:
        bnb.matmul = before
