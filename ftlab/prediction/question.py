"""Questions to the predictor, its predictions, and the limits of a question. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import TypeAdapter

from ftlab.basics.cards import HERE, Card, cards, find_card
from ftlab.basics.errors import FieldError, InvalidRequest
from ftlab.basics.files import parse_json
from ftlab.basics.nvml import FIRST_WITH_BF16
from ftlab.basics.units import format_bytes
from ftlab.methods.by_hand import PEFT
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant, validate_variant
from ftlab.models.dimensions import is_known_config
from ftlab.models.reference import BUNDLED_ID
from ftlab.prediction.duration import ScoringWork, StepWork
from ftlab.settings.schema import Setting, errors_in
from ftlab.settings.training import OPTIMIZERS, Optimizer, problems_of_parts
from ftlab.tasks.formatting import Scoring

WeightType = Literal["fp32", "fp16", "bf16"]
AdapterType = Literal["fp32", "base"]
Attention = Literal["sdpa", "eager"]
Packing = Literal["nf4", "nf4-double", "int8"]
How = Literal["simulated", "closed form", ""]
DeviceKind = Literal["cuda", "cpu"]
Loop = Literal["usual", "comparison", "bare"]


def _parse_card(given: object) -> Card:
    return find_card("" if given is None else str(given))


USUAL_CAPABILITY = (8, 0)
"""Compute capability assumed for an unknown card, as most since 2020: bf16, flash attention."""


@dataclass(frozen=True)
class Target:
    """The model of a prediction, and the card that it has to fit on."""

    model: Annotated[
        str, Setting("Model", help="a model of the catalogue, a Hub id, a folder or its "
                     "config.json"),
    ] = BUNDLED_ID  # fmt: skip
    card: Annotated[
        Card | None, Setting("Card", parse=_parse_card, option="device", example="CARD",
                             help="say whether it fits: "
                             f"{', '.join(card.id for card in cards())}, or {HERE} for this "
                             "machine's GPU"),
    ] = None  # fmt: skip
    price: Annotated[
        float | None, Setting("Price an hour", help="of the card, in any currency: what 1,000 "
                              "steps cost is said", empty="no cost", high=1_000_000,
                              example="PRICE"),
    ] = None  # fmt: skip


_PACKINGS: dict[Packing, str] = {
    "nf4": "4-bit NF4", "nf4-double": "4-bit NF4, double quantisation", "int8": "8-bit",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """The training step whose memory is predicted.

    A batch has `batch` rows of `length` tokens. `completion_tokens` is the number per row with loss
    in the app's own step; `None` means the standard loop, with the logits of all positions. `loop`
    selects a variant of it from published runs: "comparison" (PEFT's) computes a loss without the
    adapter before the first step; "bare" does not pad, clip or empty its cache. `weights` is the
    dtype of the base. `adapters` is fp32, PEFT's default, or the dtype of the base. `mixed` is the
    app's own step with fp32 weights and products in 16 bits. If `accumulation` is above 1, the
    gradients of one batch exist while the next is computed. On a CPU there is no caching allocator:
    reserved equals allocated, and the process uses more (`remedies.calibration`). `capability` is
    the card's compute capability, which decides the attention kernel and cuBLAS's workspace.
    The model and the rows of a batch are divided over `shard` like cards; memory is that of one.
    `scoring` is the scoring after the steps, if it is predicted as well.
    """

    length: Annotated[
        int, Setting("Longest example", help="tokens of a row", low=1, high=1_000_000, narrow=True)
    ] = 256
    batch: Annotated[
        int, Setting("Batch", help="rows of a batch", low=1, high=4_096, narrow=True)
    ] = 4
    accumulation: Annotated[
        int, Setting("Accumulation", "Accumulated", "batches in a step", low=1, high=4_096,
                     narrow=True),
    ] = 1  # fmt: skip
    completion_tokens: Annotated[
        int | None, Setting("Tokens with loss", help="tokens of a row that carry loss: ftlab's own "
                            "step instead of the standard loop", empty="all", high=1_000_000,
                            narrow=True, example="N"),
    ] = None  # fmt: skip
    weights: Annotated[
        WeightType, Setting("Weights", help="of the base's weights", option="dtype", narrow=True,
                            choices={name: name for name in ("bf16", "fp16", "fp32")}),
    ] = "bf16"  # fmt: skip
    optimizer: Annotated[Optimizer, Setting("Optimizer", choices=OPTIMIZERS)] = "adamw"
    checkpointing: Annotated[bool, Setting("Gradient checkpointing")] = False
    attention: Annotated[
        Attention, Setting("Attention", choices={"sdpa": "sdpa", "eager": "eager"},
                           place="command line"),
    ] = "sdpa"  # fmt: skip
    packing: Annotated[
        Packing | None, Setting("Base precision", help="hold the frozen base in 4 or 8 bits",
                                choices=_PACKINGS, empty="as the method does",
                                option="base-precision", place="command line"),
    ] = None  # fmt: skip
    mixed: bool = False
    device: DeviceKind = "cuda"
    adapters: Annotated[
        AdapterType, Setting("Adapters", option="adapter-dtype", place="command line",
                             help="of adapters: fp32, or the base's (PEFT's autocast_adapter_dtype "
                             "off)", choices={"fp32": "fp32", "base": "as the base"}),
    ] = "fp32"  # fmt: skip
    capability: tuple[int, int] = USUAL_CAPABILITY
    shard: Annotated[
        int, Setting("GPUs in a run", help="divides the model and each batch over so many like "
                     "cards (FSDP)", low=1, high=64, narrow=True),
    ] = 1  # fmt: skip
    scoring: Scoring | None = None
    loop: Loop = "usual"

    @property
    def rows(self) -> int:
        """Rows of a batch in one forward pass: those of the first card, which has the most."""
        return -(-self.batch // self.shard)

    @property
    def is_own(self) -> bool:
        """Whether this is the app's own step, not the standard loop."""
        return self.completion_tokens is not None


@dataclass(frozen=True)
class Question:
    """One method on one model: `config` is the model's config.json."""

    config: dict[str, Any]
    variant: Variant
    step: Step


@dataclass(frozen=True)
class Prediction:
    """Bytes and counts; `None` if unknown, and then `reason` explains why.

    `peak_allocated_bytes` is the peak of live tensors and `anatomy` its memory breakdown. A run
    over several cards takes as much on each of them; the sizes are those of the whole model.
    `peak_reserved_bytes` is what torch's allocator requests from the driver, without the CUDA
    context. `scoring_bytes` is the peak while answers are scored. `how` is the method of
    prediction, `seconds` its duration. `work` is that of a step on the longest batch, and
    `scoring_work` that of a batch of answers; `None` if nothing was simulated.
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
    work: StepWork | None = None
    scoring_work: ScoringWork | None = None


_QUESTION, _PREDICTION = TypeAdapter(Question), TypeAdapter(Prediction)


def dump_question(question: Question) -> bytes:
    """Returns the question as one line; equal questions give equal lines."""
    return _QUESTION.dump_json(question)


def load_question(data: bytes) -> Question:
    """Parses the output of `dump_question`; raises `FtlabError` for anything else."""
    return parse_json(_QUESTION, data, "the question")


def dump_prediction(prediction: Prediction) -> bytes:
    """Returns the prediction as one line."""
    return _PREDICTION.dump_json(prediction)


def load_prediction(data: bytes) -> Prediction:
    """Parses the output of `dump_prediction`; raises `FtlabError` for anything else."""
    return parse_json(_PREDICTION, data, "the prediction")


_PACKED_AS: dict[BasePrecision, Packing] = {"nf4": "nf4-double", "int8": "int8"}
"""How a run packs its base: 4 bits with double quantisation."""


def ask_about(config: Mapping[str, Any], variants: Sequence[Variant], step: Step) -> list[Question]:
    """Returns a question per variant; raises `InvalidRequest` with every invalid value."""
    asked = [_on_base(variant, step.packing) for variant in variants]
    errors = validate_step(step) + [
        error
        for variant in asked
        if variant.method != PEFT.id  # PEFT checks it when it is applied to the model
        for error in validate_variant(variant)
    ]
    if not variants:
        errors.append(FieldError("variants", "No method is named; name one, as in lora."))
    if errors:
        raise InvalidRequest(errors)
    return [Question(dict(config), variant, _step_of(variant, step)) for variant in asked]


def validate_step(step: Step) -> list[FieldError]:
    """Returns an error for every invalid setting of the step."""
    errors, kept, most = errors_in(step), step.completion_tokens, max(1, step.length - 1)
    if not errors and kept is not None and not 1 <= kept <= most:
        message = (
            f"Tokens with loss is {kept}; of a row's {step.length} tokens, 1 to {most} can carry "
            "loss."
        )
        errors.append(FieldError("completion_tokens", message))
    if not errors:
        problems = problems_of_parts(step.shard, step.batch, step.optimizer)
        errors += [FieldError("shard", problem) for problem in problems]
    return errors


def _on_base(variant: Variant, packing: Packing | None) -> Variant:
    """Returns the variant with the base precision of `packing`, unless it has its own."""
    if packing is None or variant.base_precision is not None:
        return variant
    base: BasePrecision = "int8" if packing == "int8" else "nf4"
    return replace(variant, base=base)


def _step_of(variant: Variant, step: Step) -> Step:
    """Returns the step as run for the variant: with its packing, and a dtype the card supports.

    On a card without bf16, ftlab's own step computes in fp16 and keeps trainable weights in fp32
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
"""Why a question got no answer: CPU time, memory, or another error."""


@dataclass(frozen=True)
class Limits:
    """The limits of one question.

    `cpu_seconds` is CPU time, not wall time, because a question yields to runs on the same cores.
    `memory_bytes` is the memory in addition to that of the process before it reads the question.
    """

    cpu_seconds: float
    memory_bytes: int = 900_000_000


LimitsOf = Callable[[Mapping[str, Any]], Limits]
"""Returns the limits of a question by its model's config."""


def usual(config: Mapping[str, Any]) -> Limits:
    """Default limits; LLaMA 65B (80 layers): QDoRA 14 s on a busy machine, 150 MB; LoRA 7 s."""
    return Limits(60.0)


def of_a_demo(config: Mapping[str, Any]) -> Limits:
    """Limits in a demo: `usual` for models of the catalogue, which are known to end; else less."""
    return usual(config) if is_known_config(config) else Limits(8.0)


def own(config: Mapping[str, Any]) -> Limits:
    """Limits on the command line, where no other user waits."""
    return Limits(180.0, 4_000_000_000)


def sentence(ending: Ending, limits: Limits) -> str:
    """Returns the error message for a question without an answer."""
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
