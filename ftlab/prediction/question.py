"""What is predicted, what comes out, and what one question may take. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter

from ftlab.basics.errors import FieldError, InvalidRequest
from ftlab.basics.nvml import FIRST_WITH_BF16
from ftlab.basics.parsing import parse_json
from ftlab.basics.units import format_bytes
from ftlab.methods.by_hand import PEFT
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant, validate_variant
from ftlab.models.catalogue import is_known_config
from ftlab.settings.training import Optimizer

WeightType = Literal["fp32", "fp16", "bf16"]
AdapterType = Literal["fp32", "base"]
Attention = Literal["sdpa", "eager"]
Packing = Literal["nf4", "nf4-double", "int8"]
How = Literal["simulated", "closed form", ""]
DeviceKind = Literal["cuda", "cpu"]
Loop = Literal["usual", "comparison", "bare"]


USUAL_CAPABILITY = (8, 0)
"""Of a card that is not named, as most since 2020: with bf16 and flash attention."""


@dataclass(frozen=True)
class Scoring:
    """Answers to `rows` held-out prompts at once: the longest prompt, and the most new tokens."""

    rows: int
    prompt: int
    new_tokens: int


@dataclass(frozen=True)
class Step:
    """The training step whose memory is predicted.

    `length` tokens in each of `batch` rows. `completion_tokens` of a row carry loss in the app's
    own step; `None` is the standard loop, with the logits of all positions. Two kinds of it
    (`loop`) are those of published runs: PEFT's comparison takes a loss without the adapter before
    the first step; a bare one neither pads, clips nor empties its cache. `weights` is the type
    of the base's weights; adapters are held in fp32, as PEFT does unless it is told to keep them in
    the base's type (`adapters`). `mixed` is for the app's own step on weights
    in fp32, with products in 16 bits. With an `accumulation` above 1 gradients of one batch are
    there while the next is computed. On a CPU there is no caching allocator, so what is reserved
    is what lives, and a process takes more than that (`calibration`). `capability` is the card's
    compute capability: it decides which attention kernel is taken, and cuBLAS's workspace.
    `scoring` is what follows the steps of a run, where that is to be predicted as well.
    """

    length: int
    batch: int = 4
    completion_tokens: int | None = None
    weights: WeightType = "bf16"
    attention: Attention = "sdpa"
    checkpointing: bool = False
    optimizer: Optimizer = "adamw"
    packing: Packing | None = None
    accumulation: int = 1
    mixed: bool = False
    device: DeviceKind = "cuda"
    adapters: AdapterType = "fp32"
    capability: tuple[int, int] = USUAL_CAPABILITY
    scoring: Scoring | None = None
    loop: Loop = "usual"

    @property
    def is_own(self) -> bool:
        """Whether it is the app's own step, else the standard loop."""
        return self.completion_tokens is not None


@dataclass(frozen=True)
class Question:
    """One method on one model: `config` is the model's config.json."""

    config: dict[str, Any]
    variant: Variant
    step: Step


@dataclass(frozen=True)
class Prediction:
    """Bytes and counts; `None` where they are not known, and then `reason` says why.

    `peak_allocated_bytes` is what lives at once, `peak_reserved_bytes` what torch's allocator asks
    the driver for; the context of CUDA comes on top. `anatomy` are the parts of the first.
    `scoring_bytes` lives at most while answers are scored. `how` says where they come from;
    `seconds` is how long it took.
    """

    method: str
    label: str
    trainable_params: int | None = None
    total_params: int | None = None
    adapter_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    anatomy: dict[str, int] = field(default_factory=dict)
    how: How = ""
    seconds: float = 0.0
    reason: str = ""
    scoring_bytes: int | None = None


_QUESTION, _PREDICTION = TypeAdapter(Question), TypeAdapter(Prediction)


def dump_question(question: Question) -> bytes:
    """One line, the same for the same question."""
    return _QUESTION.dump_json(question)


def load_question(data: bytes) -> Question:
    """Reads what `dump_question` wrote; raises `FtlabError` for anything else."""
    return parse_json(_QUESTION, data, "the question")


def dump_prediction(prediction: Prediction) -> bytes:
    """One line."""
    return _PREDICTION.dump_json(prediction)


def load_prediction(data: bytes) -> Prediction:
    """Reads what `dump_prediction` wrote; raises `FtlabError` for anything else."""
    return parse_json(_PREDICTION, data, "the prediction")


MAX_LENGTH, MAX_BATCH, MAX_ACCUMULATION = 1_000_000, 4_096, 4_096

_PACKED_AS: dict[BasePrecision, Packing] = {"nf4": "nf4-double", "int8": "int8"}
"""How a run packs its base: in 4 bits with double quantisation."""


def ask_about(config: Mapping[str, Any], variants: Sequence[Variant], step: Step) -> list[Question]:
    """A question for each variant, its base packed as it asks for itself, else as the step says.

    Raises `InvalidRequest` with every wrong value.
    """
    asked = [_on_base(variant, step.packing) for variant in variants]
    errors = validate_step(step) + [
        error
        for variant in asked
        if variant.method != PEFT.id  # PEFT judges it as it is laid over the model
        for error in validate_variant(variant)
    ]
    if not variants:
        errors.append(FieldError("variants", "No method is named; name one, as in lora."))
    if errors:
        raise InvalidRequest(errors)
    return [Question(dict(config), variant, _step_of(variant, step)) for variant in asked]


def validate_step(step: Step) -> list[FieldError]:
    """Every number of the step that makes no sense."""
    bounds = {
        "length": (step.length, 1, MAX_LENGTH, "tokens"),
        "batch": (step.batch, 1, MAX_BATCH, "rows"),
        "accumulation": (step.accumulation, 1, MAX_ACCUMULATION, "batches"),
    }
    errors = [
        FieldError(name, f"{name} is {value}; it must be {low} to {high:,} {unit}.")
        for name, (value, low, high, unit) in bounds.items()
        if not low <= value <= high
    ]
    kept = step.completion_tokens
    if kept is not None and not 1 <= kept <= max(1, step.length - 1):
        errors.append(
            FieldError(
                "completion_tokens",
                f"completion tokens are {kept}; of {step.length} tokens a row 1 to "
                f"{max(1, step.length - 1)} can carry loss.",
            )
        )
    return errors


def _on_base(variant: Variant, packing: Packing | None) -> Variant:
    """The variant on a base in fewer bits where the step asks for it and it has none itself."""
    if packing is None or variant.base_precision is not None:
        return variant
    base: BasePrecision = "int8" if packing == "int8" else "nf4"
    return replace(variant, base=base)


def _step_of(variant: Variant, step: Step) -> Step:
    """The step as a run of the variant takes it: its base packed, its weights of a type that the
    card computes in.

    A card without bf16 computes ftlab's own step in fp16, and holds weights that learn in fp32
    (`models.loading.weight_dtype`).
    """
    step = replace(step, packing=_packing(variant, step.packing))
    if not step.is_own or step.device != "cuda" or step.capability >= FIRST_WITH_BF16:
        return step
    if step.weights == "fp32":
        return step
    if variant.spec.is_adapter:
        return replace(step, weights="fp16")
    return replace(step, weights="fp32", mixed=True)


def _packing(variant: Variant, asked: Packing | None) -> Packing | None:
    precision = variant.base_precision
    if precision is None:
        return None
    if asked is not None and asked.startswith(precision):
        return asked
    return _PACKED_AS[precision]


Ending = Literal["time", "memory", "broken"]
"""Why a question got no answer: computing time, memory, or an error of its own."""


@dataclass(frozen=True)
class Limits:
    """Of one question, whoever asks it.

    `cpu_seconds` are of computing time: a question waits for runs on the same cores, so the clock
    on the wall says nothing of what it costs. `memory_bytes` come on top of what its process takes
    before it reads the question.
    """

    cpu_seconds: float
    memory_bytes: int = 900_000_000


LimitsOf = Callable[[Mapping[str, Any]], Limits]
"""What a question may take, by the config of the model that it is about."""


def usual(config: Mapping[str, Any]) -> Limits:
    """On 80 layers (LLaMA 65B) QDoRA took 14 s on a busy machine, LoRA 7 s, and QDoRA 150 MB."""
    return Limits(60.0)


def of_a_demo(config: Mapping[str, Any]) -> Limits:
    """As usual for the models of the catalogue, which are known to end, and less for others."""
    return usual(config) if is_known_config(config) else Limits(8.0)


def own(config: Mapping[str, Any]) -> Limits:
    """Of a command line, where nobody else waits."""
    return Limits(180.0, 4_000_000_000)


def sentence(ending: Ending, limits: Limits) -> str:
    """What a person reads of a question that ended so."""
    if ending == "time":
        return (
            f"The prediction took more than {limits.cpu_seconds:g} s of computing time and was "
            "ended; choose a smaller model."
        )
    if ending == "memory":
        return (
            f"The prediction took more than {format_bytes(limits.memory_bytes)} of memory and was "
            "ended; choose a smaller model."
        )
    return "The prediction ended without an answer; choose another model or method."
