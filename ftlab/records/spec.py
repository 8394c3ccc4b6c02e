"""What a run is asked to do, its learning rate among it. Frozen, and JSON in and out.

The learning rate is decided as the sweep is planned, from the model's config
(`MethodSpec.rate_for`). A Hub model that is not on this machine yet leaves it to the run's worker,
which has the config by then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, StringConstraints, TypeAdapter

from ftlab.basics.parsing import parse_json
from ftlab.basics.words import rate_name
from ftlab.methods.rates import ModelSize, size_of
from ftlab.methods.registry import BASE_METHOD, label_of
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import is_bundled, size_of_model
from ftlab.models.reference import names_hub_model
from ftlab.settings.schema import Setting, fields_of
from ftlab.settings.training import DTYPE_POLICIES, DtypePolicy, TrainingSettings
from ftlab.tasks.reference import TaskReference

DefaultRate = float | Literal["undecided"]
UNDECIDED: Literal["undecided"] = "undecided"
"""The rate of a run whose model was not here when it was planned; its worker decides it."""

_POLICIES = {policy: f"{policy}: {words}" for policy, words in DTYPE_POLICIES.items()}
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,80}$")]
"""Of a run or a sweep. Files are named after them, so a record cannot hold just anything."""


@dataclass(frozen=True)
class SweepRequest:
    """What a person asks for: every variant times every seed, on the same examples in order.

    `memory_limit` is what a run may take of its device, in bytes.
    """

    __pydantic_config__ = _STRICT

    model: str
    task: TaskReference
    variants: tuple[Variant, ...]
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    dtype_policy: Annotated[DtypePolicy, Setting("Dtype policy", choices=_POLICIES)] = "bf16"
    device: str = "auto"
    seeds: tuple[int, ...] = (0,)
    memory_limit: int | None = None


@dataclass(frozen=True)
class RunSpec:
    """One run. `variant` is `None` for a base run: the untouched model, only measured.

    `base_run_id` names the base run of the same sweep and base precision, which gives every
    "before" number. `created_at` is seconds since the epoch; `memory_limit` is as in the request,
    or the operator's where that is tighter.

    `default_rate` is the method's own learning rate for the model, as it was planned. It is `None`
    where variant or sweep sets a rate, of a base run, and in records of versions that trained
    models of every size at the rate of the bundled one.
    """

    __pydantic_config__ = _STRICT

    run_id: Id
    sweep_id: Id
    model: str
    task: TaskReference
    variant: Variant | None
    settings: TrainingSettings
    dtype_policy: DtypePolicy
    device: str
    seed: int
    base_precision: BasePrecision | None
    base_run_id: Id | None
    created_at: float
    memory_limit: int | None = None
    default_rate: DefaultRate | None = None

    @property
    def is_base(self) -> bool:
        return self.variant is None

    @property
    def method(self) -> str:
        return self.variant.method if self.variant else BASE_METHOD

    @property
    def label(self) -> str:
        if self.variant:
            return self.variant.label
        return f"{label_of(BASE_METHOD)} {self.base_precision or self.dtype_policy}"

    @property
    def learning_rate(self) -> float | None:
        """The variant's, else the sweep's, else the method's own for the model.

        `None` for a base run, and while the method's own is undecided.
        """
        if self.variant is None:
            return None
        given = self.variant.learning_rate or self.settings.learning_rate
        if given:
            return given
        if self.default_rate is None:
            return self.variant.spec.learning_rate
        return None if self.default_rate == UNDECIDED else self.default_rate


_RUN_SPEC = TypeAdapter(RunSpec)


# Every version knows these. A later setting is left out where it stands at its default: a version
# that does not know it refuses the record.
_FIRST_SETTINGS = frozenset((
    "steps", "batch_size", "accumulation", "max_length", "learning_rate", "schedule",
    "warmup_steps", "weight_decay", "max_grad_norm", "optimizer", "gradient_checkpointing",
    "eval_examples",
))  # fmt: skip


def dump_spec(spec: RunSpec) -> bytes:
    unused = {
        name
        for name, described in fields_of(TrainingSettings).items()
        if name not in _FIRST_SETTINGS and getattr(spec.settings, name) == described.default
    }
    exclude: dict[str, Any] = {"settings": unused}
    if spec.memory_limit is None:
        exclude["memory_limit"] = True
    if spec.default_rate is None:
        exclude["default_rate"] = True
    if spec.variant is not None and spec.variant.base is None:
        exclude["variant"] = {"base"}
    return _RUN_SPEC.dump_json(spec, indent=2, exclude=exclude)


def load_spec(data: bytes) -> RunSpec:
    """Reads a spec; raises `FtlabError` naming the first wrong field."""
    return parse_json(_RUN_SPEC, data, "spec.json")


def needs_hub(spec: RunSpec) -> bool:
    """Whether a worker of the run asks the Hugging Face Hub for model or data, or logs there."""
    to_space = "trackio" in spec.settings.report_to and "TRACKIO_SPACE_ID" in os.environ
    return to_space or spec.task.kind == "hub" or names_hub_model(spec.model)


def default_rate(
    variant: Variant | None, settings: TrainingSettings, size: ModelSize | None
) -> DefaultRate | None:
    """What a new spec holds as `default_rate`; `size` is `None` where the config is not here."""
    if variant is None or variant.learning_rate or settings.learning_rate:
        return None
    return UNDECIDED if size is None else variant.spec.rate_for(size)


def rate_of(variant: Variant, settings: TrainingSettings, size: ModelSize | None) -> float | None:
    """The rate that the variant would train with; `None` where it is not known yet."""
    default = default_rate(variant, settings, size)
    if default is None:
        return variant.learning_rate or settings.learning_rate
    return None if default == UNDECIDED else default


def decided(spec: RunSpec, config: Mapping[str, Any]) -> RunSpec:
    """The spec with its rate, where that was left to whoever has the model's config.json."""
    if spec.default_rate != UNDECIDED:
        return spec
    return replace(spec, default_rate=default_rate(spec.variant, spec.settings, size_of(config)))


def asked_again(spec: RunSpec) -> Variant | None:
    """The variant that a new request names to get this run's rate once more.

    It is the run's own, with the rate set where the method's own would be another one today: the
    run comes from another version of ftlab, or its model is no longer here to say.
    """
    variant, rate = spec.variant, spec.learning_rate
    if variant is None or rate is None:
        return variant
    today = rate_of(variant, spec.settings, size_of_model(spec.model))
    return variant if today == rate else replace(variant, learning_rate=rate)


def rate_words(spec: RunSpec) -> str:
    """The run's rate for people, and whether it was tuned on the run's model."""
    rate = rate_name(spec.learning_rate)
    if spec.default_rate is None or is_bundled(spec.model):
        return rate
    if spec.default_rate == UNDECIDED:
        return "the method's own, known once the model is fetched"
    return f"{rate}, the method's own for this size, not tuned on this model"
