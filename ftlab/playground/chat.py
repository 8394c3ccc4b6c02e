"""Messages between the endpoint and its worker: one chat per request, one model per chat. No torch.

`ftlab.basics.processes` sends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ftlab.playground.panes import same_name
from ftlab.settings.generation import Precision
from ftlab.tasks.spec import Message

ROWS_AT_ONCE = 32
"""So many chats are answered at once; the others wait. Each row keeps its keys and values."""


@dataclass(frozen=True)
class Offer:
    """What an endpoint serves: one base model in one precision, and sources on it by pane name."""

    model: str
    precision: Precision
    names: tuple[str, ...]

    def arguments(self) -> list[str]:
        """As arguments of the worker."""
        return ["--model", self.model, "--precision", self.precision, "--names", *self.names]

    @property
    def key(self) -> tuple[str, Precision]:
        """What has to be loaded."""
        return same_name(self.model), self.precision


@dataclass(frozen=True)
class ChatRequest:
    """A chat for the source `name`. Temperature 0 is greedy; `stop` are texts that end the answer
    and are not part of it. With `stream` the text so far is sent as well."""

    name: str
    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stream: bool = False


ChatKind = Literal["text", "done", "refused", "error"]


@dataclass(frozen=True)
class ChatUpdate:
    """`text` is the whole answer so far for "text" and "done"; a sentence for "refused" (the prompt
    is not acceptable) and "error". `tokens` counts the end token too. `finish_reason` is "stop" or
    "length", only for "done"."""

    kind: ChatKind
    text: str
    prompt_tokens: int = 0
    tokens: int = 0
    finish_reason: str = ""


def chat_from_json(data: dict[str, Any]) -> ChatRequest:
    messages = tuple(Message(**message) for message in data["messages"])
    return ChatRequest(**{**data, "messages": messages, "stop": tuple(data["stop"])})


def before_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stop texts in it, and whether there is one."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def surely_before_stop(text: str, stop: Sequence[str]) -> str:
    """The text without an end that may become one of the stop texts with the next tokens."""
    held = 0
    for ending in stop:
        for length in range(min(len(ending) - 1, len(text)), held, -1):
            if text.endswith(ending[:length]):
                held = length
                break
    return text[: len(text) - held]
