"""The types that define a method and its hyperparameters."""

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
    "low rank": "A low-rank adapter: LoRA and related methods",
    "quantised": "LoRA on a quantised base",
    "structured": "An adapter of another form",
    "orthogonal": "Rotations of the weights",
    "scaling": "Scales of layer outputs",
    "prompt": "Trained vectors before the prompt",
}
"""Families and their headings (what a method changes), in display order."""


@dataclass(frozen=True)
class Paper:
    title: str
    url: str


def arxiv(number: str, title: str) -> Paper:
    """The paper of that number at arXiv; `title` begins with authors and year."""
    return Paper(title, f"https://arxiv.org/abs/{number}")


@dataclass(frozen=True)
class Hyperparameter:
    """One setting of a method, with its valid range.

    `minimum` and `maximum` are inclusive; for a text they limit its characters. `read` parses a
    text to its canonical form or raises `FtlabError`; a setting with `read` is required.
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
    """A method's style in all figures and tables: colour, marker symbol and line dash."""

    colour: str
    marker: str
    dash: str


@dataclass(frozen=True)
class RunPlan:
    """Values of a run that a method may need: optimizer steps and the tokenizer's folder."""

    steps: int
    tokenizer: str


@dataclass(frozen=True)
class Misfit:
    """A hyperparameter whose value does not fit a model: its name, and the reason with a fix."""

    name: str
    why: str


def whole(name: str) -> Callable[[Values], int]:
    """A function that returns that hyperparameter as an int."""

    def read(values: Values) -> int:
        return int(values[name])

    return read


def real(name: str) -> Callable[[Values], float]:
    """A function that returns that hyperparameter as a float."""

    def read(values: Values) -> float:
        return float(values[name])

    return read


def peft_config(name: str, **fields: Any) -> Callable[[Values, RunPlan], PeftConfig]:
    """A factory for PEFT's configuration class; a field may be a function of the values."""

    def make(values: Values, plan: RunPlan) -> PeftConfig:
        import peft

        given = {field: x(values) if callable(x) else x for field, x in fields.items()}
        made: PeftConfig = getattr(peft, name)(task_type="CAUSAL_LM", **given)
        return made

    return make


@dataclass(frozen=True)
class LayerCount:
    """The number of trained parameters of a layer: `of_layer(outputs, inputs, values)`."""

    of_layer: Callable[[int, int, Values], int]


@dataclass(frozen=True)
class LayerLimit:
    """The maximum of the hyperparameters `names` on a layer: `most(outputs, inputs)`.

    `label` is their name in messages, `what` describes the limit. If a chosen value exceeds the
    limit of a layer, the layer gets its `most` if PEFT supports a value per layer (`by_layer`), and
    is skipped otherwise.
    """

    label: str
    most: Callable[[int, int], int]
    what: str
    names: tuple[str, ...]
    by_layer: bool = False

    def holds(self, outputs: int, inputs: int, values: Values) -> bool:
        """Whether the hyperparameters are within the limit on a layer of that size."""
        most = self.most(outputs, inputs)
        return all(int(values[name]) <= most for name in self.names)


@dataclass(frozen=True)
class OwnOptimizer:
    """A method's own optimizer.

    `make(model, optimizer_class, options, values)` builds it; `options` are the keyword arguments
    of the sweep's optimizer class. If it replaces the sweep's optimizer, `replaces` is the only one
    that the sweep may use, and `what` the name of its own. Reproduction scripts contain
    `script_import` and `script_method`, a method of the Trainer with hyperparameters as `{name}`.
    """

    make: Callable[[Any, Any, dict[str, Any], Values], Optimizer]
    script_import: str = ""
    script_method: str = ""
    replaces: str = ""
    what: str = ""


@dataclass(frozen=True)
class LoopHooks:
    """Training loop hooks of one `peft_type`, for methods and for custom PeftConfigs.

    `added_loss(model)` returns a term to add to the loss, or `None`. `after_step(model, step,
    skipped)` is called after the weights are updated, before the gradients are cleared; `step`
    counts from 1, `skipped()` tells whether gradients overflowed. Reproduction scripts append
    `script_added_loss(config)` to the loss, and `script_after_step` is a method of their callback.
    """

    added_loss: Callable[[Any], Tensor | None]
    after_step: Callable[[Any, int, Callable[[], bool]], None]
    script_added_loss: Callable[[Mapping[str, Any]], str]
    script_after_step: str


@dataclass(frozen=True)
class PeftTraits:
    """The features by which an uploaded PEFT configuration is recognised as this method.

    `type` is its `peft_type`. It differs from a plain configuration of that type only by the field
    `feature`, by an `init_lora_weights` that starts with `start`, or by training with one of
    `optimizers` (in lower case, words joined by "-").
    """

    type: str
    feature: str = ""
    start: str = ""
    optimizers: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbePlan:
    """Settings of the probe on a tiny model, where the defaults do not suit.

    `settings` are hyperparameters ("layers=1"), `same_logits` is the tolerance for the logits of a
    reloaded model, and `note` tells users about it.
    """

    settings: str = ""
    needs_biases: bool = False
    same_logits: float = 1e-4
    note: str = ""


def every_parameter(model: nn.Module, values: Values) -> None:
    """Makes all weights of the model trainable."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def always_applies(shape: ModelShape, values: Values) -> str:
    """`applies` of a method that works with any causal language model."""
    return ""


def always_fits(shape: ModelShape, values: Values) -> Misfit | None:
    """`fits` of a method whose hyperparameters fit every model."""
    return None


@dataclass(frozen=True)
class MethodSpec:
    """A fine-tuning method.

    To add a method, add a `MethodSpec` to a file of `ftlab.methods.families`: page, command line,
    validation, report and tests use it. `short` is a short label ("": use `label`). `good_for` and
    `weak_at` are a sentence each, from what was measured here (docs/evidence.md), PEFT's published
    table and the method's paper; "" if nothing is known. "Here" in them is the bundled model.
    `base_precision` is the precision of the frozen base (`None`: set by the dtype policy), and
    `quantises` the id of the same method on an unquantised base. `peft_config(hyperparameters,
    plan)` builds PEFT's configuration; if it is `None` there is no adapter, and `select_trainable`
    selects the trainable weights.

    `optimizer` is the method's own optimizer, `hooks` its other code in the training loop.
    `applies` returns why the method does not work with a model, or "". `limit` is the maximum of
    its hyperparameters on a layer. `reaches_experts`: PEFT can adapt fused experts with it, and
    does so correctly. `count` is the number of trained parameters, per layer or per model (`None`:
    unknown before the run). `size` is the hyperparameter that this number grows with; `soft_tokens`
    is the hyperparameter for the number of vectors that use positions of the model. `names` returns
    the label of a variant (`None`: the label and the non-default values).

    `not_sharded` is why a run of it cannot be divided over several GPUs, "" if it can.
    `learning_rate` was tuned on the bundled model; `rate_rule` scales it to other models.
    """

    id: str
    label: str
    family: Family
    summary: str
    paper: Paper
    look: Look
    learning_rate: float
    short: str = ""
    good_for: str = ""
    weak_at: str = ""
    not_sharded: str = "its losses were not compared with those of one process"
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
        """The label for small spaces."""
        return self.short or self.label

    @property
    def is_adapter(self) -> bool:
        """Whether it is a PEFT adapter; otherwise weights of the model itself are trained."""
        return self.peft_config is not None

    @property
    def ships_whole_model(self) -> bool:
        """Whether its result is a full model; otherwise only the trained weights are saved."""
        return not self.is_adapter and self.select_trainable is every_parameter

    def rate_for(self, size: ModelSize) -> float:
        """The default learning rate for a model of that size."""
        return self.rate_rule.rate(self.learning_rate, size)

    def defaults(self) -> dict[str, Value]:
        return {parameter.name: parameter.default for parameter in self.hyperparameters}

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        return next((p for p in self.hyperparameters if p.name == name), None)
