"""The types of a method: what is compared, and what a person can set on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

Value = int | float | str | bool
BasePrecision = Literal["nf4", "int8"]


@dataclass(frozen=True)
class Paper:
    title: str
    url: str


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of a method, with the range in which it makes sense.

    `kind` is "int", "float" or "choice"; `minimum` and `maximum` are inclusive.
    """

    name: str
    label: str
    kind: Literal["int", "float", "choice"]
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """How a method looks in every figure and table: colour, marker symbol and line dash."""

    colour: str
    marker: str
    dash: str


def every_parameter(model: nn.Module) -> None:
    """Lets every weight of the model learn."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)


@dataclass(frozen=True)
class MethodSpec:
    """One way to fine-tune.

    Adding a method is adding one of these to the registry: page, command line, validation and
    tests follow from it. `base_precision` is how the frozen base is held (`None`: as the dtype
    policy says). `peft_config(hyperparameters)` builds PEFT's configuration; `None` means that no
    adapter is laid over the model, and then `select_trainable` says which weights learn.
    """

    id: str
    label: str
    short_label: str
    family: str
    summary: str
    paper: Paper
    look: Look
    learning_rate: float
    hyperparameters: tuple[Hyperparameter, ...] = ()
    base_precision: BasePrecision | None = None
    peft_config: Callable[[Mapping[str, Value]], PeftConfig] | None = None
    select_trainable: Callable[[nn.Module], None] = every_parameter

    @property
    def is_adapter(self) -> bool:
        return self.peft_config is not None

    def defaults(self) -> dict[str, Value]:
        return {parameter.name: parameter.default for parameter in self.hyperparameters}

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        return next((p for p in self.hyperparameters if p.name == name), None)
