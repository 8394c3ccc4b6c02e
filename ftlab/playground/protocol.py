"""What the playground's client and worker say to each other: requests, and updates of their panes.

How they are sent is in `ftlab.runs.worker_client`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
