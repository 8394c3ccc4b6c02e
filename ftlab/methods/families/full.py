"""Fine-tuning the model's own weights: all of them, the last blocks, the norms, or the biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlab.methods.dimensions import ModelShape, block_of
from ftlab.methods.spec import (
    Hyperparameter,
    Look,
    MethodSpec,
    Misfit,
    PeftTraits,
    ProbePlan,
    Values,
    arxiv,
    peft_config,
)
from ftlab.methods.targets import known_architecture

if TYPE_CHECKING:
    from torch import nn

_NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
_FOUR_NORMS = (*_NORMS[:2], "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm")

NORM_LAYERS: dict[str, tuple[str, ...]] = {
    "llama": _NORMS,
    "mistral": _NORMS,
    "gemma": _NORMS,
    "gemma2": _FOUR_NORMS,
    "gemma3_text": _FOUR_NORMS,
    "qwen2": ("post_attention_layernorm",),
    "qwen3": ("post_attention_layernorm",),
    "phi": ("input_layernorm", "final_layernorm"),
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "gptj": ("ln_1", "ln_f"),
    "bloom": ("input_layernorm", "post_attention_layernorm", "ln_f"),
    "falcon": ("input_layernorm", "post_attention_layernorm", "ln_f"),
}
"""PEFT's default norm layers by architecture, copied for causal language models from
`TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING`, because importing PEFT imports torch and
takes seconds. A test compares the copy with the original."""


def _every_weight(shape: ModelShape, values: Values) -> int:
    """All weights; tied weights count once."""
    return shape.total


def _learns_in_last(name: str, dimensions: int, first: int) -> bool:
    """Whether a tensor is in a block from `first` on, or in the norm after the blocks."""
    block = block_of(name)
    return block >= first if block >= 0 else dimensions == 1


def _last_layers(model: nn.Module, values: Values) -> None:
    """Makes the last blocks and the norm after them trainable; the output matrix stays frozen."""
    sizes = {name: parameter.dim() for name, parameter in model.named_parameters()}
    first = max(map(block_of, sizes), default=-1) + 1 - int(values["layers"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_learns_in_last(name, sizes[name], first))


def _count_last_layers(shape: ModelShape, values: Values) -> int:
    """Parameters of the last blocks and the norm after them, as in `_last_layers`."""
    first = shape.layers - int(values["layers"])
    return shape.size_of(
        name for name, size in shape.weights.items() if _learns_in_last(name, len(size), first)
    )


def _blocks_of_model(shape: ModelShape, values: Values) -> Misfit | None:
    """The number of trained blocks may not exceed the number of blocks."""
    wanted = int(values["layers"])
    if wanted <= shape.layers:
        return None
    return Misfit(
        "layers",
        f"this model has {shape.layers} blocks, not {wanted}; choose {shape.layers} or fewer",
    )


def _biases(model: nn.Module, values: Values) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(".bias"))


def _needs_biases(shape: ModelShape, values: Values) -> str:
    if shape.biases:
        return ""
    return "this model has no biases, so there is nothing that BitFit could train"


def _count_biases(shape: ModelShape, values: Values) -> int:
    """All biases are trained (Ben Zaken et al. 2021, section 3)."""
    return shape.size_of(shape.biases)


def _count_norms(shape: ModelShape, values: Values) -> int:
    """Weights and biases of PEFT's default norms (Zhao et al. 2023; `LNTuningLayer`)."""
    ends = tuple(f".{name}" for name in NORM_LAYERS.get(shape.architecture, ()))
    return (
        shape.size_of(
            name for name in shape.weights if f".{name.rpartition('.')[0]}".endswith(ends)
        )
        if ends
        else 0
    )


FULL = MethodSpec(
    id="full",
    label="Full fine-tuning",
    short="Full",
    family="full",
    summary="Trains every weight: the baseline for all other methods.",
    good_for="Much data, or a task far from what the model can do, where there is memory for it.",
    weak_at=(
        "Many tasks on one base: each result is a whole model, and training takes the most memory."
    ),
    paper=arxiv(
        "1801.06146",
        "Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification",
    ),
    look=Look(colour="#707b8c", marker="square", dash="solid"),
    learning_rate=3e-4,
    not_sharded="",
    count=_every_weight,
)

LAST_LAYERS = MethodSpec(
    id="last_layers",
    label="Last layers",
    family="part",
    summary="Trains only the last blocks; all others stay frozen.",
    good_for="The least memory and time: no gradient passes below the trained blocks.",
    weak_at="Short runs: it learned least of all here, and its file is larger than an adapter's.",
    paper=arxiv(
        "1911.03090",
        "Lee et al. 2019, What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning",
    ),
    look=Look(colour="#78633f", marker="square-open", dash="solid"),
    learning_rate=9e-4,
    not_sharded="",
    hyperparameters=(
        Hyperparameter(
            "layers", "Blocks", "int", 4, "Number of trained blocks, counted from the last.", 1, 512
        ),
    ),
    select_trainable=_last_layers,
    fits=_blocks_of_model,
    count=_count_last_layers,
    size="layers",
    probe=ProbePlan(settings="layers=1", note="Probed with the last 1 of 2 blocks."),
)

LAYER_NORM = MethodSpec(
    id="layer_norm",
    label="Layer-norm tuning",
    short="Norms",
    family="part",
    summary="Trains only the scales of the normalisation layers.",
    good_for="A file of kilobytes where a small change of the model is enough.",
    weak_at="Hard tasks: it scored below LoRA here, and nothing in PEFT's published table.",
    paper=arxiv(
        "2312.11420",
        "Zhao et al. 2023, Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM "
        "Finetuning",
    ),
    look=Look(colour="#ba8258", marker="diamond-open", dash="dot"),
    not_sharded="",
    learning_rate=3e-3,
    peft_config=peft_config("LNTuningConfig"),
    applies=known_architecture(NORM_LAYERS, "the norms"),
    count=_count_norms,
    peft_traits=PeftTraits("LN_TUNING"),
)

BITFIT = MethodSpec(
    id="bitfit",
    label="BitFit",
    family="part",
    summary="Trains only the biases, if the model has any.",
    good_for="Models with biases, where the file must be tiny and plain weights are wanted.",
    weak_at="Models of Llama's kind, which have no biases to train.",
    paper=arxiv(
        "2106.10199",
        "Ben Zaken et al. 2021, BitFit: Simple Parameter-efficient Fine-tuning for "
        "Transformer-based Masked Language-models",
    ),
    look=Look(colour="#a58c7e", marker="triangle-down", dash="dash"),
    not_sharded="",
    learning_rate=3e-3,
    select_trainable=_biases,
    applies=_needs_biases,
    count=_count_biases,
    probe=ProbePlan(
        needs_biases=True,
        note="Probed on a Llama with biases in its attention: the usual Llama has none.",
    ),
)

METHODS = (FULL, LAST_LAYERS, LAYER_NORM, BITFIT)
