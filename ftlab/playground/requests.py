"""Messages between the playground's client and worker, and the validation of a request.

`ftlab.basics.processes` sends them. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.jobs.inputs import Access
from ftlab.models.reference import parse_model
from ftlab.playground.panes import BASE, UPLOADED, PaneSource, line_up
from ftlab.settings.generation import MAX_CHARACTERS, PRECISIONS, GenerationSettings, Precision
from ftlab.settings.schema import errors_in
from ftlab.tasks.spec import Message

WAITING = "Waiting for its turn …"
"""Status of a pane whose answer has not started."""

LOADING = "Loading the base model …"
"""Status of every pane until the base model is loaded."""

UpdateKind = Literal["status", "text", "done", "error"]


class Stopped(Exception):
    """The answer was cancelled."""


@dataclass(frozen=True)
class GenerateRequest(GenerationSettings):
    """One prompt for all panes; a pane is a name that `panes.find_source` accepts.

    If `model` is `None`, the panes' own base model is used, or the bundled model if only the base
    answers. In "chat" the prompt is the user's turn. It follows the `system` message (empty: the
    template's default) and the pane's entry in `histories` (one per pane; empty for a first turn).
    In "completion" the prompt is plain text to continue.
    """

    panes: tuple[str, ...]
    prompt: str
    model: str | None = None
    histories: tuple[tuple[Message, ...], ...] = ()

    def history(self, pane: int) -> tuple[Message, ...]:
        return self.histories[pane] if self.histories else ()


@dataclass(frozen=True)
class NextToken:
    """Difference between a pane's first next-token distribution and the base's, same prompt.

    `kl_nats` is KL(pane || base), `None` if a model's logits are not finite. `token` and
    `base_token` are the most likely token of each, as text.
    """

    kl_nats: float | None
    token: str
    base_token: str
    top1_changed: bool

    @property
    def difference(self) -> str:
        """As in "very differently from", by `KL_BANDS`."""
        if self.kl_nats is None:
            return "not comparably with"
        low, high = _KL_ENDS
        if self.kl_nats < low:
            return "much like"
        return "differently from" if self.kl_nats < high else "very differently from"


_KL_ENDS = (0.1, 1.0)
KL_BANDS = "below {} much like the base, from {} on very differently".format(*_KL_ENDS)
"""The names of the ranges of KL(pane || base) in nats. Ours: no standard ones are known to us."""


@dataclass(frozen=True)
class PaneUpdate:
    """An update for one pane. `pane` is its index in the request.

    `text` is a sentence for "status" and "error", and the whole answer so far for "text" and
    "done". For "error", `partial` is the answer generated before the error. `tokens` counts the
    generated tokens, the end token included. `tokens_per_second` is the rate after the first token
    while all panes take turns. `first_token_seconds` is the time from prompt to first token,
    `swap_seconds` the time to attach the adapter. `adapter_sha256` is the hash of the weights file.
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
    def error(self) -> str:
        return self.text if self.kind == "error" else ""

    @property
    def answer(self) -> str:
        """The generated text, also that before an error."""
        return self.partial if self.kind == "error" else self.text

    @property
    def changes_nothing(self) -> bool:
        """Whether the adapter leaves the base's distribution unchanged, within rounding."""
        kl = self.next_token.kl_nats if self.next_token else None
        return kl is not None and kl < KL_OF_ROUNDING


KL_OF_ROUNDING = 1e-6
"""In nats. Rows of one batch without an adapter differ by less than this."""


def request_from_json(data: dict[str, Any]) -> GenerateRequest:
    histories = tuple(
        tuple(Message(**message) for message in history) for history in data.get("histories", ())
    )
    return GenerateRequest(**{**data, "panes": tuple(data["panes"]), "histories": histories})


def update_from_json(data: dict[str, Any]) -> PaneUpdate:
    told = data.get("next_token")
    return PaneUpdate(**{**data, "next_token": NextToken(**told) if told else None})


MAX_PANES = 6
MAX_GRID_PANES = 65
"""The base and 64 adapters, whose answers no screen has to show side by side."""


def validate_generate(request: GenerateRequest, most: int = MAX_PANES) -> list[FieldError]:
    """Returns every invalid field with a sentence: the value, the rule and how to correct it."""
    return [*_errors(request, most), *errors_in(request)]


def _errors(request: GenerateRequest, most: int) -> Iterator[FieldError]:
    count = len(request.panes)
    if not 1 <= count <= most:
        yield FieldError(
            "panes",
            f"{count} panes are chosen; choose 1 to {most}: '{BASE}' or finished runs.",
        )
    if request.histories and len(request.histories) != count:
        yield FieldError(
            "histories",
            f"{len(request.histories)} histories for {count} panes; give one a pane, or none.",
        )
    if request.model:
        try:
            parse_model(request.model)
        except FtlabError as error:
            yield FieldError("model", str(error))
    if not request.prompt.strip():
        yield FieldError("prompt", "The prompt is empty; write one or choose a test example.")
    if len(request.prompt) > MAX_CHARACTERS:
        yield FieldError(
            "prompt",
            f"The prompt has {len(request.prompt):,} characters; at most {MAX_CHARACTERS:,} are "
            "read, so shorten it.",
        )


def check_named(panes: Sequence[str], model: str | None, runs_folder: Path, access: Access) -> None:
    """Raises `InvalidRequest` if `access` does not allow the visitor to use that base model.

    The base of a run in one of the panes is always allowed: whoever launched the run chose it.
    """
    if access.folders is None and access.may_ask_hub:
        return
    lineup = line_up(panes[:MAX_GRID_PANES], None, runs_folder)
    wanted = model or lineup.model
    if any(source.sweep_id and source.model == wanted for source in lineup.found.values()):
        return
    try:
        access.check_model(wanted)
    except FtlabError as error:
        raise InvalidRequest([FieldError("model", str(error))]) from None


def note_on(source: PaneSource, precision: Precision) -> str:
    """Returns a note if the run was trained in another precision; "" if not."""
    if source.name == BASE or source.name.startswith(UPLOADED):
        return ""  # the training precision of an uploaded adapter is unknown
    here = PRECISIONS[precision]
    if source.base_precision != (precision if precision == "nf4" else None):
        if source.is_part:
            return ""  # it cannot answer on such a base; its own error says so
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
