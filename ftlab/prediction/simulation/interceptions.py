"""Makes memory that CUDA kernels allocate internally visible to the allocation log.

A dispatch mode sees the results of an operation, not what its kernel allocates and frees. Two
kernels allocate much, and fake operations omit both. One kernel allocates less than on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ftlab.models.cpu_attention import cpu_attention
from ftlab.models.gpu_attention import GpuAttention
from ftlab.models.loading import one_sequence_a_row
from ftlab.prediction.question import Step
from ftlab.prediction.simulation.shards import gloo_copies
from ftlab.prediction.simulation.work import WorkLog

_PRODUCTS = frozenset({
    torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
})  # fmt: skip
_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)


class CpuAllocationLog(WorkLog):
    """Logs a step on a CPU, with the copies that gloo makes where several processes exchange."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gloo_copies(self, func, args)
        return super().__torch_dispatch__(func, types, args, kwargs)


class CudaAllocationLog(WorkLog):
    """Logs a step on fake CPU tensors with the allocations of CUDA kernels."""

    tensors_a_call = 40  # 30 to 110 a kernel, by the number of lists (MultiTensorApply.cuh)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._softmax_backward_data.default:
            with self:  # `grad * output`, in host_softmax_backward of SoftMax.cu
                product = args[0] * args[1]
            result = super().__torch_dispatch__(func, types, args, kwargs)
            del product
            return result
        if func in _PRODUCTS:
            self.multiplies()
        return super().__torch_dispatch__(func, types, args, kwargs)


class PackedAllocationLog(CudaAllocationLog):
    """The same for a quantised base."""

    def __init__(self) -> None:
        from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

        super().__init__()
        self._gemm, self._by_parts = (
            torch.ops.bitsandbytes.gemm_4bit.default,
            _gemm_4bit_default_impl,
        )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self._gemm:
            with self:  # for many rows the weight is first unpacked to 16 bits
                return self._by_parts(*args, **(kwargs or {}))
        return super().__torch_dispatch__(func, types, args, kwargs)


class _WideSoftmax(torch.autograd.Function):
    """The fp32 softmax of a 16-bit input, without an fp32 copy of the input."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        output = torch.empty_like(scores, dtype=torch.float32)
        ctx.save_for_backward(output)
        ctx.narrow = scores.dtype
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        product = gradients[0] * output  # as in `CudaAllocationLog`
        result = torch.empty_like(output, dtype=ctx.narrow)
        del product
        return result


class HalfSoftmax(TorchFunctionMode):
    """Converts fp16 to fp32 inside the softmax kernel, as on CUDA; bf16 would be copied there.

    `softmax` in aten/src/ATen/native/SoftMax.cpp does this only for fp16 on CUDA. The app's own
    step is simulated with bf16 instead of fp16, so bf16 is converted here too.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _SOFTMAX and kwargs.get("dtype") is torch.float32:
            scores = args[0] if args else kwargs["input"]
            if scores.dtype in (torch.float16, torch.bfloat16):
                return _WideSoftmax.apply(scores)
        return func(*args, **kwargs)


@contextmanager
def kernels_of(step: Step) -> Iterator[WorkLog]:
    """Yields a log, and installs the kernels that the step uses on its device."""
    with ExitStack() as stack:
        stack.enter_context(_attention_of(step))
        stack.enter_context(one_sequence_a_row())
        if step.device == "cuda" and step.weights == "fp16":
            stack.enter_context(HalfSoftmax())
        if step.device == "cpu":
            yield CpuAllocationLog()
        elif step.packing is None:
            yield CudaAllocationLog()
        else:
            stack.enter_context(eight_bits_as_on_cuda())
            yield PackedAllocationLog()


@contextmanager
def _attention_of(step: Step) -> Iterator[None]:
    """Makes models use the attention that a run uses on the step's device.

    The standard loop uses transformers' own attention on a GPU, whatever its cost.
    """
    function: Any = sdpa_attention_forward
    if step.device == "cpu":
        function = cpu_attention
    elif step.is_own:
        function = GpuAttention(step.capability)
    before = AttentionInterface()["sdpa"]
    AttentionInterface.register("sdpa", function)
    try:
        yield
    finally:
        AttentionInterface.register("sdpa", before)


@contextmanager
def eight_bits_as_on_cuda() -> Iterator[None]:
    """Makes int8 layers multiply as on CUDA; on a CPU bitsandbytes trains with other code."""
    import bitsandbytes as bnb
    from bitsandbytes.autograd._functions import MatMul8bitLt, MatmulLtState

    def matmul(
        A: Tensor, B: Tensor, out: Tensor | None = None, state: Any = None,
        threshold: float = 0.0, bias: Tensor | None = None,
    ) -> Any:  # fmt: skip
        return MatMul8bitLt.apply(A, B, out, bias, state or MatmulLtState())

    before = bnb.matmul
    bnb.matmul = matmul
    try:
        yield
    finally:
        bnb.matmul = before
