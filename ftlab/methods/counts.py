"""How many parameters a variant trains, in closed form: known before anything is loaded.

Each formula is read off the layer that PEFT 0.21 makes, and named with the place. They are sums
over the chosen linear layers, with `outputs` and `inputs` of a layer as o and i. A layer narrower
than the rank counts with the rank that it gets (`targets.fitted`), and each expert as a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftlab.methods.known_layers import IA3_INPUTS, IA3_LAYERS, NORM_LAYERS
from ftlab.methods.shape import ModelShape, block_of
from ftlab.methods.targets import fitted, reached_experts, target_names

if TYPE_CHECKING:
    from ftlab.methods.spec import MethodSpec, Values
    from ftlab.methods.variant import Variant


@dataclass(frozen=True)
class LayerCount:
    """Parameters of one layer, by its outputs and inputs and the method's hyperparameters."""

    of_layer: Callable[[int, int, Values], int]


def trainable_parameters(variant: Variant, shape: ModelShape) -> int | None:
    """Parameters that learn; 0 where the model has none for the method.

    `None` where no formula holds: a configuration by hand, experts of an unknown kind.
    """
    return trained_by(variant.spec, shape, variant.values())


def trained_by(method: MethodSpec, shape: ModelShape, values: Values) -> int | None:
    """As `trainable_parameters`, of a method with those hyperparameters."""
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


lora = LayerCount(lambda o, i, values: int(values["r"]) * (o + i))
"""r(o + i): A and B (Hu et al. 2021, section 4.1; `LoraLayer.update_layer`)."""

dora = LayerCount(lambda o, i, values: int(values["r"]) * (o + i) + o)
"""LoRA's, and a length for each of o rows (Liu et al. 2024, eq. 5; `DoraLinearLayer`)."""

lora_fa = LayerCount(lambda o, i, values: int(values["r"]) * o)
"""r·o: B alone, as A is frozen by the optimizer (`create_lorafa_optimizer`)."""

adalora = LayerCount(
    lambda o, i, values: max(int(values["init_r"]), int(values["r"])) * (o + i + 1)
)
"""R(o + i + 1) at the first rank R: P, Q and the diagonal Λ (Zhang et al. 2023, eq. 3;
`AdaLoraLayer.update_layer`). Ranks that are taken away stay as zeros, so as many are trained."""

vera = LayerCount(lambda o, i, values: o + int(values["r"]))
"""o + r: the vectors b and d (Kopiczko et al. 2023, eq. 2; `VeraLayer.update_layer`)."""

loha = LayerCount(lambda o, i, values: 2 * int(values["r"]) * (o + i))
"""2r(o + i): two products (Hyeon-Woo et al. 2021, prop. 2; `LoHaLayer`)."""

shira = lora
"""As many entries as a LoRA of rank r has (`ShiraLayer.update_layer`)."""

miss = LayerCount(lambda o, i, values: int(values["r"]) * o)
"""r·o: one block (Kang & Yin 2024, section 3; `MissLayer.update_layer`)."""

fourierft = LayerCount(lambda o, i, values: int(values["n"]))
"""n spectral entries a layer (Gao et al. 2024, table 1; `FourierFTLayer.update_layer`)."""

oft = LayerCount(lambda o, i, values: i * (int(values["block"]) - 1) // 2)
"""i / b blocks of b(b - 1) / 2 (Qiu et al. 2023, section 3.3; `OFTLayer.update_layer`)."""

boft = LayerCount(lambda o, i, values: i * int(values["block"]) + o)
"""i·b + o: i / b blocks of b², and a scale for each of o rows (Liu et al. 2023, section 4;
`BOFTLayer.update_layer`, one butterfly factor)."""

hra = LayerCount(lambda o, i, values: int(values["r"]) * i)
"""r reflections of i numbers (Yuan et al. 2024, eq. 4; `HRALayer.update_layer`)."""


def _randlora_layer(o: int, i: int, values: Values) -> int:
    rank, small = int(values["r"]), min(o, i)
    return math.ceil(small / rank) * (rank + small)


randlora = LayerCount(_randlora_layer)
"""N(r + m), with m = min(o, i) and N = ceil(m / r) products: Λ of r and Γ of m numbers each (Albert
et al. 2025, section 4; `RandLoraLayer.update_layer`). It falls as r grows."""


def _lokr_layer(o: int, i: int, values: Values) -> int:
    rank = int(values["r"])
    (o1, o2), (i1, i2) = _factors(o), _factors(i)
    second = rank * (o2 + i2) if rank < max(o2, i2) / 2 else o2 * i2
    return o1 * i1 + second


lokr = LayerCount(_lokr_layer)
"""o₁i₁ + r(o₂ + i₂), with o = o₁o₂ and i = i₁i₂ near their square roots; from r = max(o₂, i₂) / 2
on the second matrix is whole: o₂i₂ (Yeh et al. 2023, section 3; `LoKrLayer.update_layer`)."""


def _factors(number: int) -> tuple[int, int]:
    """The two factors nearest to each other, the smaller first (PEFT's `factorization`)."""
    smaller = next(n for n in range(math.isqrt(number), 0, -1) if number % n == 0)
    return smaller, number // smaller


def ia3(shape: ModelShape, values: Values) -> int | None:
    """i for a feed-forward layer, o for another (Liu et al. 2022, section 3.3; `IA3Layer`)."""
    if shape.has_experts:
        return None
    layers = shape.named(IA3_LAYERS.get(shape.architecture, ()))
    return sum(x.inputs if x.short_name in IA3_INPUTS else x.outputs for x in layers)


def every_weight(shape: ModelShape, values: Values) -> int:
    """All of them; tied ones once."""
    return shape.total


def last_layers(shape: ModelShape, values: Values) -> int:
    """The last blocks and the norm after them, as `full.py` frees them."""
    first = shape.layers - int(values["layers"])
    return shape.size_of(
        name for name, size in shape.weights.items() if learns_in_last(name, len(size), first)
    )


def learns_in_last(name: str, dimensions: int, first: int) -> bool:
    """Whether a tensor learns where the blocks from `first` on do, and the norm after them."""
    block = block_of(name)
    return block >= first if block >= 0 else dimensions == 1


def layer_norm(shape: ModelShape, values: Values) -> int:
    """Weight and bias of the norms that PEFT picks (Zhao et al. 2023; `LNTuningLayer`)."""
    ends = tuple(f".{name}" for name in NORM_LAYERS.get(shape.architecture, ()))
    return (
        shape.size_of(
            name for name in shape.weights if f".{name.rpartition('.')[0]}".endswith(ends)
        )
        if ends
        else 0
    )


def biases(shape: ModelShape, values: Values) -> int:
    """All biases (Ben Zaken et al. 2021, section 3)."""
    return shape.size_of(shape.biases)


def prompt_tuning(shape: ModelShape, values: Values) -> int:
    """tokens · hidden (Lester et al. 2021, section 2; `PromptEmbedding`)."""
    return int(values["tokens"]) * shape.hidden


def p_tuning(shape: ModelShape, values: Values) -> int:
    """The vectors, and the network of three layers that they come out of (`PromptEncoder`).

    tokens · h + (hH + H) + (H² + H) + (Hh + h), with h the model's width and H the network's. All
    that is trained: the tokens · h vectors that come out are all that is shipped.
    """
    width, inner = shape.hidden, int(values["hidden"])
    network = width * inner + inner + inner * inner + inner + inner * width + width
    return int(values["tokens"]) * width + network


def prefix_tuning(shape: ModelShape, values: Values) -> int:
    """tokens · layers · 2 · width of the keys (Li & Liang 2021, section 4.2; `PrefixEncoder`)."""
    return int(values["tokens"]) * shape.layers * 2 * shape.key_width
