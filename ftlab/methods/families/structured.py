"""Adapters of a form other than B·A: random projections, products, spectra, sparse, scales.

Each parameter count follows the layer of PEFT 0.21, with the source named; o and i are the outputs
and inputs of a layer.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ftlab.methods.dimensions import ModelShape
from ftlab.methods.families.lora import ALPHA, LORA_COUNT, RANK, RANK_BY_LAYER, RANK_OF_WEIGHT
from ftlab.methods.rates import unscaled
from ftlab.methods.spec import (
    Hyperparameter,
    LayerCount,
    LayerLimit,
    Look,
    MethodSpec,
    PeftTraits,
    Values,
    arxiv,
    peft_config,
    real,
    whole,
)
from ftlab.methods.targets import (
    LAYERS,
    has_targets,
    known_architecture,
    layer_config,
    needs_layers,
    needs_plain_layers,
)


def _count_randlora(o: int, i: int, values: Values) -> int:
    """N(r + m), with m = min(o, i) and N = ceil(m / r) products, each with Λ of r and Γ of m
    numbers (Albert et al. 2025, section 4; `RandLoraLayer.update_layer`). It falls as r grows."""
    rank, small = int(values["r"]), min(o, i)
    return math.ceil(small / rank) * (rank + small)


def _count_lokr(o: int, i: int, values: Values) -> int:
    """o₁i₁ + r(o₂ + i₂), with o = o₁o₂ and i = i₁i₂ near their square roots; for
    r ≥ max(o₂, i₂) / 2 the second matrix is full: o₂i₂ (Yeh et al. 2023, section 3;
    `LoKrLayer.update_layer`)."""
    rank = int(values["r"])
    (o1, o2), (i1, i2) = _factors(o), _factors(i)
    second = rank * (o2 + i2) if rank < max(o2, i2) / 2 else o2 * i2
    return o1 * i1 + second


def _factors(number: int) -> tuple[int, int]:
    """The two closest factors of a number, the smaller first (PEFT's `factorization`)."""
    smaller = next(n for n in range(math.isqrt(number), 0, -1) if number % n == 0)
    return smaller, number // smaller


VERA = MethodSpec(
    id="vera",
    label="VeRA",
    family="structured",
    summary="One frozen random B·A for all layers; trains only two vectors per layer.",
    good_for="Few trained numbers for each of many adapters on one base.",
    weak_at=(
        "Memory and time, which were above LoRA's here; it also scored below LoRA in PEFT's "
        "published table."
    ),
    paper=arxiv("2310.11454", "Kopiczko et al. 2023, VeRA: Vector-based Random Matrix Adaptation"),
    look=Look(colour="#c022fe", marker="circle", dash="dot"),
    learning_rate=6e-2,
    hyperparameters=(
        replace(RANK, default=256, maximum=4096, help="Width of the frozen random matrices."),
        Hyperparameter(
            "d_initial", "First d", "float", 0.1, "First value of the vector between B and A.", 0, 1
        ),
        LAYERS,
    ),
    peft_config=layer_config("VeraConfig", r=whole("r"), d_initial=real("d_initial")),
    applies=needs_layers,
    fits=has_targets,
    # o + r: the vectors b and d (Kopiczko et al. 2023, eq. 2; `VeraLayer.update_layer`)
    count=LayerCount(lambda o, i, values: o + int(values["r"])),
    peft_traits=PeftTraits("VERA"),
    size="r",
)

RANDLORA = replace(
    VERA,
    id="randlora",
    label="RandLoRA",
    summary="Sums of frozen random low-rank products, weighted by trained vectors: full rank.",
    good_for="Changes of full rank with far fewer trained numbers than full fine-tuning.",
    weak_at=(
        "Keeping what the model knew: it forgot more than LoRA here and in PEFT's published table."
    ),
    paper=arxiv(
        "2502.00987",
        "Albert et al. 2025, RandLoRA: Full-rank Parameter-efficient Fine-tuning of Large Models",
    ),
    look=Look(colour="#b67ec1", marker="circle-open", dash="dash"),
    learning_rate=3.3e-4,
    rate_rule=unscaled(
        "Albert et al. 2025, table 9: 1e-4 for Qwen2-0.5B, Phi-3 and Llama-3-8B",
        "https://arxiv.org/abs/2502.00987",
    ),
    hyperparameters=(
        replace(RANK, default=32, help="Width of one random product: smaller means more of them."),
        replace(ALPHA, default=640, maximum=4096, help="The adapter is scaled by alpha / r."),
        LAYERS,
    ),
    peft_config=layer_config("RandLoraConfig", r=whole("r"), randlora_alpha=whole("alpha")),
    limit=RANK_OF_WEIGHT,
    count=LayerCount(_count_randlora),
    peft_traits=PeftTraits("RANDLORA"),
    in_proportion=("alpha",),
)

LOHA = replace(
    VERA,
    id="loha",
    label="LoHa",
    summary="Two low-rank products multiplied entry by entry: rank r² from rank r.",
    good_for="A high rank from few numbers: r² from two products of rank r.",
    weak_at=(
        "Bases in 4 bits, with which PEFT's LoHa does not work; and it scored below LoRA in "
        "PEFT's published table."
    ),
    paper=arxiv(
        "2108.06098",
        "Hyeon-Woo et al. 2021, FedPara: Low-Rank Hadamard Product for "
        "Communication-Efficient Federated Learning",
    ),
    look=Look(colour="#8a5ec1", marker="square", dash="dash"),
    not_sharded="",
    learning_rate=1.8e-2,
    hyperparameters=(RANK, replace(ALPHA, default=8), LAYERS),
    peft_config=layer_config("LoHaConfig", r=whole("r"), alpha=whole("alpha")),
    applies=needs_plain_layers,
    limit=RANK_BY_LAYER,
    # 2r(o + i): two products (Hyeon-Woo et al. 2021, prop. 2; `LoHaLayer`)
    count=LayerCount(lambda o, i, values: 2 * int(values["r"]) * (o + i)),
    peft_traits=PeftTraits("LOHA"),
    in_proportion=("alpha",),
)

LOKR = replace(
    LOHA,
    id="lokr",
    label="LoKr",
    summary="A Kronecker product of a small and a low-rank matrix.",
    good_for="Small files: a Kronecker product needs few numbers.",
    weak_at="Bases in 4 bits, with which PEFT's LoKr does not work; and it scored below LoRA here.",
    paper=arxiv(
        "2309.14859",
        "Yeh et al. 2023, Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning "
        "to Model Evaluation",
    ),
    look=Look(colour="#c053e6", marker="diamond", dash="dot"),
    not_sharded="",
    learning_rate=9e-3,
    peft_config=layer_config("LoKrConfig", r=whole("r"), alpha=whole("alpha")),
    limit=None,
    count=LayerCount(_count_lokr),
    peft_traits=PeftTraits("LOKR"),
)

MISS = replace(
    LOHA,
    id="miss",
    label="MiSS",
    summary="One small matrix per layer, repeated along the weight (formerly Bone).",
    good_for="LoRA's score with less memory and time, as measured here.",
    weak_at=(
        "Keeping what the model knew: it forgot more than LoRA here and in PEFT's published table."
    ),
    paper=arxiv(
        "2409.15371",
        "Kang & Yin 2024, MiSS: Revisiting the Trade-off in LoRA with an Efficient "
        "Shard-Sharing Structure",
    ),
    look=Look(colour="#fd23d5", marker="cross", dash="solid"),
    not_sharded="",
    learning_rate=3.3e-4,
    hyperparameters=(replace(RANK, default=16, help="Rows of the small matrix."), LAYERS),
    peft_config=layer_config("MissConfig", r=whole("r")),
    limit=LayerLimit("rank", lambda o, i: i, "the inputs", ("r",)),
    # r·o: one block (Kang & Yin 2024, section 3; `MissLayer.update_layer`)
    count=LayerCount(lambda o, i, values: int(values["r"]) * o),
    peft_traits=PeftTraits("MISS"),
    in_proportion=(),
)

FOURIERFT = replace(
    VERA,
    id="fourierft",
    label="FourierFT",
    summary="Trains a few entries of the change's spectrum; a Fourier transform gives the change.",
    good_for="Very few trained numbers: some coefficients for each layer.",
    weak_at=(
        "Short runs and hard tasks: it learned slowly and forgot much here, and scored nothing "
        "in PEFT's published table."
    ),
    paper=arxiv(
        "2405.03003",
        "Gao et al. 2024, Parameter-Efficient Fine-Tuning with Discrete Fourier Transform",
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
            "n", "Frequencies", "int", 1000, "Trained spectrum entries per layer.", 1, 200_000
        ),
        Hyperparameter(
            "scaling", "Scaling", "float", 150.0, "Factor of the adapter's output.", 0.001, 10_000
        ),
        LAYERS,
    ),
    peft_config=layer_config("FourierFTConfig", n_frequency=whole("n"), scaling=real("scaling")),
    limit=LayerLimit(
        "the number of frequencies", lambda o, i: o * i, "the size of the spectrum", ("n",)
    ),
    # n spectral entries per layer (Gao et al. 2024, table 1; `FourierFTLayer.update_layer`)
    count=LayerCount(lambda o, i, values: int(values["n"])),
    peft_traits=PeftTraits("FOURIERFT"),
    size="n",
)

SHIRA = replace(
    VERA,
    id="shira",
    label="SHiRA",
    summary="Trains a few random entries of each weight; the rest stays frozen.",
    good_for=(
        "Learning much and forgetting little: it had the highest score of 20 methods here, and "
        "the second in PEFT's published table."
    ),
    weak_at="Small files: it saves more than LoRA does.",
    paper=arxiv("2406.13175", "Bhardwaj et al. 2024, Sparse High Rank Adapters"),
    look=Look(colour="#8f5778", marker="star", dash="dashdot"),
    learning_rate=3e-3,
    hyperparameters=(replace(RANK, help="Trains as many entries as a LoRA of this rank."), LAYERS),
    peft_config=layer_config("ShiraConfig", r=whole("r"), random_seed=0),
    applies=needs_plain_layers,
    # r(o + i) entries, as in LoRA, at most those of the weight (`ShiraLayer.update_layer`)
    limit=LayerLimit(
        "rank", lambda o, i: o * i // (o + i), "the most that the entries allow,", ("r",)
    ),
    count=LORA_COUNT,
    peft_traits=PeftTraits("SHIRA"),
)

_QUERY_VALUE_DOWN = ("q_proj", "v_proj", "down_proj")

IA3_LAYERS: dict[str, tuple[str, ...]] = {
    "llama": ("k_proj", "v_proj", "down_proj"),
    "llama4": _QUERY_VALUE_DOWN,
    "mistral": ("k_proj", "v_proj", "down_proj"),
    "mixtral": ("k_proj", "v_proj", "w2"),
    "gemma": _QUERY_VALUE_DOWN,
    "gemma2": _QUERY_VALUE_DOWN,
    "gemma3_text": _QUERY_VALUE_DOWN,
    "qwen2": _QUERY_VALUE_DOWN,
    "qwen3": _QUERY_VALUE_DOWN,
    "phi": ("q_proj", "v_proj", "fc2"),
    "opt": ("q_proj", "k_proj", "fc2"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "gptj": ("q_proj", "v_proj", "fc_out"),
    "gpt_neo": ("q_proj", "v_proj", "c_proj"),
    "gpt_neox": ("query_key_value", "dense_4h_to_h"),
    "gpt_bigcode": ("c_attn", "mlp.c_proj"),
    "bloom": ("query_key_value", "mlp.dense_4h_to_h"),
    "falcon": ("query_key_value", "dense_4h_to_h"),
}
"""The layers that IA3 scales: PEFT's defaults for causal language models, copied from
`TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING`, for the reason in `families/full.py`."""

IA3_INPUTS = ("down_proj", "w2", "fc2", "c_proj", "fc_out", "dense_4h_to_h")
"""Last names of layers with scaled inputs (PEFT's `feedforward_modules`); others: outputs."""


def _count_ia3(shape: ModelShape, values: Values) -> int | None:
    """i per feed-forward layer, o per other layer (Liu et al. 2022, section 3.3; `IA3Layer`)."""
    if shape.has_experts:
        return None
    layers = shape.named(IA3_LAYERS.get(shape.architecture, ()))
    return sum(x.inputs if x.short_name in IA3_INPUTS else x.outputs for x in layers)


IA3 = MethodSpec(
    id="ia3",
    label="IA3",
    family="scaling",
    summary="One trained scale for each key, value and hidden feature.",
    good_for="Small files and small changes: one scale for each feature.",
    weak_at="Hard tasks: it scored below LoRA here and in PEFT's published table.",
    paper=arxiv(
        "2205.05638",
        "Liu et al. 2022, Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper "
        "than In-Context Learning",
    ),
    look=Look(colour="#8b8d43", marker="hexagon", dash="dot"),
    not_sharded="",
    learning_rate=2e-2,
    rate_rule=unscaled(
        "Liu et al. 2022, sections 3 and 4: 3e-3, found on T0-3B and used unchanged on T0-11B",
        "https://arxiv.org/abs/2205.05638",
    ),
    peft_config=peft_config("IA3Config"),
    applies=known_architecture(IA3_LAYERS, "the keys, values and hidden features"),
    count=_count_ia3,
    peft_traits=PeftTraits("IA3"),
)

METHODS = (VERA, RANDLORA, LOHA, LOKR, MISS, FOURIERFT, SHIRA, IA3)
