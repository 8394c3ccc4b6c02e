"""Starting learning rates for models of another size than the one they were tuned on.

Every method's rate was tuned on the bundled model. For another model it is scaled: tuned rate x
rule(size) / rule(size of the bundled model), to two significant digits. One published rule serves
all methods, unless a method's paper has its own. What people are told of it is here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ftlab.basics.words import join_names
from ftlab.settings.training import HIGHEST_RATE

_WIDEST = 10_000_000  # a width beyond it is no width of a model


@dataclass(frozen=True)
class ModelSize:
    """What a rule looks at: the config's `model_type`, and the width of a token's vector.

    `hidden` is 0 where the config does not say it.
    """

    family: str
    hidden: int


TUNED_ON = ModelSize("llama", 576)
"""The bundled model, SmolLM2-135M: a Llama by its architecture."""


def size_of(config: Mapping[str, Any]) -> ModelSize:
    """The size that a model's config.json gives; of a model with an encoder, its text part's."""
    inner = config.get("text_config")
    text = inner if isinstance(inner, Mapping) and inner else config
    names = ("hidden_size", "n_embd", "d_model")  # GPT-2 and MPT have names of their own
    widths = (text.get(name) for name in names)
    hidden = next((width for width in widths if type(width) is int and 0 < width <= _WIDEST), 0)
    return ModelSize(str(text.get("model_type") or config.get("model_type") or ""), hidden)


@dataclass(frozen=True)
class RateRule:
    """How a method's learning rate goes with the size of the model.

    `at(size)` is what the rule says for a size, up to a factor that is the same for all sizes.
    `words` say it for people, after "the rate"; `source` and `url` say who published it.
    """

    words: str
    source: str
    url: str
    at: Callable[[ModelSize], float]

    def rate(self, tuned: float, size: ModelSize) -> float:
        """The starting rate for a model of that size; `tuned` is the bundled model's.

        It is the tuned one, digit for digit, where the rule asks for no change, and where the
        width is not known.
        """
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
    LoRA and 1 for full fine-tuning, which cancels: a method is scaled by its own tuned rate.
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
"""The published rule for all methods that have none of their own.

Schulman et al. 2025, "LoRA Without Regret", Thinking Machines Lab: Connectionism, 29 September
2025, swept rates for 14 models of the Llama and the Qwen family and fitted
LR = M (2000 / hidden size)^P, with one P a family that LoRA and full fine-tuning share. The
constants are those of `tinker_cookbook/hyperparam_utils.py`, `get_lr`, in
github.com/thinking-machines-lab/tinker-cookbook (commits cf00c2d of 5 October 2025 to 9dfcc3a of
19 August 2026, unchanged): 5e-5, 10, 2000, 0.781 for Llama, 0.0775 for Qwen. The bundled model is
narrower than any published model of the two families, so the step from it is an extrapolation.

`get_lr` refuses all other families, because nobody fitted them. They are scaled by Llama's
exponent: the rates were tuned on a Llama, so that curve changes nothing at the tuned width.
"""


def unscaled(source: str, url: str) -> RateRule:
    """The rule of a paper whose rate does not fall from small models to large ones."""
    return RateRule("stays the same for every size", source, url, lambda size: 1.0)


TUNED_MODEL = "SmolLM2-135M"

NOT_TUNED = f"Learning rates were tuned on {TUNED_MODEL}, not on this model"
"""The sentence without its end: what was done instead follows, or what to do."""


def what_is_done(size: ModelSize) -> str:
    """In a few words what becomes of the tuned rates on a model of that size."""
    return "used unchanged" if BY_WIDTH.rate(1.0, size) == 1 else "scaled to its size"


def how_scaled(size: ModelSize, kept: list[str]) -> str:
    """By which rule the rates come about on a model of that size, and whose it is.

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
