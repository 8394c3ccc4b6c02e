"""LoRA, and LoRA on a base held in 4 bits (QLoRA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ftlab.methods.spec import Hyperparameter, Look, MethodSpec, Paper, Value

if TYPE_CHECKING:
    from peft import PeftConfig

_ATTENTION_AND_MLP = "all-linear"
_ATTENTION = "attention"
_QUERY_VALUE = "query-value"
TARGETS: dict[str, str | list[str]] = {
    _ATTENTION_AND_MLP: "all-linear",
    _ATTENTION: ["q_proj", "k_proj", "v_proj", "o_proj"],
    _QUERY_VALUE: ["q_proj", "v_proj"],
}


def _lora_config(values: Mapping[str, Value]) -> PeftConfig:
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=int(values["r"]),
        lora_alpha=int(values["alpha"]),
        lora_dropout=float(values["dropout"]),
        target_modules=TARGETS[str(values["targets"])],
    )


LORA = MethodSpec(
    id="lora",
    label="LoRA",
    short_label="LoRA",
    family="low rank",
    summary="Adds a product B·A of rank r beside each frozen linear layer, and trains only that.",
    paper=Paper(
        "Hu et al. 2021, LoRA: Low-Rank Adaptation of Large Language Models",
        "https://arxiv.org/abs/2106.09685",
    ),
    look=Look(colour="#2777e0", marker="circle", dash="solid"),
    learning_rate=2e-3,
    hyperparameters=(
        Hyperparameter(
            "r", "Rank r", "int", 8, "Width of B and A: parameters and file grow with it.", 1, 512
        ),
        Hyperparameter("alpha", "Alpha", "int", 16, "The overlay is scaled by alpha / r.", 1, 1024),
        Hyperparameter(
            "dropout",
            "Dropout",
            "float",
            0.0,
            "Share of inputs to B·A dropped in training.",
            0,
            0.9,
        ),
        Hyperparameter(
            "targets",
            "Layers",
            "choice",
            _ATTENTION_AND_MLP,
            "Which linear layers get an overlay: all, attention's four, or query and value only.",
            choices=tuple(TARGETS),
        ),
    ),
    peft_config=_lora_config,
)

QLORA = replace(
    LORA,
    id="qlora",
    label="QLoRA",
    short_label="QLoRA",
    summary="LoRA on a base stored in 4-bit NF4 with double quantisation.",
    paper=Paper(
        "Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs",
        "https://arxiv.org/abs/2305.14314",
    ),
    look=Look(colour="#3ba57c", marker="diamond", dash="dash"),
    base_precision="nf4",
)
