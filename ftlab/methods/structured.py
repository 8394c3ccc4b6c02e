"""Overlays of another form than B·A: random projections, products, spectra, a few entries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftlab.methods import counts, limits
from ftlab.methods.known_layers import IA3_LAYERS
from ftlab.methods.lora import ALPHA, RANK
from ftlab.methods.rates import unscaled
from ftlab.methods.spec import Hyperparameter, Look, MethodSpec, Paper, RunPlan, Values
from ftlab.methods.targets import (
    LAYERS,
    has_targets,
    needs_layers,
    needs_plain_layers,
    target_modules,
)

if TYPE_CHECKING:
    from peft import PeftConfig


def _common(values: Values) -> dict[str, Any]:
    return {"task_type": "CAUSAL_LM", "target_modules": target_modules(values)}


def _vera_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import VeraConfig

    return VeraConfig(**_common(values), r=int(values["r"]), d_initial=float(values["d_initial"]))


def _randlora_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import RandLoraConfig

    return RandLoraConfig(
        **_common(values), r=int(values["r"]), randlora_alpha=int(values["alpha"])
    )


def _loha_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import LoHaConfig

    return LoHaConfig(**_common(values), r=int(values["r"]), alpha=int(values["alpha"]))


def _lokr_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import LoKrConfig

    return LoKrConfig(**_common(values), r=int(values["r"]), alpha=int(values["alpha"]))


def _miss_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import MissConfig

    return MissConfig(**_common(values), r=int(values["r"]))


def _fourierft_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import FourierFTConfig

    return FourierFTConfig(
        **_common(values),
        n_frequency=int(values["n"]),
        scaling=float(values["scaling"]),
    )


def _shira_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import ShiraConfig

    return ShiraConfig(**_common(values), r=int(values["r"]), random_seed=0)


VERA = MethodSpec(
    id="vera",
    label="VeRA",
    short_label="VeRA",
    family="structured",
    summary="One frozen random B·A for all layers; only two vectors a layer learn.",
    paper=Paper(
        "Kopiczko et al. 2023, VeRA: Vector-based Random Matrix Adaptation",
        "https://arxiv.org/abs/2310.11454",
    ),
    look=Look(colour="#c022fe", marker="circle", dash="dot"),
    learning_rate=6e-2,
    hyperparameters=(
        replace(RANK, default=256, maximum=4096, help="Width of the frozen random matrices."),
        Hyperparameter(
            "d_initial", "First d", "float", 0.1, "First value of the vector between B and A.", 0, 1
        ),
        LAYERS,
    ),
    peft_config=_vera_config,
    applies=needs_layers,
    fits=has_targets,
    count=counts.vera,
    size="r",
)

RANDLORA = replace(
    VERA,
    id="randlora",
    label="RandLoRA",
    short_label="RandLoRA",
    summary="Sums of frozen random low-rank products, weighted by vectors that learn: full rank.",
    paper=Paper(
        "Albert et al. 2025, RandLoRA: Full-rank Parameter-efficient Fine-tuning of Large Models",
        "https://arxiv.org/abs/2502.00987",
    ),
    look=Look(colour="#b67ec1", marker="circle-open", dash="dash"),
    learning_rate=3.3e-4,
    rate_rule=unscaled(
        "Albert et al. 2025, table 9: 1e-4 for Qwen2-0.5B, Phi-3 and Llama-3-8B",
        "https://arxiv.org/abs/2502.00987",
    ),
    hyperparameters=(
        replace(
            RANK, default=32, help="Width of one random product: the smaller, the more of them."
        ),
        replace(ALPHA, default=640, maximum=4096, help="The overlay is scaled by alpha / r."),
        LAYERS,
    ),
    peft_config=_randlora_config,
    limit=limits.RANK_OF_WEIGHT,
    count=counts.randlora,
    in_proportion=("alpha",),
)

LOHA = replace(
    VERA,
    id="loha",
    label="LoHa",
    short_label="LoHa",
    summary="Two low-rank products multiplied entry by entry: rank r² from rank r.",
    paper=Paper(
        "Hyeon-Woo et al. 2021, FedPara: Low-Rank Hadamard Product for Communication-Efficient "
        "Federated Learning",
        "https://arxiv.org/abs/2108.06098",
    ),
    look=Look(colour="#8a5ec1", marker="square", dash="dash"),
    learning_rate=1.8e-2,
    hyperparameters=(RANK, replace(ALPHA, default=8), LAYERS),
    peft_config=_loha_config,
    applies=needs_plain_layers,
    limit=limits.RANK_BY_LAYER,
    count=counts.loha,
    in_proportion=("alpha",),
)

LOKR = replace(
    LOHA,
    id="lokr",
    label="LoKr",
    short_label="LoKr",
    summary="A Kronecker product of a small and a low-rank matrix.",
    paper=Paper(
        "Yeh et al. 2023, Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to "
        "Model Evaluation",
        "https://arxiv.org/abs/2309.14859",
    ),
    look=Look(colour="#c053e6", marker="diamond", dash="dot"),
    learning_rate=9e-3,
    peft_config=_lokr_config,
    limit=None,
    count=counts.lokr,
)

MISS = replace(
    LOHA,
    id="miss",
    label="MiSS",
    short_label="MiSS",
    summary="One small matrix a layer, repeated along the weight (formerly Bone).",
    paper=Paper(
        "Kang & Yin 2024, MiSS: Revisiting the Trade-off in LoRA with an Efficient "
        "Shard-Sharing Structure",
        "https://arxiv.org/abs/2409.15371",
    ),
    look=Look(colour="#fd23d5", marker="cross", dash="solid"),
    learning_rate=3.3e-4,
    hyperparameters=(replace(RANK, default=16, help="Rows of the small matrix."), LAYERS),
    peft_config=_miss_config,
    limit=limits.ROWS_OF_BLOCK,
    count=counts.miss,
    in_proportion=(),
)

FOURIERFT = replace(
    VERA,
    id="fourierft",
    label="FourierFT",
    short_label="FourierFT",
    summary="A few entries of the change's spectrum learn; a Fourier transform spreads them out.",
    paper=Paper(
        "Gao et al. 2024, Parameter-Efficient Fine-Tuning with Discrete Fourier Transform",
        "https://arxiv.org/abs/2405.03003",
    ),
    look=Look(colour="#bd349f", marker="triangle-up", dash="dash"),
    learning_rate=5e-2,
    rate_rule=unscaled(
        "Gao et al. 2024, tables 10 and 11: 2e-2 and 5e-2 for GPT-2 medium and large, 3e-2 for "
        "Llama 7B and 13B",
        "https://arxiv.org/abs/2405.03003",
    ),
    hyperparameters=(
        Hyperparameter(
            "n",
            "Frequencies",
            "int",
            1000,
            "Entries of the spectrum that learn, a layer.",
            1,
            200_000,
        ),
        Hyperparameter(
            "scaling", "Scaling", "float", 150.0, "The overlay's factor.", 0.001, 10_000
        ),
        LAYERS,
    ),
    peft_config=_fourierft_config,
    limit=limits.FREQUENCIES,
    count=counts.fourierft,
    size="n",
)

SHIRA = replace(
    VERA,
    id="shira",
    label="SHiRA",
    short_label="SHiRA",
    summary="A few entries of each weight, drawn at random, learn; the rest stays.",
    paper=Paper(
        "Bhardwaj et al. 2024, Sparse High Rank Adapters",
        "https://arxiv.org/abs/2406.13175",
    ),
    look=Look(colour="#8f5778", marker="star", dash="dashdot"),
    learning_rate=3e-3,
    hyperparameters=(
        replace(RANK, help="As many entries learn as a LoRA of this rank has."),
        LAYERS,
    ),
    peft_config=_shira_config,
    applies=needs_plain_layers,
    limit=limits.ENTRIES,
    count=counts.shira,
    size="r",
)

IA3 = MethodSpec(
    id="ia3",
    label="IA3",
    short_label="IA3",
    family="scaling",
    summary="One learnt scale for each key, value and hidden feature.",
    paper=Paper(
        "Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than "
        "In-Context Learning",
        "https://arxiv.org/abs/2205.05638",
    ),
    look=Look(colour="#8b8d43", marker="hexagon", dash="dot"),
    learning_rate=2e-2,
    rate_rule=unscaled(
        "Liu et al. 2022, sections 3 and 4: 3e-3, found on T0-3B and used unchanged on T0-11B",
        "https://arxiv.org/abs/2205.05638",
    ),
    peft_config=lambda values, plan: _ia3_config(),
    applies=limits.known_architecture(IA3_LAYERS, "the keys, values and hidden features"),
    count=counts.ia3,
)


def _ia3_config() -> PeftConfig:
    from peft import IA3Config

    return IA3Config(task_type="CAUSAL_LM")
