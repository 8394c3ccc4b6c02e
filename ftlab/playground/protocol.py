"""What web process and worker say to each other: JSON, one message a line.

The client numbers its requests; the worker puts that number on every line it writes. A line of a
request that nobody reads any more is then simply passed over, so an answer that was left half-way
cannot get into the next one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ftlab.errors import FieldError, FtlabError
from ftlab.models.reference import BUNDLED_ID, parse_model
from ftlab.runs.directory import find_run
from ftlab.runs.result import STATUS_LABELS
from ftlab.runs.store import Run, read_run

BASE = "base"
"""The pane of the untouched model."""

WAITING = "Waiting for its turn …"
"""Status of a pane whose answer has not begun."""

MAX_PANES = 4
MAX_NEW_TOKENS = 1024
MAX_TEMPERATURE = 2.0
MAX_PROMPT_CHARACTERS = 100_000

UpdateKind = Literal["status", "text", "done", "error"]


class Stopped(Exception):
    """Nobody waits for this answer any more."""


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt for up to four panes; a pane is "base" or a run id.

    `model` `None` is the runs' own base model, and the bundled one where only the base answers.
    `temperature` 0 is greedy; above it, sampling from the whole distribution with `seed`.
    """

    panes: tuple[str, ...]
    prompt: str
    model: str | None = None
    max_new_tokens: int = 96
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class PaneUpdate:
    """What is new in one pane. `pane` is its place in the request.

    `text` is a sentence for "status" and "error", and the whole answer so far for "text" and
    "done". `tokens` were generated, the end token among them; `tokens_per_second` is the rate after
    the first token, `first_token_seconds` the time from prompt to first token, `swap_seconds` the
    time to put on the adapter. `adapter_sha256` is that of the weights file the pane wears.
    """

    pane: int
    kind: UpdateKind
    text: str
    tokens: int = 0
    tokens_per_second: float | None = None
    first_token_seconds: float | None = None
    swap_seconds: float | None = None
    note: str = ""
    adapter_sha256: str = ""

    @property
    def is_final(self) -> bool:
        return self.kind in ("done", "error")


@dataclass(frozen=True)
class ToWorker:
    """A request to answer, or, without one, the wish to stop answering that number."""

    number: int
    request: GenerateRequest | None = None


@dataclass(frozen=True)
class FromWorker:
    """An update of that request, or, without one, that nothing more comes."""

    number: int
    update: PaneUpdate | None = None


def to_line(message: ToWorker | FromWorker) -> str:
    """The message as one line of ASCII, with its line end."""
    return json.dumps(asdict(message)) + "\n"


def parse_to_worker(line: str) -> ToWorker:
    """Raises `ValueError` for a line that is no such message."""
    data = _read(line)
    request = data["request"]
    if request is not None:
        request = GenerateRequest(**{**request, "panes": tuple(request["panes"])})
    return ToWorker(data["number"], request)


def parse_from_worker(line: str) -> FromWorker:
    """Raises `ValueError` for a line that is no such message."""
    data = _read(line)
    update = data["update"]
    return FromWorker(data["number"], None if update is None else PaneUpdate(**update))


def _read(line: str) -> dict[str, Any]:
    data = json.loads(line)
    if not isinstance(data, dict) or "number" not in data:
        raise ValueError(f"not a message: {line[:80]!r}")
    return data


def base_model(request: GenerateRequest, runs_folder: Path) -> str:
    """The name of the base model that all panes share; raises `FtlabError` for an unknown run."""
    if request.model:
        return request.model
    for pane in request.panes:
        if pane != BASE:
            return find_run(runs_folder, pane).spec().model
    return BUNDLED_ID


def same_name(model: str) -> str:
    """One name for one model, however it was written; the text itself if it names none."""
    try:
        return parse_model(model).name
    except FtlabError:
        return model


def validate_generate(request: GenerateRequest, runs_folder: Path) -> list[FieldError]:
    """Every wrong field with a sentence that names the value, the rule and the way out."""
    return [
        *_panes(request, runs_folder),
        *_prompt(request.prompt),
        *_whole("max_new_tokens", "New tokens", request.max_new_tokens, 1, MAX_NEW_TOKENS),
        *_temperature(request.temperature),
        *_whole("seed", "Seed", request.seed, 0, 2**32 - 1),
    ]


def _panes(request: GenerateRequest, runs_folder: Path) -> Iterator[FieldError]:
    count = len(request.panes)
    if not 1 <= count <= MAX_PANES:
        message = f"{count} panes are chosen; choose 1 to {MAX_PANES}: '{BASE}' or finished runs."
        yield FieldError("panes", message)
        return
    runs: list[Run] = []
    for pane in request.panes:
        if pane == BASE:
            continue
        try:
            run = read_run(find_run(runs_folder, pane))
        except (FtlabError, OSError) as error:
            yield FieldError("panes", str(error))
            continue
        reason = cannot_answer(run)
        if reason:
            yield FieldError("panes", reason)
        else:
            runs.append(run)
    yield from _one_model(request.model, runs)


def cannot_answer(run: Run) -> str:
    """Why the run has no pane of its own, as a sentence; "" if it has."""
    if run.spec.is_base:
        return f"Run '{run.run_id}' is a base run and has no adapter; choose '{BASE}' instead."
    if run.status != "done":
        return (
            f"Run '{run.run_id}' is {STATUS_LABELS[run.status]}, so it has no adapter to answer "
            "with; choose a run that is done."
        )
    return ""


def _one_model(asked: str | None, runs: list[Run]) -> Iterator[FieldError]:
    if asked:
        try:
            parse_model(asked)
        except FtlabError as error:
            yield FieldError("model", str(error))
            return
    first = asked or (runs[0].spec.model if runs else "")
    for run in runs:
        own = run.spec.model
        if same_name(own) == same_name(first):
            continue
        other = "the model asked for is" if asked else f"that of run '{runs[0].run_id}' is"
        yield FieldError(
            "panes",
            f"The base model of run '{run.run_id}' is {own}, {other} {first}; all panes share one "
            "base model, so choose runs of the same one.",
        )


def _prompt(prompt: str) -> Iterator[FieldError]:
    if not prompt.strip():
        yield FieldError("prompt", "The prompt is empty; write one or choose a held-out example.")
    elif len(prompt) > MAX_PROMPT_CHARACTERS:
        yield FieldError(
            "prompt",
            f"The prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are "
            "read, so shorten it.",
        )


def _whole(field: str, label: str, value: Any, low: int, high: int) -> Iterator[FieldError]:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        message = f"{label}: {value} is no whole number between {low} and {high}; give one."
        yield FieldError(field, message)


def _temperature(value: Any) -> Iterator[FieldError]:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= MAX_TEMPERATURE:
        yield FieldError(
            "temperature",
            f"Temperature: {value} is no number between 0 and {MAX_TEMPERATURE:g}; "
            "0 always takes the likeliest token.",
        )
