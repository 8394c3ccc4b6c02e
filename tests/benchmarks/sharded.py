"""A run divided over ranks against one process: the losses' largest difference, and how far the
peak of memory falls, measured and predicted.

Run as: python -m tests.benchmarks.sharded [--ranks N ...] [--steps N] [--variants V ...]

Makes a random Llama of 57 M weights (227 MB in fp32), trains it by each method in one process and
divided over gloo ranks on this CPU, each as a real run, and prints both. Freed memory goes back to
the system at once here, as a process would else hold more than its tensors take. Ends with status 1
if a loss differs by more than 1e-5, or a peak falls to a share of one process's that is 10 % off
the predicted one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlab.basics.processes import worker_environment
from ftlab.records.result import RANK_PEAKS
from ftlab.records.run import RunDirectory
from tests.benchmarks.product_rate import product_rate
from tests.conftest import write_task
from tests.training import one_run

CLOSE = 1e-5
CLOSE_PEAK = 0.1
FREED_AT_ONCE = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20),
    "MALLOC_TOP_PAD_": "0",
}  # fmt: skip
VARIANTS = ("full", "lora", "dora", "prompt_tuning")
_MB = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--model", type=Path, help="another model's folder")
    options = parser.parse_args(arguments)
    print(product_rate())
    worst = worst_peak = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or make_model(folder / "model")
        for variant in options.variants:
            one = done(folder, model, variant, 1, options.steps)
            alone = losses_of(one)
            for count in options.ranks:
                run = done(folder, model, variant, count, options.steps)
                losses = losses_of(run)
                apart = max(abs(a - b) for a, b in zip(alone, losses, strict=True))
                worst = max(worst, apart)
                print(f"  losses of {len(losses)} steps differ by {apart:.1e} at most")
                worst_peak = max(worst_peak, abs(print_fall(one, run)))
    return 0 if worst <= CLOSE and worst_peak <= CLOSE_PEAK else 1


def print_fall(one: RunDirectory, run: RunDirectory) -> float:
    """Prints to what share of one process's the peak fell, and returns how far off that was."""
    (whole, predicted_whole), (part, predicted_part) = map(peaks_of, (one, run))
    share, expected = part / whole, predicted_part / predicted_whole
    off = share / expected - 1
    print(
        f"  the peak fell by {(whole - part) / _MB:.0f} MB, predicted "
        f"{(predicted_whole - predicted_part) / _MB:.0f} MB; to {share:.3f} of one process's, "
        f"predicted {expected:.3f} ({off:+.1%})",
        flush=True,
    )
    return off


def peaks_of(run: RunDirectory) -> tuple[int, int]:
    """The net peak in bytes of the rank that took most, measured and predicted."""
    result = run.result()
    assert result is not None
    measured = result.measures.net_peak_memory_bytes
    predicted = result.measures.predicted_net_peak_bytes
    assert measured is not None
    assert predicted is not None
    return measured, predicted


def make_model(folder: Path) -> Path:
    """Eight blocks of 7.1 M weights, with the tokenizer of the tests' tiny model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ftlab.training.probe import byte_tokenizer
    from tests.tiny import CHAT_TEMPLATE

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=12,
        num_key_value_heads=12,
        vocab_size=320,
        eos_token_id=0,
        pad_token_id=0,
        bos_token_id=1,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def done(folder: Path, model: Path, variant: str, count: int, steps: int) -> RunDirectory:
    """The finished run; prints what it took."""
    settings: dict[str, Any] = {
        "steps": steps, "batch_size": 4, "shard": count, "eval_examples": 1,
        "eval_answers": False, "learning_rate": 1e-4, "checkpoint_every": 0,
    }  # fmt: skip
    spec = one_run.spec_of(model, write_task(folder), variant, **settings)
    run = one_run.queued(spec, folder / f"{variant.partition(':')[0]}-{count}")
    command = [sys.executable, "-m", "ftlab.jobs.run_worker", str(run.path)]
    subprocess.run(command, check=False, env=worker_environment(False) | FREED_AT_ONCE)
    result = run.result()
    assert result is not None
    assert result.status == "done", f"{result.reason}\n{run.log_tail()}"
    measures = result.measures
    peaks = result.environment.get(RANK_PEAKS) or [measures.net_peak_memory_bytes]
    shown = ", ".join("unknown" if peak is None else f"{peak / _MB:.0f}" for peak in peaks)
    predicted = measures.predicted_net_peak_bytes
    expected = "" if predicted is None else f", predicted {predicted / _MB:.0f} MB"
    print(
        f"{variant} x {count}: net peak {shown} MB{expected}; "
        f"{measures.step_seconds or 0:.2f} s a step",
        flush=True,
    )
    return run


def losses_of(run: RunDirectory) -> list[float]:
    return [event["loss"] for event in run.metrics() if event["event"] == "step"]


if __name__ == "__main__":
    sys.exit(main())
