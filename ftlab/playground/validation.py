"""What a prompt's form may ask, said in sentences. What is wrong with one pane is said there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ftlab.errors import FieldError, FtlabError
from ftlab.models.reference import parse_model
from ftlab.playground.panes import BASE
from ftlab.playground.protocol import PRECISIONS, GenerateRequest

MAX_PANES = 6
MAX_NEW_TOKENS = 1024
MAX_CHARACTERS = 100_000


def validate_generate(request: GenerateRequest) -> list[FieldError]:
    """Every wrong field with a sentence that names the value, the rule and the way out."""
    return [
        *_panes(request),
        *_model(request.model),
        *_choice("precision", "Base held in", request.precision, PRECISIONS),
        *_choice("mode", "Mode", request.mode, ("chat", "completion")),
        *_prompt(request.prompt),
        *_text("system", "The system prompt", request.system),
        *_whole("max_new_tokens", "New tokens", request.max_new_tokens, 1, MAX_NEW_TOKENS),
        *_number("temperature", "Temperature", request.temperature, 0, 2, "0 is greedy"),
        *_number("top_p", "Top-p", request.top_p, 0.01, 1, "1 keeps every token"),
        *_number("repetition_penalty", "Repetition penalty", request.repetition_penalty, 1, 2,
                 "1 is none"),
        *_whole("seed", "Seed", request.seed, 0, 2**32 - 1),
    ]  # fmt: skip


def _panes(request: GenerateRequest) -> Iterator[FieldError]:
    count = len(request.panes)
    if not 1 <= count <= MAX_PANES:
        yield FieldError(
            "panes",
            f"{count} panes are chosen; choose 1 to {MAX_PANES}: '{BASE}' or finished runs.",
        )
    if request.histories and len(request.histories) != count:
        yield FieldError(
            "histories",
            f"{len(request.histories)} histories for {count} panes; give one a pane, or none.",
        )


def _model(asked: str | None) -> Iterator[FieldError]:
    if asked:
        try:
            parse_model(asked)
        except FtlabError as error:
            yield FieldError("model", str(error))


def _prompt(prompt: str) -> Iterator[FieldError]:
    if not prompt.strip():
        yield FieldError("prompt", "The prompt is empty; write one or choose a held-out example.")
    yield from _text("prompt", "The prompt", prompt)


def _text(field: str, label: str, text: str) -> Iterator[FieldError]:
    if len(text) > MAX_CHARACTERS:
        yield FieldError(
            field,
            f"{label} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read, "
            "so shorten it.",
        )


def _choice(field: str, label: str, value: Any, choices: Any) -> Iterator[FieldError]:
    if value not in tuple(choices):  # whatever JSON brought, a list too
        yield FieldError(field, f"{label}: '{value}' is none of: {', '.join(choices)}.")


def _whole(field: str, label: str, value: Any, low: int, high: int) -> Iterator[FieldError]:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = f"{label}: {value} is no whole number between {low} and {high}; give one."
        yield FieldError(field, message)


def _number(
    field: str, label: str, value: Any, low: float, high: float, hint: str
) -> Iterator[FieldError]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        yield FieldError(
            field, f"{label}: {value} is no number between {low:g} and {high:g}; {hint}."
        )
