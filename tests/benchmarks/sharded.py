"""A run divided over ranks against one process: the losses' largest difference, and how far the
peak of memory falls, measured and predicted.

Run as: python -m tests.benchmarks.sharded [--ranks N ...] [--steps N] [--variants V ...]

Makes a random Llama of 57 M weights (227 MB in fp32), trains it by each method in one process and
divided over gloo ranks on this CPU, each as a real run, and prints both. Freed memory goes back to
the system at once here, as a process would else hold more than its tensors take; and what a process
takes beside them (modules, threads, buffers of oneDNN) is measured by the same run of a tiny model,
and subtracted. Ends with status 1 if a loss differs by more than 1e-5, or what is left of a peak
falls to a share of one process's that is 10 % off the predicted one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.processes import worker_environment
from ftlab.records.result import RANK_PEAKS
from ftlab.records.run import RunDirectory
from tests.benchmarks.product_rate import product_rate
from tests.conftest import write_task
from tests.tiny import make_tiny_model
from tests.training import one_run

CLOSE = 1e-5
CLOSE_PEAK = 0.1
FREED_AT_ONCE = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20),
    "MALLOC_TOP_PAD_": "0",
}  # fmt: skip
VARIANTS = ("full", "lora", "dora", "prompt_tuning")
_TINY_STEPS = 4
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
        tiny = make_tiny_model(folder / "tiny")

        def measured(variant: str, count: int) -> tuple[list[float], Peak]:
            run = done(folder, model, variant, count, options.steps)
            other = done(folder, tiny, variant, count, min(options.steps, _TINY_STEPS))
            peak = Peak(*peaks_of(run), beside(other))
            print(f"{variant} x {count}: {what_it_took(run)}\n  {peak}", flush=True)
            return losses_of(run), peak

        for variant in options.variants:
            alone, whole = measured(variant, 1)
            for count in options.ranks:
                losses, part = measured(variant, count)
                apart = max(abs(a - b) for a, b in zip(alone, losses, strict=True))
                worst = max(worst, apart)
                print(f"  losses of {len(losses)} steps differ by {apart:.1e} at most")
                worst_peak = max(worst_peak, abs(print_fall(whole, part)))
    return 0 if worst <= CLOSE and worst_peak <= CLOSE_PEAK else 1


@dataclass(frozen=True)
class Peak:
    """The net peak of the rank that took most, predicted, and what is no tensor's of it; bytes."""

    measured: int
    predicted: int
    beside: int

    @property
    def tensors(self) -> int:
        return max(self.measured - self.beside, 1)  # a tiny model's may be lost in the noise

    def __str__(self) -> str:
        return (
            f"without the process's own {self.beside / _MB:.0f} MB: {self.tensors / _MB:.0f} MB, "
            f"predicted {self.predicted / _MB:.0f} MB ({self.tensors / self.predicted - 1:+.0%})"
        )


def print_fall(whole: Peak, part: Peak) -> float:
    """Prints to what share of one process's the peak fell, and returns how far off that was."""
    share, expected = part.tensors / whole.tensors, part.predicted / whole.predicted
    off = share / expected - 1
    print(
        f"  the peak fell to {share:.3f} of one process's, predicted {expected:.3f} ({off:+.1%}); "
        f"with the processes' own, to {part.measured / whole.measured:.3f}",
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


def beside(run: RunDirectory) -> int:
    """Bytes that a run of a tiny model took beside its tensors."""
    measured, predicted = peaks_of(run)
    return measured - predicted


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
    """The finished run."""
    settings: dict[str, Any] = {
        "steps": steps, "batch_size": 4, "shard": count, "eval_examples": 1,
        "eval_answers": False, "learning_rate": 1e-4, "checkpoint_every": 0,
    }  # fmt: skip
    spec = one_run.spec_of(model, write_task(folder), variant, **settings)
    name = f"{variant.partition(':')[0]}-{count}-{model.name}"
    run = one_run.queued(spec, folder / name)
    command = [sys.executable, "-m", "ftlab.jobs.run_worker", str(run.path)]
    subprocess.run(command, check=False, env=worker_environment(False) | FREED_AT_ONCE)
    result = run.result()
    assert result is not None
    assert result.status == "done", f"{result.reason}\n{run.log_tail()}"
    return run


def what_it_took(run: RunDirectory) -> str:
    result = run.result()
    assert result is not None
    measures = result.measures
    peaks = result.environment.get(RANK_PEAKS) or [measures.net_peak_memory_bytes]
    shown = ", ".join("unknown" if peak is None else f"{peak / _MB:.0f}" for peak in peaks)
    return f"net peak {shown} MB; {measures.step_seconds or 0:.2f} s a step"


def losses_of(run: RunDirectory) -> list[float]:
    return [event["loss"] for event in run.metrics() if event["event"] == "step"]


if __name__ == "__main__":
    sys.exit(main())
