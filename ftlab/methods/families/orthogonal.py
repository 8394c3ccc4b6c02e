"""Methods that rotate the weights with an orthogonal matrix, which keeps lengths and angles."""

from __future__ import annotations

from ftlab.methods.dimensions import ModelShape
from ftlab.methods.spec import (
    Hyperparameter,
    LayerCount,
    LayerLimit,
    Look,
    MethodSpec,
    Misfit,
    PeftTraits,
    Values,
    arxiv,
    whole,
)
from ftlab.methods.targets import LAYERS, layer_config, needs_plain_layers, targeted

_BLOCK = LayerLimit("block size", lambda o, i: i, "the inputs", ("block",))


def _blocks_divide(shape: ModelShape, values: Values) -> Misfit | None:
    """The block size must divide the inputs of every adapted layer."""
    block = int(values["block"])
    odd = next((x for x in targeted(shape, values) if x.inputs > block and x.inputs % block), None)
    if odd is None:
        return None
    return Misfit(
        "block",
        f"block size {block} does not divide the {odd.inputs:,} inputs of {odd.short_name}; "
        "choose a divisor of them",
    )


def _reflections_in_pairs(shape: ModelShape, values: Values) -> Misfit | None:
    """The number must be even: reflections are initialised in pairs that cancel out.

    With an odd number, all weights start randomly reflected (`HRALayer.reset_hra_parameters`).
    """
    number = int(values["r"])
    if number % 2 == 0:
        return None
    return Misfit(
        "r",
        f"{number} reflections are odd, so the model would not start as it is; choose {number + 1}",
    )


OFT = MethodSpec(
    id="oft",
    label="OFT",
    family="orthogonal",
    summary="Rotates the inputs of each frozen layer, block by block.",
    good_for="Learning as much as LoRA and forgetting no more, here and in PEFT's published table.",
    weak_at="Speed and memory: it took more of both than LoRA here.",
    paper=arxiv(
        "2306.07280",
        "Qiu et al. 2023, Controlling Text-to-Image Diffusion by Orthogonal Finetuning",
    ),
    look=Look(colour="#639e97", marker="square", dash="dot"),
    not_sharded="",
    learning_rate=2.2e-4,
    hyperparameters=(
        Hyperparameter("block", "Block size", "int", 32, "Inputs rotated together.", 2, 1024),
        LAYERS,
    ),
    peft_config=layer_config("OFTConfig", r=0, oft_block_size=whole("block")),
    applies=needs_plain_layers,
    fits=_blocks_divide,
    limit=_BLOCK,
    # i / b blocks of b(b - 1) / 2 (Qiu et al. 2023, section 3.3; `OFTLayer.update_layer`)
    count=LayerCount(lambda o, i, values: i * (int(values["block"]) - 1) // 2),
    size="block",
    peft_traits=PeftTraits("OFT"),
)

BOFT = MethodSpec(
    id="boft",
    label="BOFT",
    family="orthogonal",
    summary="Rotates small blocks of inputs, and scales the outputs of each layer.",
    good_for="Rotations with fewer trained numbers than OFT; it scored as OFT did here.",
    weak_at=(
        "Larger models without a trial: in PEFT's published table of a 3B model it scored far "
        "below LoRA."
    ),
    paper=arxiv(
        "2311.06243",
        "Liu et al. 2023, Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization",
    ),
    look=Look(colour="#1f707d", marker="diamond", dash="dash"),
    not_sharded="",
    learning_rate=2e-3,
    hyperparameters=(
        Hyperparameter("block", "Block size", "int", 4, "Inputs rotated together.", 2, 256),
        LAYERS,
    ),
    # One butterfly factor: if PEFT cannot build its CUDA kernel, it falls back to one with only a
    # warning.
    peft_config=layer_config("BOFTConfig", boft_block_size=whole("block")),
    applies=needs_plain_layers,
    fits=_blocks_divide,
    limit=_BLOCK,
    # i·b + o: i / b blocks of b², and a scale for each of o rows (Liu et al. 2023, section 4;
    # `BOFTLayer.update_layer`, one butterfly factor)
    count=LayerCount(lambda o, i, values: i * int(values["block"]) + o),
    size="block",
    peft_traits=PeftTraits("BOFT"),
)

HRA = MethodSpec(
    id="hra",
    label="HRA",
    family="orthogonal",
    summary="Rotates the weights by a chain of r Householder reflections.",
    good_for="Rotations with few numbers: r vectors for each layer.",
    weak_at="Bases in 4 or 8 bits, with which PEFT's HRA does not work.",
    paper=arxiv(
        "2405.17484",
        "Yuan et al. 2024, Bridging The Gap between Low-rank and Orthogonal Adaptation via "
        "Householder Reflection Adaptation",
    ),
    look=Look(colour="#107663", marker="triangle-down", dash="dashdot"),
    not_sharded="",
    learning_rate=2e-3,
    hyperparameters=(
        Hyperparameter("r", "Reflections r", "int", 8, "Length of the chain; even.", 2, 256),
        LAYERS,
    ),
    peft_config=layer_config("HRAConfig", r=whole("r")),
    applies=needs_plain_layers,
    fits=_reflections_in_pairs,
    limit=LayerLimit("the number of reflections", lambda o, i: i, "the inputs", ("r",)),
    # r reflections of i numbers (Yuan et al. 2024, eq. 4; `HRALayer.update_layer`)
    count=LayerCount(lambda o, i, values: int(values["r"]) * i),
    size="r",
    peft_traits=PeftTraits("HRA"),
)

METHODS = (OFT, BOFT, HRA)
