"""Methods that turn the weights: what they learn is orthogonal, so lengths and angles are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlab.methods import counts, limits
from ftlab.methods.spec import Hyperparameter, Look, MethodSpec, Paper, RunPlan, Values
from ftlab.methods.targets import LAYERS, needs_plain_layers, target_modules

if TYPE_CHECKING:
    from peft import PeftConfig


def _oft_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import OFTConfig

    return OFTConfig(
        task_type="CAUSAL_LM",
        r=0,
        oft_block_size=int(values["block"]),
        target_modules=target_modules(values),
    )


def _boft_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import BOFTConfig

    # One butterfly factor: PEFT takes no more where it cannot build its CUDA kernel, and says so
    # in a warning alone.
    return BOFTConfig(
        task_type="CAUSAL_LM",
        boft_block_size=int(values["block"]),
        target_modules=target_modules(values),
    )


def _hra_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import HRAConfig

    return HRAConfig(
        task_type="CAUSAL_LM", r=int(values["r"]), target_modules=target_modules(values)
    )


OFT = MethodSpec(
    id="oft",
    label="OFT",
    short_label="OFT",
    family="orthogonal",
    summary="Rotates the inputs of each frozen layer, block by block.",
    paper=Paper(
        "Qiu et al. 2023, Controlling Text-to-Image Diffusion by Orthogonal Finetuning",
        "https://arxiv.org/abs/2306.07280",
    ),
    look=Look(colour="#639e97", marker="square", dash="dot"),
    learning_rate=2.2e-4,
    hyperparameters=(
        Hyperparameter(
            "block", "Block size", "int", 32, "Inputs that are turned together.", 2, 1024
        ),
        LAYERS,
    ),
    peft_config=_oft_config,
    applies=needs_plain_layers,
    fits=limits.blocks_divide,
    limit=limits.BLOCK,
    count=counts.oft,
    size="block",
)

BOFT = MethodSpec(
    id="boft",
    label="BOFT",
    short_label="BOFT",
    family="orthogonal",
    summary="Rotates small blocks of inputs, and scales what each layer puts out.",
    paper=Paper(
        "Liu et al. 2023, Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization",
        "https://arxiv.org/abs/2311.06243",
    ),
    look=Look(colour="#1f707d", marker="diamond", dash="dash"),
    learning_rate=2e-3,
    hyperparameters=(
        Hyperparameter("block", "Block size", "int", 4, "Inputs that are turned together.", 2, 256),
        LAYERS,
    ),
    peft_config=_boft_config,
    applies=needs_plain_layers,
    fits=limits.blocks_divide,
    limit=limits.BLOCK,
    count=counts.boft,
    size="block",
)

HRA = MethodSpec(
    id="hra",
    label="HRA",
    short_label="HRA",
    family="orthogonal",
    summary="Turns by a chain of r reflections (Householder).",
    paper=Paper(
        "Yuan et al. 2024, Bridging The Gap between Low-rank and Orthogonal Adaptation via "
        "Householder Reflection Adaptation",
        "https://arxiv.org/abs/2405.17484",
    ),
    look=Look(colour="#107663", marker="triangle-down", dash="dashdot"),
    learning_rate=2e-3,
    hyperparameters=(
        Hyperparameter(
            "r", "Reflections r", "int", 8, "Length of the chain, an even number.", 2, 256
        ),
        LAYERS,
    ),
    peft_config=_hra_config,
    applies=needs_plain_layers,
    fits=limits.reflections_in_pairs,
    limit=limits.REFLECTIONS,
    count=counts.hra,
    size="r",
)
