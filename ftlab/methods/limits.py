"""How large a hyperparameter may be on a given model: ranks and blocks against its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ftlab.methods.shape import ModelShape
from ftlab.methods.spec import Misfit, Values
from ftlab.methods.targets import has_targets, target_names, targeted

Fits = Callable[[ModelShape, Values], Misfit | None]


def at_most(label: str, limit: Callable[[int, int], int], what: str, *names: str) -> Fits:
    """Checks that the hyperparameters of those names are at most `limit` on every chosen layer.

    `limit(outputs, inputs)` is that of a layer, and `what` says in words what it is.
    """

    def check(shape: ModelShape, values: Values) -> Misfit | None:
        missing = has_targets(shape, values)
        sizes = shape.sizes(target_names(values))
        if missing or not sizes:
            return missing
        most = min(limit(*size) for size in sizes)
        for name in names:
            if int(values[name]) > most:
                layer = min(targeted(shape, values), key=lambda x: limit(x.outputs, x.inputs))
                return Misfit(
                    name,
                    f"{label} {values[name]} is above {most:,}, {what} of {layer.short_name} "
                    f"({layer.inputs:,} inputs, {layer.outputs:,} outputs); "
                    f"choose {most:,} or less",
                )
        return None

    return check


rank_of_weight = at_most("rank", min, "the full rank", "r")
"""A product of rank min(inputs, outputs) is any matrix; PiSSA has no more singular vectors, and
RandLoRA no wider products."""

ranks_of_adalora = at_most("rank", min, "the full rank", "init_r", "r")

rows_of_block = at_most("rank", lambda o, i: i, "the inputs", "r")
"""`MissLayer.update_layer` refuses more."""

entries = at_most("rank", lambda o, i: o * i // (o + i), "the most that the entries allow,", "r")
"""r(outputs + inputs) entries cannot be more than there are (`ShiraLayer.update_layer`)."""

frequencies = at_most(
    "the number of frequencies", lambda o, i: o * i, "the size of the spectrum", "n"
)

_reflections = at_most("the number of reflections", lambda o, i: i, "the inputs", "r")


def reflections(shape: ModelShape, values: Values) -> Misfit | None:
    """As many as there are inputs, in pairs that cancel out at the start.

    An odd number begins as a random turn of every weight (`HRALayer.reset_hra_parameters`).
    """
    number = int(values["r"])
    if number % 2:
        return Misfit(
            "r",
            f"{number} reflections are odd, so the model would not start as it is; "
            f"choose {number + 1}",
        )
    return _reflections(shape, values)


def blocks(shape: ModelShape, values: Values) -> Misfit | None:
    """A block size must divide the inputs of every layer that is turned."""
    missing = has_targets(shape, values)
    block = int(values["block"])
    if missing or all(inputs % block == 0 for _, inputs in shape.sizes(target_names(values))):
        return missing
    odd = next(layer for layer in targeted(shape, values) if layer.inputs % block)
    return Misfit(
        "block",
        f"block size {block} does not divide the {odd.inputs:,} inputs of {odd.short_name}; "
        "choose a divisor of them",
    )


def blocks_of_model(shape: ModelShape, values: Values) -> Misfit | None:
    """No more blocks can learn than the model has."""
    wanted = int(values["layers"])
    if wanted <= shape.layers:
        return None
    return Misfit(
        "layers",
        f"this model has {shape.layers} blocks, not {wanted}; choose {shape.layers} or fewer",
    )


def known_architecture(known: Mapping[str, object], what: str) -> Callable[..., str]:
    """Checks that PEFT knows by itself which layers of the architecture are meant."""

    def check(shape: ModelShape, values: Values) -> str:
        if shape.architecture in known:
            return ""
        return (
            f"PEFT does not know {what} of a {shape.architecture or 'model without model_type'}, "
            f"only of: {', '.join(known)}"
        )

    return check
