"""Forward and backward of one layer's attention on a CPU: torch's flash kernel and ours.

Run as: python -m tests.benchmarks.attention [--batch 8] [--lengths 72,160,256,512] [--seconds 2]

The heads are SmolLM2-135M's (9, on 3 key heads of width 64), in bf16. Prints milliseconds (the
median) and how far outputs and gradients are from fp32's. Exits with status 1 where ours is slower.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ftlab.models.cpu_attention import CausalAttention
from ftlab.models.libraries import prepare_for_libraries
from tests.benchmarks.product_rate import product_rate

HEADS, KEY_HEADS, WIDTH = 9, 3, 64
SCALE = WIDTH**-0.5

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    output: Tensor = CausalAttention.apply(query, key, value, SCALE)
    return output


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lengths", default="72,160,256,512")
    parser.add_argument("--seconds", type=float, default=2.0, help="for which each is repeated")
    options = parser.parse_args(arguments)
    print(product_rate(), flush=True)
    slower = False
    for length in map(int, options.lengths.split(",")):
        torch.manual_seed(0)
        given = [
            torch.randn(options.batch, heads, length, WIDTH)
            for heads in (HEADS, KEY_HEADS, KEY_HEADS)
        ]
        exact = results(flash, given, torch.float32)
        took = {}
        for name, attention in (("flash", flash), ("ours", ours)):
            took[name] = milliseconds(attention, given, options.seconds)
            error = max(
                float((a.float() - b).norm() / b.norm())
                for a, b in zip(results(attention, given, torch.bfloat16), exact, strict=True)
            )
            print(f"{length:5} tokens  {name:5}  {took[name]:7.2f} ms  off fp32 by {error:.2%}")
        slower = slower or took["ours"] > took["flash"]
    return int(slower)


def results(attention: Attention, given: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The output and the gradients of query, key and value."""
    inputs = [tensor.bfloat16().to(dtype).requires_grad_() for tensor in given]
    output = attention(*inputs)
    gradients = torch.autograd.grad(output, inputs, given[0].to(dtype))
    return [output.detach(), *gradients]


def milliseconds(attention: Attention, given: Sequence[Tensor], within: float) -> float:
    """The median of what fits into so many seconds."""
    seconds: list[float] = []
    results(attention, given, torch.bfloat16)
    while sum(seconds) < within:
        began = time.perf_counter()
        results(attention, given, torch.bfloat16)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1000


if __name__ == "__main__":
    prepare_for_libraries("cpu")
    sys.exit(main())
