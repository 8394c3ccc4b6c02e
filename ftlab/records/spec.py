"""The specification of a run, including its learning rate. Frozen dataclasses, stored as JSON.

The learning rate is decided when the sweep is planned, from the model's config
(`MethodSpec.rate_for`). For a Hub model that is not on this machine yet, the run's worker decides
it after the download.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, StringConstraints, TypeAdapter

from ftlab.basics.devices import AUTO
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import parse_json
from ftlab.basics.people import LONGEST_NAME
from ftlab.basics.words import rate_name
from ftlab.methods.rates import ModelSize, size_of
from ftlab.methods.registry import BASE_METHOD, label_of
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import size_of_model
from ftlab.models.reference import is_bundled, names_hub_model, parse_model
from ftlab.settings.request import (
    MEMORY_LIMIT_VARIABLE,
    parse_memory_limit,
    parse_seeds,
    problems_of_device,
    problems_of_seeds,
)
from ftlab.settings.schema import Setting, fields_of
from ftlab.settings.training import DTYPE_POLICIES, DtypePolicy, TrainingSettings
from ftlab.tasks.files import EXTENSIONS
from ftlab.tasks.reference import TaskReference, parse_task
from ftlab.tasks.registry import TASKS

DefaultRate = float | Literal["undecided"]
UNDECIDED: Literal["undecided"] = "undecided"
"""The rate of a run whose model was not on this machine at planning; its worker decides it."""

_POLICIES = {policy: f"{policy}: {words}" for policy, words in DTYPE_POLICIES.items()}
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,80}$")]
"""The id of a run or sweep; restricted, because it is used in file names."""


_SQL = TaskReference("bundled", "sql")


def _problems_of_model(name: str) -> Iterator[str]:
    try:
        parse_model(name)
    except FtlabError as error:
        yield str(error)


def _device_or_auto(given: Any) -> str:
    return str(given or AUTO)


def _limit_or_none(text: str) -> int | None:
    return parse_memory_limit(text) if text.strip() else None


@dataclass(frozen=True)
class SweepRequest:
    """A user's request: every variant with every seed, on the same examples in the same order.

    `memory_limit` is the device memory that a run may use, in bytes.
    """

    model: Annotated[
        str, Setting("Base model", help="'bundled', a folder or a Hub id",
                     check=_problems_of_model, place="own"),
    ] = "bundled"  # fmt: skip
    task: Annotated[
        TaskReference, Setting("Task", parse=parse_task, place="own",
                               help=f"{', '.join(TASKS)}, a file ({', '.join(EXTENSIONS)}) or "
                               "hub:OWNER/NAME"),
    ] = _SQL  # fmt: skip
    variants: tuple[Variant, ...] = ()
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    dtype_policy: Annotated[DtypePolicy, Setting("Dtype policy", choices=_POLICIES)] = "bf16"
    device: Annotated[
        str,
        Setting(
            "Device",
            help="auto is every GPU like the first one, with one run at a time on each; without a "
            "GPU it is the CPU",
            example="auto|cpu|cuda:0",
            parse=_device_or_auto,
            check=problems_of_device,
        ),
    ] = AUTO
    seeds: Annotated[
        tuple[int, ...], Setting("Seeds", "Seeds, as in 0,1,2", "each variant runs once per seed",
                                 parse=parse_seeds, check=problems_of_seeds, place="main",
                                 narrow=True, example="0,1,2"),
    ] = (0,)  # fmt: skip
    memory_limit: Annotated[
        int | None, Setting("Memory limit", help="what a run may take of its device, its process "
                            "on a CPU included; one that needs more is out of memory",
                            parse=_limit_or_none, place="command line", example="2GB",
                            empty=f"${MEMORY_LIMIT_VARIABLE}, else no limit"),
    ] = None  # fmt: skip


@dataclass(frozen=True)
class RunSpec:
    """One run. `variant` is `None` for a base run: the unmodified model, which is only measured.

    `base_run_id` names the base run of the same sweep and base precision, which provides every
    "before" number. `created_at` is in seconds since the epoch; `memory_limit` is the request's or
    the operator's, whichever is lower.

    `devices` are like ones, of which the queue gives the run the first that is free; `device` then
    names that one. They are empty for a run that may use `device` alone. A run that is divided over
    several GPUs gets as many; the queue then puts those first, and `device` is the first of them.

    `default_rate` is the method's own learning rate for the model, as planned. It is `None` if the
    variant or the sweep sets a rate, for a base run, and in records of versions that trained models
    of every size at the rate of the bundled one.

    `owner` is the login of the person who queued it, "" for the operator of the machine.
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
    devices: tuple[str, ...] = ()
    owner: Annotated[str, StringConstraints(max_length=LONGEST_NAME)] = ""

    @property
    def may_use(self) -> tuple[str, ...]:
        """Every device that may do the run."""
        return self.devices or (self.device,)

    @property
    def held(self) -> tuple[str, ...]:
        """The devices that the run uses at once; on a CPU its processes share the one."""
        several = self.settings.shard > 1 and self.devices
        return self.devices[: self.settings.shard] if several else (self.device,)

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
        """The variant's rate, else the sweep's, else the method's own for the model.

        `None` for a base run, and while the method's own rate is undecided.
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


# Every version knows these. A later setting is omitted if it has its default value, because
# versions that do not know it reject the record.
_FIRST_SETTINGS = frozenset((
    "steps", "batch_size", "accumulation", "max_length", "learning_rate", "schedule",
    "warmup_steps", "weight_decay", "max_grad_norm", "optimizer", "gradient_checkpointing",
    "eval_examples",
))  # fmt: skip


def dump_spec(spec: RunSpec, indent: int | None = 2) -> bytes:
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
    if not spec.devices:
        exclude["devices"] = True
    if not spec.owner:
        exclude["owner"] = True
    if spec.variant is not None and spec.variant.base is None:
        exclude["variant"] = {"base"}
    return _RUN_SPEC.dump_json(spec, indent=indent, exclude=exclude)


def load_spec(data: bytes) -> RunSpec:
    """Reads a spec; raises `FtlabError` naming the first wrong field."""
    return parse_json(_RUN_SPEC, data, "spec.json")


def needs_hub(spec: RunSpec) -> bool:
    """Whether the run's worker loads model or data from the Hugging Face Hub, or logs to it."""
    to_space = "trackio" in spec.settings.report_to and "TRACKIO_SPACE_ID" in os.environ
    return to_space or spec.task.kind == "hub" or names_hub_model(spec.model)


def default_rate(
    variant: Variant | None, settings: TrainingSettings, size: ModelSize | None
) -> DefaultRate | None:
    """The `default_rate` of a new spec; `size` is `None` if the config is not on this machine."""
    if variant is None or variant.learning_rate or settings.learning_rate:
        return None
    return UNDECIDED if size is None else variant.spec.rate_for(size)


def rate_of(variant: Variant, settings: TrainingSettings, size: ModelSize | None) -> float | None:
    """The learning rate that the variant would train with; `None` if it is not known yet."""
    default = default_rate(variant, settings, size)
    if default is None:
        return variant.learning_rate or settings.learning_rate
    return None if default == UNDECIDED else default


def decided(spec: RunSpec, config: Mapping[str, Any]) -> RunSpec:
    """The spec with its rate decided from the model's config.json, if it was undecided."""
    if spec.default_rate != UNDECIDED:
        return spec
    return replace(spec, default_rate=default_rate(spec.variant, spec.settings, size_of(config)))


def asked_again(spec: RunSpec) -> Variant | None:
    """The variant to put into a new request so that it gets the same learning rate as this run.

    It is the run's variant, with the rate set explicitly if the method's own rate would differ
    today: the run is from another version of ftlab, or its model is no longer on this machine.
    """
    variant, rate = spec.variant, spec.learning_rate
    if variant is None or rate is None:
        return variant
    today = rate_of(variant, spec.settings, size_of_model(spec.model))
    return variant if today == rate else replace(variant, learning_rate=rate)


def rate_words(spec: RunSpec) -> str:
    """The run's learning rate as text, with a remark if it was not tuned on the run's model."""
    rate = rate_name(spec.learning_rate)
    if spec.default_rate is None or is_bundled(spec.model):
        return rate
    if spec.default_rate == UNDECIDED:
        return "the method's own, known once the model is fetched"
    return f"{rate}, the method's own for this size, not tuned on this model"
