"""The layers that an adapter is attached to: a setting that many methods share, its check against
a model, and the count of trained parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftlab.basics.words import join_names
from ftlab.methods.dimensions import PASSED_OVER, Experts, Linear, ModelShape, is_router
from ftlab.methods.spec import (
    Hyperparameter,
    LayerCount,
    LayerLimit,
    MethodSpec,
    Misfit,
    RunPlan,
    Values,
    peft_config,
)

if TYPE_CHECKING:
    from peft import PeftConfig

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
    "Which layers get an adapter: all linear layers, with experts; the four of attention; or only "
    "query and value.",
    choices=tuple(_NAMES),
)


def target_names(values: Values) -> tuple[str, ...] | None:
    """Last name parts of the layers that the setting selects; `None`: all linear layers."""
    return _NAMES[str(values[LAYERS.name])]


def target_modules(values: Values) -> str | list[str]:
    """PEFT's `target_modules` for a method with the setting `LAYERS`."""
    names = target_names(values)
    return ALL_LINEAR if names is None else list(names)


def layer_config(name: str, **fields: Any) -> Callable[[Values, RunPlan], PeftConfig]:
    """As `peft_config`, for a method with the setting `LAYERS`."""
    return peft_config(name, target_modules=target_modules, **fields)


def targeted(shape: ModelShape, values: Values) -> tuple[Linear, ...]:
    """The layers of the model that the setting selects."""
    return shape.adaptable_of(target_names(values))


def reached_experts(method: MethodSpec, shape: ModelShape, values: Values) -> tuple[Experts, ...]:
    """The expert matrices that the method adapts; empty unless the setting selects all layers."""
    has_setting = method.hyperparameter(LAYERS.name) is not None
    whole = has_setting and target_names(values) is None
    return shape.experts if method.reaches_experts and whole else ()


def fitted(method: MethodSpec, outputs: int, inputs: int, values: Values) -> Values | None:
    """The method's hyperparameters on a layer of that size; `None` if the layer is too narrow."""
    limit = method.limit
    if limit is None or limit.holds(outputs, inputs, values):
        return values
    if not limit.by_layer:
        return None
    most = limit.most(outputs, inputs)
    return {**values, **{name: min(int(values[name]), most) for name in limit.names}}


def trained_parameters(method: MethodSpec, shape: ModelShape, values: Values) -> int | None:
    """The number of trained parameters; 0 if the model has no weights for the method.

    `None` if there is no formula: for custom PeftConfigs and unknown kinds of experts.
    """
    count = method.count
    if not isinstance(count, LayerCount):
        return None if count is None else count(shape, values)
    if not shape.is_known:
        return None
    layers = shape.sizes(target_names(values)).items()
    experts = [((e.outputs, e.inputs), e.number) for e in reached_experts(method, shape, values)]
    total = 0
    for size, times in (*layers, *experts):
        own = fitted(method, *size, values)
        total += 0 if own is None else times * count.of_layer(*size, own)
    return total


def misfit(method: MethodSpec, shape: ModelShape, values: Values) -> Misfit | None:
    """The first hyperparameter whose value does not fit the model."""
    found = None if method.limit is None else _above_limit(method.limit, shape, values)
    return found or method.fits(shape, values)


def _above_limit(limit: LayerLimit, shape: ModelShape, values: Values) -> Misfit | None:
    """The problem if the values exceed the limit on all chosen layers, or if there are none."""
    missing = has_targets(shape, values)
    layers = targeted(shape, values)
    if missing or not layers:
        return missing
    widest = max(layers, key=lambda layer: limit.most(layer.outputs, layer.inputs))
    most = limit.most(widest.outputs, widest.inputs)
    for name in limit.names:
        if int(values[name]) > most:
            return Misfit(
                name,
                f"{limit.label} {values[name]} is above {most:,}, {limit.what} of "
                f"{widest.short_name} ({widest.inputs:,} inputs, {widest.outputs:,} outputs); "
                f"choose {most:,} or less",
            )
    return None


def config_on(
    method: MethodSpec, values: Values, plan: RunPlan, shape: ModelShape | None
) -> PeftConfig:
    """The configuration of a method that has one, for a model; `shape` is `None` if unknown.

    PEFT's "all-linear" is kept if it selects the same layers as the setting. Otherwise the layers
    are listed by name (fused experts by parameter), and narrower layers get their rank and alpha in
    PEFT's patterns.
    """
    assert method.peft_config is not None
    config: Any = method.peft_config(values, plan)
    if method.hyperparameter(LAYERS.name) is None or shape is None:
        return config
    layers, experts = targeted(shape, values), reached_experts(method, shape, values)
    kept = tuple(x for x in layers if fitted(method, x.outputs, x.inputs, values) is not None)
    meant_by_peft = shape.linears if target_names(values) is None else layers
    if kept != meant_by_peft or experts:
        config.target_modules = set(_names(kept, shape))
    if experts:
        config.target_parameters = sorted({f"experts.{matrix.short_name}" for matrix in experts})
    if method.limit is not None and method.limit.by_layer:
        _set_patterns(config, method, (*kept, *experts), values)
    return config


def _names(chosen: Sequence[Linear], shape: ModelShape) -> list[str]:
    """Names that select exactly these layers: the last part if it is unambiguous, else in full."""
    wanted = {layer.name for layer in chosen}
    others = {layer.short_name for layer in shape.linears if layer.name not in wanted}
    return sorted({x.name if x.short_name in others else x.short_name for x in chosen})


def _set_patterns(
    config: Any, method: MethodSpec, reached: Sequence[Linear], values: Values
) -> None:
    """Sets the rank of each narrower layer, and an alpha that gives it the same scale."""
    rank = int(values["r"])
    alpha = config.lora_alpha if hasattr(config, "lora_alpha") else config.alpha
    is_rooted = getattr(config, "use_rslora", False)
    fits = {x: fitted(method, x.outputs, x.inputs, values) or values for x in reached}
    ranks = {layer: int(own["r"]) for layer, own in fits.items()}
    by_name: dict[str, set[int]] = {}
    for layer, own in ranks.items():
        by_name.setdefault(layer.short_name, set()).add(own)
    for layer, own in ranks.items():
        if own == rank:
            continue
        name = layer.short_name if len(by_name[layer.short_name]) == 1 else layer.name
        share = own / rank
        config.rank_pattern[name] = own
        config.alpha_pattern[name] = alpha * (math.sqrt(share) if is_rooted else share)


def reach_words(method: MethodSpec, shape: ModelShape, values: Values) -> str:
    """Describes the adapted layers; "" if they are simply all layers that the setting names.

    Needed for experts, layers in `PASSED_OVER`, and layers narrower than the rank.
    """
    if method.hyperparameter(LAYERS.name) is None:
        return ""
    layers, experts = targeted(shape, values), reached_experts(method, shape, values)
    narrow = {
        layer: fitted(method, layer.outputs, layer.inputs, values)
        for layer in (*layers, *experts)
        if method.limit and not method.limit.holds(layer.outputs, layer.inputs, values)
    }
    kept = [layer for layer in layers if narrow.get(layer, values) is not None]
    sentences = []
    if target_names(values) is None and (shape.has_experts or shape.adaptable != shape.linears):
        sentences.append(_parts_words(kept, bool(experts), shape))
    left_out = sorted({layer.short_name for layer, own in narrow.items() if own is None})
    smaller = sorted({f"{x.short_name} ({own['r']})" for x, own in narrow.items() if own})
    if left_out and method.limit is not None:
        asked = f"{method.limit.label} {max(int(values[name]) for name in method.limit.names)}"
        sentences.append(f"Layers too narrow for {asked} are left out: {join_names(left_out)}.")
    if smaller:
        sentences.append(
            f"Layers narrower than rank {values['r']} get a smaller one, with alpha to match: "
            f"{join_names(smaller)}."
        )
    return " ".join(sentences)


_PARTS = {"shared_expert": "the shared expert", "attn": "attention", "attention": "attention"}
"""The part of the model that a layer belongs to, by its name; default: the dense layers."""


def _parts_words(kept: Sequence[Linear], has_experts: bool, shape: ModelShape) -> str:
    """A sentence as in "Adapts attention and experts, not the router and the shared expert"."""
    passed_over = PASSED_OVER.get(shape.architecture)
    if passed_over is not None:
        own = join_names(sorted({layer.short_name for layer in kept}))
        rest = join_names(sorted(passed_over))
        return f"Adapts {own} alone: the model reads the weights of {rest} by itself."
    reached = list(dict.fromkeys(_part_of(layer) for layer in kept))
    adapted = {layer.name for layer in kept}
    others = [_part_of(layer) for layer in shape.linears if layer.name not in adapted]
    if has_experts:
        reached.append("experts")
    elif shape.has_experts:
        others.append("the experts")
    left = [part for part in dict.fromkeys(others) if part not in reached]
    words = f"Adapts {join_names(reached)}"
    return f"{words}, not {join_names(left)}." if left else f"{words}."


def _part_of(layer: Linear) -> str:
    if is_router(layer.name):
        return "the router"
    found = (words for part, words in _PARTS.items() if part in layer.name)
    return next(found, "the dense layers")


def needs_layers(shape: ModelShape, values: Values) -> str:
    """Why a model without linear layers is not supported; "" if it has some."""
    return "" if shape.adaptable else "this model has no linear layers that PEFT can adapt"


def needs_plain_layers(shape: ModelShape, values: Values) -> str:
    """As `needs_layers`, for a PEFT type that does not support transformers' Conv1D."""
    if shape.is_transposed:
        return (
            f"the layers of a {shape.architecture} model are transformers' Conv1D, "
            "which PEFT does not support for this method"
        )
    return needs_layers(shape, values)


def has_targets(shape: ModelShape, values: Values) -> Misfit | None:
    """The problem if the model has none of the layers that the setting selects."""
    names = target_names(values)
    if names is None or shape.sizes(names):
        return None
    known = ", ".join(dict.fromkeys(linear.short_name for linear in shape.adaptable))
    return Misfit(
        LAYERS.name,
        f"this model has none of the layers {', '.join(names)}; it has {known}; "
        f"choose {ALL_LINEAR}",
    )


def known_architecture(known: Mapping[str, object], what: str) -> Callable[..., str]:
    """A check that PEFT has default target layers for the architecture."""

    def check(shape: ModelShape, values: Values) -> str:
        if shape.architecture in known:
            return ""
        return (
            f"PEFT does not know {what} of a {shape.architecture or 'model without model_type'}, "
            f"only of: {', '.join(known)}"
        )

    return check
