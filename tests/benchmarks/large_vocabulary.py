"""What computing the kept logits in parts saves on a vocabulary of 128k.

Run as: python -m tests.benchmarks.large_vocabulary [--tokens 200]

One forward and backward of a small random Llama with the vocabulary of Llama 3, on 8 completions of
200 tokens each, in a fresh process each: all logits at once, then `LOGITS_AT_ONCE`. Exits with
status 1 unless the parts need half the memory or less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence

from tests.benchmarks.product_rate import product_rate

WAYS = ("whole", "parts")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, default=200, help="of each completion")
    options = parser.parse_args(arguments)
    print(product_rate(), flush=True)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        ways = [(way, options.tokens) for way in WAYS]
        peaks = dict(zip(WAYS, pool.starmap(peak_bytes, ways, chunksize=1), strict=True))
    return 0 if peaks["parts"] <= 0.5 * peaks["whole"] else 1


def peak_bytes(way: str, tokens: int) -> int:
    from ftlab.models.libraries import prepare_for_libraries

    prepare_for_libraries("cpu")
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from ftlab.tasks.formatting import FormattedExample
    from ftlab.training import step as loss_module
    from ftlab.training.meters import CpuMemoryMeter
    from ftlab.training.step import collate

    if way == "whole":
        loss_module.LOGITS_AT_ONCE = sys.maxsize
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            vocab_size=128_256,
            tie_word_embeddings=True,
        )
    )
    example = FormattedExample("", "", tuple(range(1, 33)), tuple(range(40, 40 + tokens)))
    batch = collate([example] * 8, pad_id=0)
    meter = CpuMemoryMeter()
    start = meter.start()
    began = time.perf_counter()
    losses, _ = loss_module.completion_losses(model, batch)
    losses.mean().backward()
    seconds = time.perf_counter() - began
    peak = meter.read().peak
    assert peak is not None
    assert start is not None
    print(
        f"{way}: {len(losses)} tokens, {(peak - start) / 1e6:.0f} MB above the model, "
        f"{seconds:.1f} s, loss {float(losses.mean()):.6f}",
        flush=True,
    )
    return peak - start


if __name__ == "__main__":
    sys.exit(main())
