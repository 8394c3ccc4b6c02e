"""One fine-tune by TRL's `SFTTrainer` in a process of its own, measured by ftlab's own meters.

Run as: python -m tests.benchmarks.trl_side JOB.json   (made by tests.benchmarks.against_trl)
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, set_seed
from trl import SFTConfig, SFTTrainer

from ftlab.methods.registry import METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.training.meters import CpuMemoryMeter


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    rows = Dataset.from_list(job["rows"])
    meter = CpuMemoryMeter()
    before = meter.start()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(job, tokenizer, rows, scratch)
        trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        began = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - began
    peak = meter.read().peak
    assert peak is not None
    assert before is not None
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_rss_bytes": peak,
                "net_peak_bytes": peak - before,
                "first_loss": losses[0],
                "last_loss": losses[-1],
                "trainable_params": trained,
            }
        )
    )
    return 0


def make_trainer(job: dict[str, Any], tokenizer: Any, rows: Dataset, scratch: str) -> SFTTrainer:
    """A trainer with the model loaded, ready to train."""
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            job["model"], dtype=torch.bfloat16, **quantisation(job["method"])
        ),
        args=arguments(job, scratch),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=peft_config(job),
    )


def arguments(job: dict[str, Any], scratch: str) -> SFTConfig:
    """TRL's own defaults, but for what ftlab's side has otherwise.

    The rows come shuffled, so that their order can begin with ftlab's first batch.
    """
    return SFTConfig(
        output_dir=scratch,
        max_steps=job["steps"],
        per_device_train_batch_size=job["batch_size"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="cosine",
        warmup_steps=job["warmup_steps"],
        gradient_checkpointing=False,
        packing=False,
        bf16=job["autocast"],
        train_sampling_strategy="sequential",
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )


def quantisation(method: str) -> dict[str, Any]:
    if METHODS[method].base_precision is None:
        return {}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    }


def peft_config(job: dict[str, Any]) -> Any:
    """The configuration that ftlab's side builds of the same job; `None` for full fine-tuning."""
    variant = Variant(job["method"])
    build = variant.spec.peft_config
    if build is None:
        return None
    return build(variant.values(), RunPlan(steps=job["steps"], tokenizer=job["model"]))


if __name__ == "__main__":
    sys.exit(main())
