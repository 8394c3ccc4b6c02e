"""What one question may take, and the sentence of a question that took more. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ftlab.models.catalogue import is_known_config
from ftlab.units import format_bytes

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
