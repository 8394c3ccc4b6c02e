"""Which linear layers an adapter is laid over: a setting that many methods share."""

from __future__ import annotations

from ftlab.methods.shape import Linear, ModelShape
from ftlab.methods.spec import Hyperparameter, Misfit, Values

ALL_LINEAR = "all-linear"
_NAMES: dict[str, tuple[str, ...] | None] = {
    ALL_LINEAR: None,
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "query-value": ("q_proj", "v_proj"),
}

LAYERS = Hyperparameter(
    "targets",
    "Layers",
    "choice",
    ALL_LINEAR,
    "Which linear layers get an overlay: all, attention's four, or query and value only.",
    choices=tuple(_NAMES),
)


def target_names(values: Values) -> tuple[str, ...] | None:
    """Last names of the layers that the setting picks; `None`: every linear layer."""
    return _NAMES[str(values[LAYERS.name])]


def target_modules(values: Values) -> str | list[str]:
    """PEFT's `target_modules` of a method with the setting `LAYERS`."""
    names = target_names(values)
    return ALL_LINEAR if names is None else list(names)


def targeted(shape: ModelShape, values: Values) -> tuple[Linear, ...]:
    """The layers of the model that the setting picks."""
    names = target_names(values)
    return shape.linears if names is None else shape.named(names)


def needs_layers(shape: ModelShape, values: Values) -> str:
    """Why a model without linear layers cannot be had; "" for one that has some."""
    return "" if shape.linears else "this model has no linear layers that PEFT could be laid over"


def needs_plain_layers(shape: ModelShape, values: Values) -> str:
    """As `needs_layers`, of a PEFT type that does not take transformers' Conv1D."""
    if shape.is_transposed:
        return (
            f"the layers of a {shape.architecture} model are transformers' Conv1D, "
            "which PEFT does not take for this method"
        )
    return needs_layers(shape, values)


def has_targets(shape: ModelShape, values: Values) -> Misfit | None:
    """What is wrong with the setting where the model has none of the layers that it picks."""
    names = target_names(values)
    if names is None or shape.sizes(names):
        return None
    known = ", ".join(dict.fromkeys(linear.short_name for linear in shape.linears))
    return Misfit(
        LAYERS.name,
        f"this model has none of the layers {', '.join(names)}; it has {known}; "
        f"choose {ALL_LINEAR}",
    )
