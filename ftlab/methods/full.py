"""Fine-tuning the model's own weights: all of them, the last blocks, the norms, or the biases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlab.methods import counts, limits
from ftlab.methods.known_layers import NORM_LAYERS
from ftlab.methods.shape import ModelShape, block_of
from ftlab.methods.spec import Hyperparameter, Look, MethodSpec, Paper, RunPlan, Values

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


def _last_layers(model: nn.Module, values: Values) -> None:
    """Lets the last blocks learn, and the norm after them; the output matrix stays frozen."""
    sizes = {name: parameter.dim() for name, parameter in model.named_parameters()}
    first = max(map(block_of, sizes), default=-1) + 1 - int(values["layers"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(counts.learns_in_last(name, sizes[name], first))


def _biases(model: nn.Module, values: Values) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(".bias"))


def _needs_biases(shape: ModelShape, values: Values) -> str:
    if shape.biases:
        return ""
    return "this model has no biases, so there is nothing that BitFit could train"


def _layer_norm_config(values: Values, plan: RunPlan) -> PeftConfig:
    from peft import LNTuningConfig

    return LNTuningConfig(task_type="CAUSAL_LM")


FULL = MethodSpec(
    id="full",
    label="Full fine-tuning",
    short_label="Full",
    family="full",
    summary="Every weight learns: the baseline the others are held against.",
    paper=Paper(
        "Howard & Ruder 2018, Universal Language Model Fine-tuning for Text Classification",
        "https://arxiv.org/abs/1801.06146",
    ),
    look=Look(colour="#707b8c", marker="square", dash="solid"),
    learning_rate=3e-4,
    count=counts.every_weight,
)

LAST_LAYERS = MethodSpec(
    id="last_layers",
    label="Last layers",
    short_label="Last layers",
    family="part",
    summary="Only the last blocks learn; what lies below them stays as it was.",
    paper=Paper(
        "Lee et al. 2019, What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning",
        "https://arxiv.org/abs/1911.03090",
    ),
    look=Look(colour="#78633f", marker="square-open", dash="solid"),
    learning_rate=9e-4,
    hyperparameters=(
        Hyperparameter(
            "layers", "Blocks", "int", 4, "How many blocks, from the top, learn.", 1, 512
        ),
    ),
    select_trainable=_last_layers,
    fits=limits.blocks_of_model,
    count=counts.last_layers,
    size="layers",
)

LAYER_NORM = MethodSpec(
    id="layer_norm",
    label="Layer-norm tuning",
    short_label="Norms",
    family="part",
    summary="Only the scales of the normalisation layers learn.",
    paper=Paper(
        "Zhao et al. 2023, Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM "
        "Finetuning",
        "https://arxiv.org/abs/2312.11420",
    ),
    look=Look(colour="#ba8258", marker="diamond-open", dash="dot"),
    learning_rate=3e-3,
    peft_config=_layer_norm_config,
    applies=limits.known_architecture(NORM_LAYERS, "the norms"),
    count=counts.layer_norm,
)

BITFIT = MethodSpec(
    id="bitfit",
    label="BitFit",
    short_label="BitFit",
    family="part",
    summary="Only the biases learn, where a model has any.",
    paper=Paper(
        "Ben Zaken et al. 2021, BitFit: Simple Parameter-efficient Fine-tuning for "
        "Transformer-based Masked Language-models",
        "https://arxiv.org/abs/2106.10199",
    ),
    look=Look(colour="#a58c7e", marker="triangle-down", dash="dash"),
    learning_rate=3e-3,
    select_trainable=_biases,
    applies=_needs_biases,
    count=counts.biases,
)
