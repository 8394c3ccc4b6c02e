"""Published measurements as questions: what was run, and what its memory was."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.methods.variant import Variant
from ftlab.models.dimensions import known_model
from ftlab.prediction.adapters import adapter_from
from ftlab.prediction.question import AdapterType, Question, Step, ask_about

DATA = Path(__file__).parent / "data"
MIB = 1 << 20
LONGEST = 695
"""Tokens of the longest batch of PEFT's comparison, which is not published: the fitted number."""

MEAN_LENGTH = 210
"""Tokens of a row in PEFT's comparison: 4,198,051 in 5,000 steps of 4 rows, without padding."""

_STEPS = 5_000

_PEFT_FILES = ("peft_metamathqa_34.csv", "peft_metamathqa_29.csv")
_T4_FILES = ("t4_lora_qlora.csv", "t4_lora_qlora_43.csv")


@dataclass(frozen=True)
class Published:
    """A run of others. Bytes; `allocated` and `step_seconds` are `None` where not published.

    Those that are `chosen` are held against the bars; the rest came after them.
    """

    name: str
    question: Question
    trainable: int
    file_bytes: int | None
    allocated: float | None
    reserved: float
    chosen: bool
    step_seconds: float | None = None


def peft_rows(length: int = LONGEST) -> Iterator[Published]:
    """PEFT's own comparison: Llama 3.2 3B on an L40S, bf16, batch 4, by method."""
    model = known_model("Llama 3.2 3B")
    assert model is not None
    for row, chosen in _rows(_PEFT_FILES):
        config = row["peft_config"]
        variant = adapter_from(json.loads(config)) if config else Variant("full")
        if row["optimizer_type"] == "lora-fa":
            given = json.loads(config)
            values = {"r": given["r"], "alpha": given["lora_alpha"], "targets": "query-value"}
            variant = Variant("lora_fa", values)
        (question,) = ask_about(model.config, [variant], _peft_step(row, length))
        yield Published(
            row["name"],
            question,
            int(row["num_trainable_params"]),
            int(row["file_size"]),
            None,
            float(row["accelerator_memory_max"]),
            chosen,
            float(row["step_time_sum"]) / _STEPS if row["step_time_sum"] else None,
        )


def _peft_step(row: dict[str, str], length: int) -> Step:
    in_fp32 = row["autocast_adapter_dtype"] != "False"
    adapters: AdapterType = "fp32" if in_fp32 else "base"
    return Step(length, batch=4, adapters=adapters, loop="comparison")


def t4_rows() -> Iterator[Published]:
    """LoRA and QLoRA on a Tesla T4, fp16, gradient checkpointing, at known lengths."""
    for row, chosen in _rows(_T4_FILES):
        packing: Any = None
        if row["quantization"] == "nf4":
            packing = "nf4-double" if row["double_quant"] == "True" else "nf4"
        rank = int(row["lora_rank"])
        lora = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank,
                "target_modules": row["lora_targets"].split()}  # fmt: skip
        step = Step(
            int(row["seq_len"]),
            int(row["batch_size"]),
            weights="fp16",
            attention=row["attn_impl"],  # type: ignore[arg-type]
            checkpointing=True,
            packing=packing,
            loop="bare",
        )
        (question,) = ask_about(_config(row), [adapter_from(lora)], step)
        name = " ".join([
            row["model_id"].partition("/")[2], row["attn_impl"], packing or "fp16",
            f"{row['batch_size']} x {row['seq_len']}",
        ])  # fmt: skip
        yield Published(
            name,
            question,
            int(row["trainable_params"]),
            None,
            float(row["peak_allocated_mib"]) * MIB,
            float(row["peak_reserved_mib"]) * MIB,
            chosen,
        )


def _config(row: dict[str, str]) -> dict[str, Any]:
    names = {
        "hidden_size": "hidden_size", "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_attention_heads", "num_key_value_heads": "num_kv_heads",
        "intermediate_size": "intermediate_size", "vocab_size": "vocab_size",
        "head_dim": "head_dim",
    }  # fmt: skip
    kind = "qwen2" if row["model_id"].startswith("Qwen") else "llama"
    sizes: dict[str, Any] = {ours: int(row[theirs]) for ours, theirs in names.items()}
    if kind == "qwen2":
        del sizes["head_dim"]
    tied = row["tie_word_embeddings"] == "True"
    return sizes | {
        "model_type": kind, "tie_word_embeddings": tied, "max_position_embeddings": 32_768
    }  # fmt: skip


def _rows(names: Sequence[str]) -> Iterator[tuple[dict[str, str], bool]]:
    """Rows of all files, and whether they are of the first."""
    for name in names:
        with (DATA / name).open(encoding="utf-8", newline="") as file:
            yield from ((row, name == names[0]) for row in csv.DictReader(file))
