"""LoRA and its kin: a product B·A of low rank beside each frozen linear layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftlab.methods import counts, limits
from ftlab.methods.spec import Hyperparameter, Look, MethodSpec, Paper, RunPlan, Values
from ftlab.methods.targets import LAYERS, needs_layers, target_modules

if TYPE_CHECKING:
    from peft import PeftConfig

RANK = Hyperparameter(
    "r", "Rank r", "int", 8, "Width of B and A: parameters and file grow with it.", 1, 512
)
ALPHA = Hyperparameter("alpha", "Alpha", "int", 16, "The overlay is scaled by alpha / r.", 1, 1024)
DROPOUT = Hyperparameter(
    "dropout", "Dropout", "float", 0.0, "Share of inputs to B·A dropped in training.", 0, 0.9
)


def lora_config(**options: Any) -> Callable[[Values, RunPlan], PeftConfig]:
    """A maker of LoRA configurations with these options of PEFT's `LoraConfig` set."""

    def make(values: Values, plan: RunPlan) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(
            task_type="CAUSAL_LM",
            r=int(values["r"]),
            lora_alpha=int(values["alpha"]),
            lora_dropout=float(values["dropout"]),
            target_modules=target_modules(values),
            **options,
        )

    return make


def _adalora_config(values: Values, plan: RunPlan) -> PeftConfig:
    """The budget falls from `init_r` to `r` in the middle of the run.

    Zhang et al. 2023, section 3.3: constant for a first part, cubic in between, and constant in
    the last part, a tenth, six and three tenths of the steps here.
    """
    from peft import AdaLoraConfig

    warm, final = plan.steps // 10, 3 * plan.steps // 10
    return AdaLoraConfig(
        task_type="CAUSAL_LM",
        target_r=int(values["r"]),
        init_r=max(int(values["init_r"]), int(values["r"])),
        tinit=warm,
        tfinal=final,
        deltaT=1,
        total_step=plan.steps,
        lora_alpha=int(values["alpha"]),
        lora_dropout=float(values["dropout"]),
        orth_reg_weight=float(values["orthogonality"]),
        target_modules=target_modules(values),
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
    hyperparameters=(RANK, ALPHA, DROPOUT, LAYERS),
    peft_config=lora_config(),
    applies=needs_layers,
    limit=limits.RANK_BY_LAYER,
    reaches_experts=True,
    count=counts.lora,
    size="r",
    in_proportion=("alpha",),
)

RSLORA = replace(
    LORA,
    id="rslora",
    label="rsLoRA",
    short_label="rsLoRA",
    summary="LoRA scaled by alpha / √r, so that a higher rank does not learn more slowly.",
    paper=Paper(
        "Kalajdzievski 2023, A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA",
        "https://arxiv.org/abs/2312.03732",
    ),
    look=Look(colour="#5d69ad", marker="circle-open", dash="dash"),
    learning_rate=1e-3,
    peft_config=lora_config(use_rslora=True),
    in_proportion=(),
)

DORA = replace(
    LORA,
    id="dora",
    label="DoRA",
    short_label="DoRA",
    summary="LoRA for a weight's direction, and a length of its own for each of its rows.",
    paper=Paper(
        "Liu et al. 2024, DoRA: Weight-Decomposed Low-Rank Adaptation",
        "https://arxiv.org/abs/2402.09353",
    ),
    look=Look(colour="#6c6ff3", marker="star", dash="solid"),
    peft_config=lora_config(use_dora=True),
    reaches_experts=False,
    count=counts.dora,
)

PISSA = replace(
    LORA,
    id="pissa",
    label="PiSSA",
    short_label="PiSSA",
    summary="LoRA that starts from each weight's largest singular directions instead of zero.",
    paper=Paper(
        "Meng et al. 2024, PiSSA: Principal Singular Values and Singular Vectors Adaptation",
        "https://arxiv.org/abs/2404.02948",
    ),
    look=Look(colour="#279abe", marker="pentagon", dash="dot"),
    learning_rate=3.3e-4,
    hyperparameters=(RANK, replace(ALPHA, default=8), DROPOUT, LAYERS),
    peft_config=lora_config(init_lora_weights="pissa_niter_16"),
    reaches_experts=False,
)

LORA_PLUS = replace(
    LORA,
    id="lora_plus",
    label="LoRA+",
    short_label="LoRA+",
    summary="LoRA whose B learns faster than its A.",
    paper=Paper(
        "Hayou et al. 2024, LoRA+: Efficient Low Rank Adaptation of Large Models",
        "https://arxiv.org/abs/2402.12354",
    ),
    look=Look(colour="#306c98", marker="cross", dash="dash"),
    learning_rate=5e-4,
    hyperparameters=(
        *LORA.hyperparameters,
        Hyperparameter(
            "ratio", "B over A", "float", 8.0, "B's learning rate is so many times A's.", 1, 64
        ),
    ),
    optimizer="lora_plus",
)

LORA_FA = replace(
    LORA,
    id="lora_fa",
    label="LoRA-FA",
    short_label="LoRA-FA",
    summary="LoRA whose A stays as it was drawn; only B learns.",
    paper=Paper(
        "Zhang et al. 2023, LoRA-FA: Memory-efficient Low-rank Adaptation for Large Language "
        "Models Fine-tuning",
        "https://arxiv.org/abs/2308.03303",
    ),
    look=Look(colour="#6944ea", marker="triangle-up-open", dash="dot"),
    hyperparameters=(RANK, ALPHA, LAYERS),
    peft_config=lambda values, plan: lora_config()({**values, "dropout": 0.0}, plan),
    optimizer="lora_fa",
    reaches_experts=False,
    count=counts.lora_fa,
)

ADALORA = replace(
    LORA,
    id="adalora",
    label="AdaLoRA",
    short_label="AdaLoRA",
    summary="LoRA that hands its ranks to the layers that need them while it trains.",
    paper=Paper(
        "Zhang et al. 2023, Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
        "https://arxiv.org/abs/2303.10512",
    ),
    look=Look(colour="#3b96de", marker="hexagon", dash="dashdot"),
    learning_rate=1.5e-2,
    hyperparameters=(
        replace(RANK, help="Mean rank of a layer at the end."),
        Hyperparameter("init_r", "First rank", "int", 12, "Rank of every layer at first.", 1, 512),
        replace(ALPHA, default=16),
        DROPOUT,
        Hyperparameter(
            "orthogonality", "Orthogonality", "float", 0.1,
            "Weight of the term that keeps the directions apart.", 0, 10,
        ),
        LAYERS,
    ),
    peft_config=_adalora_config,
    limit=limits.RANKS_OF_ADALORA,
    reaches_experts=False,
    count=counts.adalora,
    size="init_r",
    in_proportion=("r", "alpha"),
)  # fmt: skip

QLORA = replace(
    LORA,
    id="qlora",
    label="QLoRA",
    short_label="QLoRA",
    family="quantised",
    summary="LoRA on a base stored in 4-bit NF4 with double quantisation.",
    paper=Paper(
        "Dettmers et al. 2023, QLoRA: Efficient Finetuning of Quantized LLMs",
        "https://arxiv.org/abs/2305.14314",
    ),
    look=Look(colour="#3ba57c", marker="diamond", dash="dash"),
    base_precision="nf4",
    requires=("bitsandbytes",),
)

LORA_INT8 = replace(
    QLORA,
    id="lora_int8",
    label="LoRA on int8",
    short_label="LoRA int8",
    summary="LoRA on a base stored in 8 bits (LLM.int8).",
    paper=Paper(
        "Dettmers et al. 2022, LLM.int8(): 8-bit Matrix Multiplication for Transformers at Scale",
        "https://arxiv.org/abs/2208.07339",
    ),
    look=Look(colour="#789f16", marker="square-cross", dash="dash"),
    base_precision="int8",
)

QDORA = replace(
    DORA,
    id="qdora",
    label="QDoRA",
    short_label="QDoRA",
    family="quantised",
    summary="DoRA on a base stored in 4-bit NF4.",
    look=Look(colour="#11a531", marker="star-diamond", dash="dash"),
    base_precision="nf4",
    requires=("bitsandbytes",),
)
