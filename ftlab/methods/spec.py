"""The types of a method: what is compared, and what a person can set on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftlab.methods.rates import BY_WIDTH, ModelSize, RateRule

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from ftlab.methods.counts import LayerCount
    from ftlab.methods.limits import LayerLimit
    from ftlab.methods.shape import ModelShape

Value = int | float | str | bool
Values = Mapping[str, Value]
BasePrecision = Literal["nf4", "int8"]
OwnOptimizer = Literal["lora_plus", "lora_fa"]

Family = Literal[
    "full", "part", "low rank", "quantised", "structured", "orthogonal", "scaling", "prompt"
]
FAMILIES: dict[Family, str] = {
    "full": "Every weight",
    "part": "Some of the model's own weights",
    "low rank": "A low-rank overlay, LoRA and its kin",
    "quantised": "LoRA on a base held in fewer bits",
    "structured": "An overlay of another form",
    "orthogonal": "Rotations of the weights",
    "scaling": "Scales on what layers compute",
    "prompt": "Vectors before the question",
}
"""What a method changes, in the order in which families are shown."""


@dataclass(frozen=True)
class Paper:
    title: str
    url: str


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of a method, with the range in which it makes sense.

    `kind` is "int", "float", "choice" or "text"; `minimum` and `maximum` are inclusive, of a text
    they are its length in characters. `read` brings a text into its one form, and raises
    `FtlabError` where it cannot be used; a setting that has it must be given.
    """

    name: str
    label: str
    kind: Literal["int", "float", "choice", "text"]
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    read: Callable[[str], str] | None = None


@dataclass(frozen=True)
class Look:
    """How a method looks in every figure and table: colour, marker symbol and line dash."""

    colour: str
    marker: str
    dash: str


@dataclass(frozen=True)
class RunPlan:
    """What a method may need to know of its run: optimizer steps, and the tokenizer's folder."""

    steps: int
    tokenizer: str


@dataclass(frozen=True)
class Misfit:
    """A hyperparameter whose value does not fit a model: its name, and why, with the way out."""

    name: str
    why: str


def every_parameter(model: nn.Module, values: Values) -> None:
    """Lets every weight of the model learn."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def always_applies(shape: ModelShape, values: Values) -> str:
    """Of a method that any causal language model can be trained with."""
    return ""


def always_fits(shape: ModelShape, values: Values) -> Misfit | None:
    """Of a method whose hyperparameters fit every model."""
    return None


@dataclass(frozen=True)
class MethodSpec:
    """One way to fine-tune.

    Adding a method is adding one of these to the registry: page, command line, validation and
    tests follow from it. `base_precision` is how the frozen base is held (`None`: as the dtype
    policy says). `peft_config(hyperparameters, plan)` builds PEFT's configuration; `None` means
    that no adapter is laid over the model, and then `select_trainable` says which weights learn.

    `optimizer` names an optimizer of the method's own, made of the chosen one. `applies` says in
    a sentence why a model cannot be trained with it, or "" where it can. `limit` is how large its
    hyperparameters may be on a layer. `reaches_experts` says whether PEFT lays it over experts that
    are held as one parameter, and keeps that right. `size` names the
    hyperparameter that its trainable parameters grow with. `names` says what a variant is called
    (`None`: by the label, and what differs from the defaults).

    `learning_rate` was tuned on the bundled model; `rate_rule` says what it becomes on another.
    """

    id: str
    label: str
    short_label: str
    family: Family
    summary: str
    paper: Paper
    look: Look
    learning_rate: float
    rate_rule: RateRule = BY_WIDTH
    hyperparameters: tuple[Hyperparameter, ...] = ()
    base_precision: BasePrecision | None = None
    peft_config: Callable[[Values, RunPlan], PeftConfig] | None = None
    select_trainable: Callable[[nn.Module, Values], None] = every_parameter
    optimizer: OwnOptimizer | None = None
    applies: Callable[[ModelShape, Values], str] = always_applies
    fits: Callable[[ModelShape, Values], Misfit | None] = always_fits
    limit: LayerLimit | None = None
    reaches_experts: bool = False
    count: Callable[[ModelShape, Values], int | None] | LayerCount | None = None
    size: str | None = None
    in_proportion: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    names: Callable[[Values], str] | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether it is laid over the model by PEFT; else weights of the model itself learn."""
        return self.peft_config is not None

    @property
    def ships_whole_model(self) -> bool:
        """Whether its result is a whole model; else the weights that learnt are enough."""
        return not self.is_adapter and self.select_trainable is every_parameter

    def rate_for(self, size: ModelSize) -> float:
        """The starting rate for a model of that size: on the bundled model the tuned one."""
        return self.rate_rule.rate(self.learning_rate, size)

    def misfit(self, shape: ModelShape, values: Values) -> Misfit | None:
        """The first hyperparameter whose value does not fit the model."""
        found = None if self.limit is None else self.limit.misfit(shape, values)
        return found or self.fits(shape, values)

    def defaults(self) -> dict[str, Value]:
        return {parameter.name: parameter.default for parameter in self.hyperparameters}

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        return next((p for p in self.hyperparameters if p.name == name), None)
