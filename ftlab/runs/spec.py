"""What a run is asked to do. Frozen, and JSON in and out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, StringConstraints, TypeAdapter

from ftlab.methods.registry import BASE_METHOD, label_of
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant
from ftlab.runs.parsing import parse_json
from ftlab.tasks.reference import TaskReference

DtypePolicy = Literal["bf16", "mixed", "fp32"]
Schedule = Literal["cosine", "linear", "constant"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
Tracker = Literal["tensorboard", "trackio"]
EvalSplit = Literal["held_out", "tuning"]

DTYPE_POLICIES: dict[DtypePolicy, str] = {
    "bf16": "bf16 base; adapters fp32, computed in bf16; full fine-tuning in pure bf16",
    "mixed": "fp32 weights, bf16 (or fp16) compute",
    "fp32": "fp32 weights and compute",
}
EVAL_SPLITS: dict[EvalSplit, str] = {"held_out": "held-out", "tuning": "tuning"}
"""The sets that a run may be measured on. Settings are chosen on "tuning", results reported on
"held_out"."""

SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear", "constant")
OPTIMIZERS: dict[Optimizer, str] = {
    "adamw": "AdamW (torch, fused)",
    "adamw_8bit": "AdamW 8-bit (bitsandbytes)",
    "paged_adamw_8bit": "Paged AdamW 8-bit (bitsandbytes; pages nothing on a CPU)",
}

EVALUATION_BATCH = 16
"""Examples that are scored at once; half as many where they run out of memory, and so on."""

CURVE_EXAMPLES = 32
"""Held-out examples of an evaluation between the steps, at most: the first ones, the same at each
point of the curve."""

DefaultRate = float | Literal["undecided"]
UNDECIDED: Literal["undecided"] = "undecided"
"""The rate of a run whose model was not here when it was planned; its worker decides it."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

Id = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,80}$")]
"""Of a run or a sweep. Files are named after them, so a record cannot hold just anything."""


@dataclass(frozen=True)
class TrainingSettings:
    """What is the same for all runs of a sweep.

    `steps` counts optimizer steps; `max_length` tokens of prompt and completion together;
    `eval_examples` examples of `eval_split` are scored; without `eval_answers` only their loss is
    taken, which is much quicker. `eval_every` steps loss and score are taken of some of them as
    well, for the curve over the steps; 0 is never. `checkpoint_every` steps the training is kept,
    so that it can go on after it was cut off; 0 is never, `None` leaves it to the number of steps.
    `learning_rate` `None` means each method's own for the model. `report_to` names where losses are
    logged to as well.
    """

    __pydantic_config__ = _STRICT

    steps: int = 30
    batch_size: int = 4
    accumulation: int = 1
    max_length: int = 256
    learning_rate: float | None = None
    schedule: Schedule = "cosine"
    warmup_steps: int = 3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: Optimizer = "adamw"
    gradient_checkpointing: bool = False
    eval_examples: int = 64
    eval_split: EvalSplit = "held_out"
    eval_answers: bool = True
    eval_every: int = 0
    checkpoint_every: int | None = None
    report_to: tuple[Tracker, ...] = ()


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
    dtype_policy: DtypePolicy = "bf16"
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


# Left out where they say nothing: a version that does not know them refuses what it does not know.
_LATER_SETTINGS = ("report_to", "eval_split", "eval_answers", "eval_every", "checkpoint_every")


def dump_spec(spec: RunSpec) -> bytes:
    usual = TrainingSettings()
    unused = {
        name for name in _LATER_SETTINGS if getattr(spec.settings, name) == getattr(usual, name)
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
