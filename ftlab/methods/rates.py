"""Default learning rates for models of a different size than the bundled model.

Every method's rate was tuned on the bundled model. For another model it is scaled: tuned rate x
rule(size) / rule(size of the bundled model), to two significant digits. One published rule is used
for all methods, unless a method's paper has its own. The texts for users are here too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ftlab.basics.words import join_names
from ftlab.settings.training import HIGHEST_RATE

_WIDEST = 10_000_000  # a larger hidden size is treated as invalid


@dataclass(frozen=True)
class ModelSize:
    """The input of a rule: the config's `model_type` and hidden size.

    `hidden` is 0 if the config does not give it.
    """

    family: str
    hidden: int


TUNED_ON = ModelSize("llama", 576)
"""The bundled model, SmolLM2-135M, which has the Llama architecture."""


def size_of(config: Mapping[str, Any]) -> ModelSize:
    """The size from a model's config.json; for a multimodal model, that of its text part."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, Mapping) and inner else config
    names = ("hidden_size", "n_embd", "d_model")  # GPT-2 and MPT use their own names
    widths = (text.get(name) for name in names)
    hidden = next((width for width in widths if type(width) is int and 0 < width <= _WIDEST), 0)
    return ModelSize(str(text.get("model_type") or config.get("model_type") or ""), hidden)


@dataclass(frozen=True)
class RateRule:
    """How a learning rate depends on the size of the model, up to a constant factor: `at(size)`.

    `words` describes it to users, after "the rate"; `source` and `url` are its publication.
    """

    words: str
    source: str
    url: str
    at: Callable[[ModelSize], float]

    def rate(self, tuned: float, size: ModelSize) -> float:
        """The rate for a model of that size; `tuned`, the bundled model's, if unknown."""
        factor = self.at(size) / self.at(TUNED_ON) if size.hidden else 1.0
        return tuned if factor == 1 else min(two_digits(tuned * factor), HIGHEST_RATE)


def two_digits(rate: float) -> float:
    """The rate to two significant digits: 0.00066667 -> 0.00067."""
    return float(f"{rate:.1e}")


LLAMA_EXPONENT, QWEN_EXPONENT = 0.781, 0.0775


def exponent_of(family: str) -> float:
    """The exponent P of the width for a `model_type`."""
    return QWEN_EXPONENT if "qwen" in family.lower() else LLAMA_EXPONENT


def _by_width(size: ModelSize) -> float:
    """(2000 / hidden size)^P. The published LR = 5e-5 * M * (2000 / hidden size)^P has M = 10 for
    LoRA and 1 for full fine-tuning. M cancels out, since each method scales its own tuned rate.
    """
    return (2000 / size.hidden) ** exponent_of(size.family)


BY_WIDTH = RateRule(
    words=f"falls as the model gets wider, by (2000 / hidden size)^{LLAMA_EXPONENT}, "
    f"of Qwen ^{QWEN_EXPONENT}",
    source="Schulman et al. 2025, LoRA Without Regret; constants of tinker-cookbook's "
    "hyperparam_utils",
    url="https://thinkingmachines.ai/blog/lora/",
    at=_by_width,
)
"""The published rule for all methods without a rule of their own.

Schulman et al. 2025, "LoRA Without Regret", Thinking Machines Lab: Connectionism, 29 September
2025, swept rates for 14 models of the Llama and the Qwen family and fitted
LR = M (2000 / hidden size)^P, with one P per family for both LoRA and full fine-tuning. The
constants are those of `tinker_cookbook/hyperparam_utils.py`, `get_lr`, in
github.com/thinking-machines-lab/tinker-cookbook (commits cf00c2d of 5 October 2025 to 9dfcc3a of
19 August 2026, unchanged): 5e-5, 10, 2000, 0.781 for Llama, 0.0775 for Qwen. The bundled model is
narrower than any published model of the two families, so scaling from it is an extrapolation.

`get_lr` rejects all other families, because no fit exists. Here they are scaled with Llama's
exponent: the rates were tuned on a Llama, so at the tuned width they do not change.
"""


def unscaled(source: str, url: str) -> RateRule:
    """The rule of a paper that uses the same rate for all model sizes."""
    return RateRule("stays the same for every size", source, url, lambda size: 1.0)


TUNED_MODEL = "SmolLM2-135M"

NOT_TUNED = f"Learning rates were tuned on {TUNED_MODEL}, not on this model"
"""The first half of a sentence; the caller adds what was done instead, or what to do."""


def what_is_done(size: ModelSize) -> str:
    """A short phrase on how the tuned rates are used for a model of that size."""
    return "used unchanged" if BY_WIDTH.rate(1.0, size) == 1 else "scaled to its size"


def how_scaled(size: ModelSize, kept: list[str]) -> str:
    """Explains to users how the rates are scaled to a model of that size, with the source.

    `kept` are the labels of the methods whose rate stays the same (`registry.rates_kept`).
    """
    if not size.hidden:
        return "Its config does not say how wide it is, so they are used unchanged."
    factor = BY_WIDTH.rate(1.0, size)
    if factor == 1:
        return f"It is as wide as {TUNED_MODEL}, so they are used unchanged."
    widths = f"{TUNED_ON.hidden:,} numbers wide, this one {size.hidden:,}"
    return (
        f"{TUNED_MODEL} is {widths}: most rates are {factor:g} times the tuned ones, by "
        f"(2000 / hidden size)^{exponent_of(size.family):g} ({BY_WIDTH.source}). "
        f"{join_names(kept)} keep theirs, as their papers do."
    )
