"""Checks on a machine with a GPU: every method runs on CUDA, is measured, and gives memory back.

Run as: python -m tests.gpu.check [--json FILE]

Needs torch with CUDA, transformers, peft and bitsandbytes; no network and no real weights: a random
Llama of SmolLM2-135M's shape stands in, since memory and speed do not depend on the values.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.runs.directory import RunDirectory
from ftlab.runs.spec import SweepRequest, TrainingSettings
from ftlab.runs.sweep import plan_sweep
from ftlab.tasks.reference import parse_task
from tests.conftest import make_tiny_model


def make_random_model(folder: Path) -> Path:
    """A random Llama of the bundled model's shape, with the tests' byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    make_tiny_model(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, eos_token_id=0,
        pad_token_id=0, bos_token_id=1, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def check(method: str, policy: Any, model: Path, folder: Path) -> dict[str, Any]:
    """One run in this process; returns its measures and what was left on the card afterwards."""
    import torch

    from ftlab.training.run import RunRecord, execute

    request = SweepRequest(
        model=str(model),
        task=parse_task("sql"),
        variants=(Variant(method),),
        settings=TrainingSettings(steps=10, batch_size=8, eval_examples=16, max_length=512),
        dtype_policy=policy,
        device="cuda:0",
    )
    spec = plan_sweep(request)[-1]
    directory = RunDirectory(folder / f"{policy}-{method}")
    directory.write_spec(spec)
    record = RunRecord()
    execute(spec, directory, record, lambda event: None)
    result = record.result("done")
    directory.write_result(result)
    torch.cuda.empty_cache()
    return {
        "method": method,
        "policy": policy,
        "kind": result.memory_kind,
        "peak_allocated": result.phases["train"].peak_bytes,
        "peak_reserved": result.phases["train"].reserved_bytes,
        "process": result.phases["train"].process_bytes,
        "seconds_per_step": result.measures.step_seconds,
        "left_allocated": torch.cuda.memory_allocated(),
    }


def main() -> int:
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU is usable by torch here", file=sys.stderr)
        return 2
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        model = make_random_model(Path(scratch) / "model")
        for policy in ("bf16", "mixed"):
            for method in METHODS:
                try:
                    row = check(method, policy, model, Path(scratch))
                except FtlabError as error:  # a method that this model or machine cannot have
                    row = {"method": method, "policy": policy, "reason": str(error)}
                print(json.dumps(row), flush=True)
                rows.append(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    peaks = {row["method"]: row.get("peak_allocated") for row in rows if row["policy"] == "bf16"}
    return 0 if peaks["lora"] < peaks["full"] else 1


if __name__ == "__main__":
    sys.exit(main())
