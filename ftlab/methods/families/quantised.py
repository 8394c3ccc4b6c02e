"""LoRA and DoRA on a quantised base."""

from __future__ import annotations

from dataclasses import replace

from ftlab.methods.families.lora import DORA, LORA
from ftlab.methods.spec import Look, arxiv

QLORA = replace(
    LORA,
    id="qlora",
    label="QLoRA",
    family="quantised",
    summary="LoRA on a base stored in 4-bit NF4 with double quantisation.",
    good_for=(
        "A base that does not fit the device in 16 bits: its layers take about a quarter of the "
        "memory."
    ),
    weak_at=(
        "Small models and speed: 4 bits cost some loss at 135M parameters here, and steps took "
        "longer than LoRA's."
    ),
    paper=arxiv(
        "2305.14314", "Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs"
    ),
    look=Look(colour="#3ba57c", marker="diamond", dash="dash"),
    base_precision="nf4",
    quantises=LORA.id,
    requires=("bitsandbytes",),
)

LORA_INT8 = replace(
    QLORA,
    id="lora_int8",
    label="LoRA on int8",
    short="LoRA int8",
    summary="LoRA on a base stored in 8 bits (LLM.int8).",
    good_for=(
        "A base that is somewhat too large in 16 bits, where 4 bits would cost too much quality."
    ),
    weak_at="The least memory: the base takes twice as much as in 4 bits.",
    paper=arxiv(
        "2208.07339",
        "Dettmers et al. 2022, LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale",
    ),
    look=Look(colour="#789f16", marker="square-cross", dash="dash"),
    base_precision="int8",
)

QDORA = replace(
    DORA,
    id="qdora",
    label="QDoRA",
    family="quantised",
    summary="DoRA on a base stored in 4-bit NF4.",
    good_for="A large base in 4 bits, where QLoRA falls short.",
    weak_at="Speed: it adds DoRA's work in each step to that of 4 bits.",
    look=Look(colour="#11a531", marker="star-diamond", dash="dash"),
    base_precision="nf4",
    quantises=DORA.id,
    requires=("bitsandbytes",),
)

METHODS = (QLORA, LORA_INT8, QDORA)
