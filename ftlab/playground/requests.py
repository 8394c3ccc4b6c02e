"""What the playground's client and worker say to each other, and what a form may ask.

How requests are sent is in `ftlab.basics.processes`. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.jobs.inputs import Access
from ftlab.models.reference import parse_model
from ftlab.playground.panes import BASE, UPLOADED, PaneSource, line_up
from ftlab.tasks.spec import Message

WAITING = "Waiting for its turn …"
"""Status of a pane whose answer has not begun."""

LOADING = "Loading the base model …"
"""Status of every pane until the base model is there."""

Precision = Literal["bf16", "fp32", "nf4"]
PRECISIONS: dict[Precision, str] = {"bf16": "16 bits", "fp32": "32 bits", "nf4": "4 bits (NF4)"}
"""How the resident base is held, and what people read."""

Mode = Literal["chat", "completion"]
UpdateKind = Literal["status", "text", "done", "error"]


class Stopped(Exception):
    """Nobody waits for this answer any more."""


@dataclass(frozen=True)
class GenerateRequest:
    """One prompt for all panes; a pane is one of the names that `panes.find_source` knows.

    `model` `None` is the panes' own base model, and the bundled one where only the base answers.
    In "chat" the prompt is the user's turn, after the pane's own `histories` (one a pane; none at
    all for a first turn) and the `system` message (empty: the template's own); in "completion" it
    is plain text to go on from. `temperature` 0 is greedy; above it tokens are drawn with `seed`
    from the likeliest ones that together have `top_p`. `repetition_penalty` 1 is none (Keskar et
    al. 2019, CTRL, section 4.1).
    """

    panes: tuple[str, ...]
    prompt: str
    model: str | None = None
    precision: Precision = "bf16"
    mode: Mode = "chat"
    system: str = ""
    histories: tuple[tuple[Message, ...], ...] = ()
    max_new_tokens: int = 96
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def history(self, pane: int) -> tuple[Message, ...]:
        return self.histories[pane] if self.histories else ()


@dataclass(frozen=True)
class NextToken:
    """How far a pane's first next-token distribution is from the base's on the same prompt.

    `kl_nats` is KL(pane || base), `None` where a model's logits are no numbers; `token` and
    `base_token` are the likeliest of each as text.
    """

    kl_nats: float | None
    token: str
    base_token: str
    top1_changed: bool


@dataclass(frozen=True)
class PaneUpdate:
    """What is new in one pane. `pane` is its place in the request.

    `text` is a sentence for "status", and the whole answer so far for "text" and "done"; for
    "error" it is the sentence, and `partial` what had been answered until then. `tokens` were
    generated, the end token among them; `tokens_per_second` is the rate after the first token while
    all panes took turns, `first_token_seconds` the time from prompt to first token, `swap_seconds`
    the time to put on the adapter. `adapter_sha256` is that of the weights file the pane wears.
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
    next_token: NextToken | None = None
    partial: str = ""

    @property
    def is_final(self) -> bool:
        return self.kind in ("done", "error")

    @property
    def changes_nothing(self) -> bool:
        """An adapter that leaves the base's distribution as it was, within rounding."""
        kl = self.next_token.kl_nats if self.next_token else None
        return kl is not None and kl < KL_OF_ROUNDING


KL_OF_ROUNDING = 1e-6
"""Nats. Rows of one batch differ by less where nothing is laid over the base."""


def request_from_json(data: dict[str, Any]) -> GenerateRequest:
    histories = tuple(
        tuple(Message(**message) for message in history) for history in data.get("histories", ())
    )
    return GenerateRequest(**{**data, "panes": tuple(data["panes"]), "histories": histories})


def update_from_json(data: dict[str, Any]) -> PaneUpdate:
    told = data.get("next_token")
    return PaneUpdate(**{**data, "next_token": NextToken(**told) if told else None})


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


def check_named(panes: Sequence[str], model: str | None, runs_folder: Path, access: Access) -> None:
    """Raises `InvalidRequest` for a base that `access` does not let a visitor name.

    The base of a run in one of the panes was named by whoever launched it, and is open to all.
    """
    if access.folders is None and access.may_ask_hub:
        return
    lineup = line_up(panes[:MAX_PANES], None, runs_folder)
    wanted = model or lineup.model
    if any(source.sweep_id and source.model == wanted for source in lineup.found.values()):
        return
    try:
        access.check_model(wanted)
    except FtlabError as error:
        raise InvalidRequest([FieldError("model", str(error))]) from None


def note_on(source: PaneSource, precision: Precision) -> str:
    """A sentence for the pane; "" where nothing differs."""
    if source.name == BASE or source.name.startswith(UPLOADED):
        return ""  # how an adapter from elsewhere was trained is not known
    here = PRECISIONS[precision]
    if source.base_precision != (precision if precision == "nf4" else None):
        if source.is_part:
            return ""  # it cannot answer there, and says so itself
        if not source.is_adapter:
            return "A full fine-tuning has weights of its own; they answer here in 16 bits."
        if source.base_precision is not None:
            return (
                f"Trained on a base held in {source.base_precision}; answered here on the base in "
                f"{here}, so the answer may differ from the run's own samples."
            )
        return f"Trained on an unquantised base; answered here on the base in {here}."
    policy = "fp32" if precision == "fp32" else "bf16"
    if source.base_precision is None and source.dtype_policy != policy:
        return (
            f"Trained under the dtype policy {source.dtype_policy}; answered here in {here}, "
            "so the answer may differ from the run's own samples."
        )
    return ""
