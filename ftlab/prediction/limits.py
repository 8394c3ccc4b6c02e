"""What one question may take, and the sentence of a question that took more. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ftlab.units import format_bytes

Ending = Literal["time", "memory", "left", "broken"]
"""Why a question got no answer: computing time, memory, nobody waiting, or an error of its own."""


@dataclass(frozen=True)
class Limits:
    """Of one question, whoever asks it.

    `cpu_seconds` are of computing time: a question waits for runs on the same cores, so the clock
    on the wall says nothing of what it costs. `memory_bytes` come on top of what its process takes
    before it reads the question.
    """

    cpu_seconds: float = 60.0
    memory_bytes: int = 900_000_000


USUAL = Limits()
"""On 80 layers (LLaMA 65B) QDoRA took 23 s on a busy machine and LoRA 11 s; on the 96 of GPT-3
AdaLoRA took 12 s. Memory grows with the layers too: QDoRA took 150 MB for 80."""


OWN = Limits(180.0, 4_000_000_000)
"""Of a command line, where nobody else waits."""


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
    if ending == "left":
        return "The prediction was ended, because nobody waited for it any more."
    return "The prediction ended without an answer; choose another model or method."
