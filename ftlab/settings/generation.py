"""The settings of a generated answer, described once for all interfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ftlab.settings.schema import Setting

Precision = Literal["bf16", "fp32", "nf4"]
PRECISIONS: dict[Precision, str] = {"bf16": "16 bits", "fp32": "32 bits", "nf4": "4 bits (NF4)"}
"""Precision of the base in memory, and its label for users."""

Mode = Literal["chat", "completion"]
MODES: dict[Mode, str] = {"chat": "Chat", "completion": "Completion"}

MAX_CHARACTERS = 100_000
"""Maximum length of a prompt and of a system prompt."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How the panes answer a prompt.

    `repetition_penalty` is that of Keskar et al. 2019, CTRL, section 4.1. With `temperature` above
    0, tokens are sampled with `seed` from the most likely ones with a total probability of `top_p`.
    """

    precision: Annotated[
        Precision, Setting("Base held in", help="precision of the base weights",
                           choices=PRECISIONS),
    ] = "bf16"  # fmt: skip
    max_new_tokens: Annotated[
        int, Setting("New tokens", "New tokens at most", "maximum tokens of an answer", low=1,
                     high=1024),
    ] = 96  # fmt: skip
    temperature: Annotated[
        float, Setting("Temperature", "Temperature (0: greedy)", "0 is greedy, above it tokens are "
                       "sampled", high=2),
    ] = 0.0  # fmt: skip
    top_p: Annotated[
        float, Setting("Top-p", "Top-p (1: all tokens)", "samples from the most likely tokens with "
                       "this total probability; 1 keeps every token", low=0.01, high=1),
    ] = 1.0  # fmt: skip
    repetition_penalty: Annotated[
        float, Setting("Repetition penalty", "Repetition penalty (1: none)", "makes tokens that "
                       "already occur less likely; 1 is none", low=1, high=2),
    ] = 1.0  # fmt: skip
    seed: Annotated[
        int, Setting("Seed", "Seed of the sampling", "sampling seed, the same in every pane",
                     high=2**32 - 1),
    ] = 0  # fmt: skip
    system: Annotated[
        str, Setting("System prompt", "System prompt (empty: the template's own)",
                     "message before the prompt", high=MAX_CHARACTERS,
                     empty="the template's own"),
    ] = ""  # fmt: skip
    mode: Annotated[
        Mode, Setting("Mode", help="'chat' formats the prompt as in training, 'completion' "
                      "continues plain text", choices=MODES),
    ] = "chat"  # fmt: skip
