"""How large a hyperparameter may be on a given model: ranks and blocks against its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ftlab.methods.shape import ModelShape
from ftlab.methods.spec import Misfit, Values
from ftlab.methods.targets import has_targets, targeted


@dataclass(frozen=True)
class LayerLimit:
    """How large the hyperparameters of those names may be on a layer: `most(outputs, inputs)`.

    `label` is what a person calls them, `what` says in words what the limit is. A layer that cannot
    bear them gets its `most` where PEFT takes a value by layer (`by_layer`), and is left out where
    PEFT takes one for all.
    """

    label: str
    most: Callable[[int, int], int]
    what: str
    names: tuple[str, ...]
    by_layer: bool = False

    def holds(self, outputs: int, inputs: int, values: Values) -> bool:
        """Whether a layer of that size can bear them."""
        most = self.most(outputs, inputs)
        return all(int(values[name]) <= most for name in self.names)

    def misfit(self, shape: ModelShape, values: Values) -> Misfit | None:
        """What is wrong where not one of the chosen layers can bear them."""
        missing = has_targets(shape, values)
        layers = targeted(shape, values)
        if missing or not layers:
            return missing
        widest = max(layers, key=lambda layer: self.most(layer.outputs, layer.inputs))
        most = self.most(widest.outputs, widest.inputs)
        for name in self.names:
            if int(values[name]) > most:
                return Misfit(
                    name,
                    f"{self.label} {values[name]} is above {most:,}, {self.what} of "
                    f"{widest.short_name} ({widest.inputs:,} inputs, {widest.outputs:,} outputs); "
                    f"choose {most:,} or less",
                )
        return None


RANK_OF_WEIGHT = LayerLimit("rank", min, "the full rank", ("r",))
"""A product of rank min(inputs, outputs) is any matrix; PiSSA has no more singular vectors, and
RandLoRA no wider products."""

RANK_BY_LAYER = replace(RANK_OF_WEIGHT, by_layer=True)
"""Of methods whose configuration has a `rank_pattern` and an `alpha_pattern`."""

RANKS_OF_ADALORA = replace(RANK_OF_WEIGHT, names=("init_r", "r"))

ROWS_OF_BLOCK = LayerLimit("rank", lambda o, i: i, "the inputs", ("r",))
"""`MissLayer.update_layer` refuses more."""

ENTRIES = LayerLimit(
    "rank", lambda o, i: o * i // (o + i), "the most that the entries allow,", ("r",)
)
"""r(outputs + inputs) entries cannot be more than there are (`ShiraLayer.update_layer`)."""

FREQUENCIES = LayerLimit(
    "the number of frequencies", lambda o, i: o * i, "the size of the spectrum", ("n",)
)

REFLECTIONS = LayerLimit("the number of reflections", lambda o, i: i, "the inputs", ("r",))

BLOCK = LayerLimit("block size", lambda o, i: i, "the inputs", ("block",))


def reflections_in_pairs(shape: ModelShape, values: Values) -> Misfit | None:
    """As many as there are inputs, in pairs that cancel out at the start.

    An odd number begins as a random turn of every weight (`HRALayer.reset_hra_parameters`).
    """
    number = int(values["r"])
    if number % 2 == 0:
        return None
    return Misfit(
        "r",
        f"{number} reflections are odd, so the model would not start as it is; choose {number + 1}",
    )


def blocks_divide(shape: ModelShape, values: Values) -> Misfit | None:
    """A block size must divide the inputs of every layer that is turned."""
    block = int(values["block"])
    odd = next((x for x in targeted(shape, values) if x.inputs > block and x.inputs % block), None)
    if odd is None:
        return None
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
