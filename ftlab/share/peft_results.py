"""Writes a run as one result of huggingface/peft's `method_comparison`, which `import` reads.

The names and units are those of its own scripts (`MetaMathQA/run.py` and `utils.py`). What was not
measured here is `None`, so that nobody takes it for a measurement.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import read_plain
from ftlab.methods.by_hand import CONFIG, PEFT
from ftlab.models.reference import model_label
from ftlab.records.result import RunResult
from ftlab.records.spec import RunSpec
from ftlab.records.store import Run
from ftlab.settings.training import EVALUATION_BATCH
from ftlab.tasks.registry import TASKS
from ftlab.tasks.spec import MAX_NEW_TOKENS

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")
_LARGEST_CONFIG = 1_000_000


def peft_result(run: Run) -> dict[str, Any]:
    """The finished run as their result file has it; raises `FtlabError` if it is not done."""
    if run.result is None or run.status != "done":
        raise FtlabError(f"{run.run_id} is not done, so there is no result to write.")
    return {
        "run_info": _run_info(run, run.result),
        "train_info": _train_info(run, run.result),
        "meta_info": _meta_info(run, run.result),
    }


def _run_info(run: Run, result: RunResult) -> dict[str, Any]:
    spec, settings = run.spec, run.spec.settings
    made = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(spec.created_at))
    bundled = spec.task.kind == "bundled"
    config = _peft_config(run)
    kind = str(config["peft_type"]).lower() if config else "full-finetuning"
    return {
        "created_at": made,
        "total_time": result.measures.total_seconds,
        "experiment_name": f"{kind}/{model_label(spec.model)}-{spec.label}",
        "peft_branch": "",
        "train_config": {
            "model_id": model_label(spec.model),
            "dtype": _DTYPES.get(spec.dtype_policy, spec.dtype_policy),
            "max_seq_length": settings.max_length,
            "batch_size": settings.batch_size,
            "batch_size_eval": EVALUATION_BATCH,
            "max_steps": settings.steps,
            "eval_steps": settings.eval_every or None,
            "compile": False,
            "use_gc": settings.gradient_checkpointing,
            "seed": spec.seed,
            "grad_norm_clip": settings.max_grad_norm,
            "optimizer_type": "AdamW" if settings.optimizer == "adamw" else settings.optimizer,
            "optimizer_kwargs": {"lr": spec.learning_rate, "weight_decay": settings.weight_decay},
            "lr_scheduler": settings.schedule,
            "use_amp": False,
            "autocast_adapter_dtype": result.measures.adapter_dtype == "fp32",
            "generation_kwargs": {
                "max_new_tokens": TASKS[spec.task.id].max_new_tokens if bundled else MAX_NEW_TOKENS
            },
            "attn_implementation": result.environment.get("attention"),
        },
        "peft_config": config,
        "error_msg": "",
    }


def _peft_config(run: Run) -> dict[str, Any] | None:
    """The configuration that was saved with the adapter, else the given one; `None`: no adapter."""
    variant = run.spec.variant
    if variant is None or not variant.spec.is_adapter:
        return None
    try:
        data = read_plain(run.directory.adapter / "adapter_config.json", _LARGEST_CONFIG)
        saved: dict[str, Any] = json.loads(data)
        # PEFT keeps the folder of the base, which is a path of this machine.
        return saved | {"base_model_name_or_path": model_label(run.spec.model)}
    except (OSError, ValueError, FtlabError):  # the adapter was deleted to save space
        given: dict[str, Any] = (
            json.loads(str(variant.values()[CONFIG]))
            if variant.method == PEFT.id
            else {"peft_type": _type_of(run.spec)} | dict(variant.values())
        )
        return given


def _type_of(spec: RunSpec) -> str:
    traits = spec.variant.spec.peft_traits if spec.variant else None
    return traits.type if traits else spec.method.upper()


def _train_info(run: Run, result: RunResult) -> dict[str, Any]:
    found, settings = result.measures, run.spec.settings
    samples = settings.steps * settings.batch_size * settings.accumulation
    return {
        "accelerator_memory_reserved_avg": None,
        "accelerator_memory_max": found.net_peak_memory_bytes,
        "accelerator_memory_reserved_99th": None,
        "train_time": found.train_seconds,
        "file_size": found.adapter_bytes,
        "num_trainable_params": found.trainable_params,
        "num_total_params": found.total_params,
        "status": "success",
        "metrics": [
            {
                "step": settings.steps,
                "test accuracy": found.score_after,
                "train loss": found.train_loss_last,
                "train samples": samples,
                "train total tokens": found.train_tokens,
                "forgetting": found.general_loss_change,
            }
        ],
    }


def _meta_info(run: Run, result: RunResult) -> dict[str, Any]:
    environment = result.environment
    packages: Mapping[str, str] = environment.get("packages", {})
    return {
        "model_info": {"sha": environment.get("model_hash"), "created_at": None},
        "dataset_info": {
            run.spec.task.label: {"sha": environment.get("data_hash"), "created_at": None}
        },
        "package_info": {f"{name}-version": packages.get(name) for name in _PACKAGES},
        "system_info": {
            "system": environment.get("platform"),
            "accelerator": environment.get("device"),
        },
    }
