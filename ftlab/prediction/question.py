"""What is predicted, and what comes out. Frozen, and JSON in and out; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from ftlab.methods.variant import Variant
from ftlab.runs.parsing import parse_json
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
