"""The types of a method: what is compared, and what a person can set on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ftlab.methods.dimensions import ModelShape
from ftlab.methods.rates import BY_WIDTH, ModelSize, RateRule

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn
    from torch.optim import Optimizer

Value = int | float | str | bool
Values = Mapping[str, Value]
BasePrecision = Literal["nf4", "int8"]

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


def whole(name: str) -> Callable[[Values], int]:
    """Reads that hyperparameter as a whole number."""

    def read(values: Values) -> int:
        return int(values[name])

    return read


def real(name: str) -> Callable[[Values], float]:
    """Reads that hyperparameter as a number."""

    def read(values: Values) -> float:
        return float(values[name])

    return read


def peft_config(name: str, **fields: Any) -> Callable[[Values, RunPlan], PeftConfig]:
    """A maker of PEFT's configuration class of that name.

    Each field is a value, or a function of the hyperparameters that gives it.
    """

    def make(values: Values, plan: RunPlan) -> PeftConfig:
        import peft

        given = {field: x(values) if callable(x) else x for field, x in fields.items()}
        made: PeftConfig = getattr(peft, name)(task_type="CAUSAL_LM", **given)
        return made

    return make


@dataclass(frozen=True)
class LayerCount:
    """Trained parameters of one layer, by its outputs and inputs and the hyperparameters."""

    of_layer: Callable[[int, int, Values], int]


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


@dataclass(frozen=True)
class OwnOptimizer:
    """An optimizer of the method's own.

    `make(model, optimizer_class, options, values)` makes it of the optimizer that was chosen for
    the sweep; `options` are that one's keyword arguments, `lr` and `weight_decay` among them. Where
    it replaces the chosen one, `replaces` is the only one that may be chosen, and `what` names the
    method's own.

    In a reproduction script it is `script_import` and `script_method`, a method of the Trainer with
    the hyperparameters as `{name}`.
    """

    make: Callable[[Any, Any, dict[str, Any], Values], Optimizer]
    script_import: str = ""
    script_method: str = ""
    replaces: str = ""
    what: str = ""


@dataclass(frozen=True)
class LoopHooks:
    """What a kind of adapter, one `peft_type`, does in the training loop, by hand or by a method.

    Each takes the model as PEFT made it. `added_loss(model)` is a term that is added to the loss,
    `None` for none. `after_step(model, step, skipped)` comes once the weights are updated, while
    the gradients are still there; `step` counts from 1, and `skipped()` says whether the gradients
    overflowed, so that no weight changed.

    In a reproduction script they are what `script_added_loss(config)` gives, which continues the
    expression of the loss ("" for none), and `script_after_step`, a method of the callback.
    """

    added_loss: Callable[[Any], Tensor | None]
    after_step: Callable[[Any, int, Callable[[], bool]], None]
    script_added_loss: Callable[[Mapping[str, Any]], str]
    script_after_step: str


@dataclass(frozen=True)
class PeftTraits:
    """How a PEFT configuration of others shows that it is the method's, and plain.

    `type` is its `peft_type`. Beyond what is plain for that type it sets nothing but the field
    `feature`, or an `init_lora_weights` that begins with `start`, or it was trained with one of
    `optimizers` (in lower case, words joined by "-").
    """

    type: str
    feature: str = ""
    start: str = ""
    optimizers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbePlan:
    """How the method is tried on a tiny model, where its defaults or that model do not do.

    `settings` are hyperparameters as in "layers=1". `needs_biases` asks for a model with biases.
    Logits of a saved and loaded model may differ by `same_logits`. `note` tells people of it.
    """

    settings: str = ""
    needs_biases: bool = False
    same_logits: float = 1e-4
    note: str = ""


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

    Adding a method is adding one of these to a file of `ftlab.methods.families`: page, command
    line, validation, report and tests follow from it. `short` is what it is called where there is
    little room ("": as `label`). `base_precision` is how the frozen base is held (`None`: as the
    dtype policy says), and `quantises` the id of the method that it is on such a base.
    `peft_config(hyperparameters, plan)` builds PEFT's configuration; `None` means that no adapter
    is laid over the model, and then `select_trainable` says which weights learn.

    `optimizer` is an optimizer of the method's own, `hooks` what else it does in the training loop.
    `applies` says in a sentence why a model cannot be trained with it, or "" where it can. `limit`
    is how large its hyperparameters may be on a layer. `reaches_experts` says whether PEFT lays it
    over experts that are held as one parameter, and keeps that right. `count` is how many
    parameters it trains, of one layer or of a model (`None`: not known before the run). `size`
    names the hyperparameter that these grow with, `soft_tokens` the one that counts vectors which
    take up positions of the model. `names` says what a variant is called (`None`: by the label, and
    what differs from the defaults).

    `learning_rate` was tuned on the bundled model; `rate_rule` says what it becomes on another.
    """

    id: str
    label: str
    family: Family
    summary: str
    paper: Paper
    look: Look
    learning_rate: float
    short: str = ""
    rate_rule: RateRule = BY_WIDTH
    hyperparameters: tuple[Hyperparameter, ...] = ()
    base_precision: BasePrecision | None = None
    peft_config: Callable[[Values, RunPlan], PeftConfig] | None = None
    select_trainable: Callable[[nn.Module, Values], None] = every_parameter
    optimizer: OwnOptimizer | None = None
    hooks: LoopHooks | None = None
    applies: Callable[[ModelShape, Values], str] = always_applies
    fits: Callable[[ModelShape, Values], Misfit | None] = always_fits
    limit: LayerLimit | None = None
    reaches_experts: bool = False
    count: Callable[[ModelShape, Values], int | None] | LayerCount | None = None
    size: str | None = None
    in_proportion: tuple[str, ...] = ()
    soft_tokens: str | None = None
    requires: tuple[str, ...] = ()
    names: Callable[[Values], str] | None = None
    quantises: str | None = None
    peft_traits: PeftTraits | None = None
    probe: ProbePlan = ProbePlan()

    @property
    def short_label(self) -> str:
        """What it is called where there is little room."""
        return self.short or self.label

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

    def defaults(self) -> dict[str, Value]:
        return {parameter.name: parameter.default for parameter in self.hyperparameters}

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        return next((p for p in self.hyperparameters if p.name == name), None)
