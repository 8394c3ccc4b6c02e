"""OpenAI's protocol of chat completions: bodies of requests, of answers and of errors. No torch.

As documented at platform.openai.com/docs/api-reference/chat. A field that is not honoured is an
error that names it, unless its value asks for nothing.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from ftlab.basics.words import did_you_mean
from ftlab.playground.chat import ChatRequest, ChatUpdate
from ftlab.settings.generation import MAX_CHARACTERS
from ftlab.tasks.spec import Message, Role

DEFAULT_NEW_TOKENS = 1024
"""Of an answer whose request has no `max_tokens`. OpenAI's protocol has no limit there, and a small
model may never end by itself."""

MOST_MESSAGES = 1000
MOST_STOPS = 4
"""As OpenAI documents for `stop`."""

_WITHOUT_EFFECT = frozenset({
    "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "service_tier", "user",
})  # fmt: skip
"""Fields that may have any value: they change no text."""

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
}
"""Fields that are not honoured, and the values with which they ask for nothing. So does null."""

_HONOURED = frozenset({
    "messages", "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed",
    "stop", "stream", "stream_options", "repetition_penalty",
})  # fmt: skip

_ROLES = {**{role: role for role in get_args(Role)}, "developer": "system"}


class ApiError(Exception):
    """An answer with OpenAI's error body. `param` is the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


def wrong(field_name: str, rule: str) -> ApiError:
    """400 for a field: `rule` says what is wrong and what to give."""
    return ApiError(400, f"'{field_name}' {rule}.", param=field_name, code="invalid_value")


@dataclass(frozen=True)
class Asked:
    """A request for a completion; `model` is the name by which it was asked for."""

    chat: ChatRequest
    model: str
    include_usage: bool


def read_chat(body: Any, names: Mapping[str, str]) -> Asked:
    """Parses the body of a request. `names` has the pane name for each name of a model.

    Raises `ApiError`: 404 for an unknown model, 400 for anything else.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "The body is no JSON object; give one with 'model' and 'messages'.")
    given = {name: value for name, value in body.items() if value is not None}
    model = given.get("model")
    if not isinstance(model, str):
        raise wrong("model", "is missing; name one that /v1/models lists")
    _check_fields(given)
    if model not in names:
        raise unknown_model(model, names)
    stream = _flag(given, "stream")
    chat = ChatRequest(
        name=names[model],
        messages=_messages(given.get("messages")),
        max_new_tokens=_new_tokens(given),
        temperature=_number(given, "temperature", 1, 0, 2),
        top_p=_number(given, "top_p", 1, 0.01, 1),
        repetition_penalty=_number(given, "repetition_penalty", 1, 1, 2),
        seed=_seed(given),
        stop=_stop(given.get("stop")),
        stream=stream,
    )
    return Asked(chat, model, _include_usage(given, stream))


def unknown_model(model: str, names: Mapping[str, str]) -> ApiError:
    hint = did_you_mean(model, names)
    return ApiError(
        404,
        f"The model '{model[:200]}' is not served here; /v1/models lists those that are.{hint}",
        param="model",
        code="model_not_found",
    )


def _check_fields(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in _HONOURED or name in _WITHOUT_EFFECT:
            continue
        if name not in _NEUTRAL:
            raise ApiError(
                400, f"The field '{name[:100]}' is not known here; leave it out.",
                param=name[:100], code="unknown_parameter",
            )  # fmt: skip
        # True == 1 in Python, but not in JSON
        if not any((value == one and type(value) is not bool) or value is one
                   for one in _NEUTRAL[name]):  # fmt: skip
            raise ApiError(
                400, f"'{name}' is not supported here; leave it out.",
                param=name, code="unsupported_parameter",
            )  # fmt: skip


def _messages(given: Any) -> tuple[Message, ...]:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_MESSAGES:
        raise wrong("messages", f"has to be a list of 1 to {MOST_MESSAGES:,} messages")
    messages = tuple(_message(one, f"messages[{place}]") for place, one in enumerate(given))
    if sum(len(one.content) for one in messages) > MAX_CHARACTERS:
        raise ApiError(
            400, f"The messages have more than {MAX_CHARACTERS:,} characters; shorten them.",
            param="messages", code="context_length_exceeded",
        )  # fmt: skip
    return messages


def _message(given: Any, where: str) -> Message:
    if not isinstance(given, dict):
        raise wrong(where, "has to be an object with 'role' and 'content'")
    for name, value in given.items():
        if name not in ("role", "content") and value not in (None, [], {}):
            raise ApiError(
                400, f"'{where}.{name[:100]}' is not supported here; leave it out.",
                param=f"{where}.{name[:100]}", code="unsupported_parameter",
            )  # fmt: skip
    role, content = given.get("role"), given.get("content")
    if not isinstance(role, str) or role not in _ROLES:
        raise wrong(f"{where}.role", f"has to be one of {', '.join(_ROLES)}")
    if isinstance(content, list):
        content = "".join(
            _part(one, f"{where}.content[{place}]") for place, one in enumerate(content)
        )
    if not isinstance(content, str):
        raise wrong(f"{where}.content", "has to be a text, or a list of parts of type 'text'")
    if not _is_text(content):
        raise wrong(f"{where}.content", "has half of a surrogate pair, which is no text")
    return Message(_ROLES[role], content)


def _is_text(content: str) -> bool:
    try:
        content.encode()
    except UnicodeEncodeError:
        return False
    return True


def _part(given: Any, where: str) -> str:
    if not isinstance(given, dict) or given.get("type") != "text":
        raise wrong(where, "has to be a part of type 'text': only texts are read here")
    text = given.get("text")
    if not isinstance(text, str):
        raise wrong(f"{where}.text", "has to be a text")
    return text


def _new_tokens(given: Mapping[str, Any]) -> int:
    names = [name for name in ("max_completion_tokens", "max_tokens") if name in given]
    values = [_whole(given, name, 1, 2**31) for name in names]
    return min(values, default=DEFAULT_NEW_TOKENS)


def _seed(given: Mapping[str, Any]) -> int:
    """Any whole number is a seed; without one, each request has another."""
    if "seed" not in given:
        return secrets.randbits(32)
    return _whole(given, "seed", -(2**63), 2**63 - 1) % 2**32


def _whole(given: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(name, f"has to be a whole number from {low} to {high}")
    return value


def _number(given: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = given.get(name, default)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise wrong(name, f"has to be a number from {low:g} to {high:g}")
    return float(value)


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise wrong(name, "has to be true or false")
    return value


def _stop(given: Any) -> tuple[str, ...]:
    stops = [given] if isinstance(given, str) else [] if given is None else given
    good = isinstance(stops, list) and len(stops) <= MOST_STOPS
    if not good or not all(
        isinstance(one, str) and 0 < len(one) <= 200 and _is_text(one) for one in stops
    ):
        raise wrong("stop", f"has to be a text of 1 to 200 characters, or up to {MOST_STOPS} such")
    return tuple(stops)


def _include_usage(given: Mapping[str, Any], stream: bool) -> bool:
    options = given.get("stream_options", {})
    if not isinstance(options, dict):
        raise wrong("stream_options", "has to be an object")
    if options and not stream:
        raise wrong("stream_options", "needs 'stream': true")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            raise ApiError(
                400, f"'stream_options.{name[:100]}' is not supported here; leave it out.",
                param=f"stream_options.{name[:100]}", code="unsupported_parameter",
            )  # fmt: skip
    return _flag(options, "include_usage")


@dataclass
class Completion:
    """Writes the answer to one request, whole or as the chunks of a stream."""

    model: str
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _sent: str = ""

    def whole(self, update: ChatUpdate) -> dict[str, Any]:
        message = {"role": "assistant", "content": update.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": update.finish_reason,
        }
        return self._object("chat.completion", [choice]) | {"usage": usage(update)}

    def first_chunk(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def chunks(self, update: ChatUpdate) -> list[dict[str, Any]]:
        """What an update adds to what was sent; after the last one the reason, and the usage."""
        added = []
        if update.text.startswith(self._sent) or update.kind == "done":
            new = update.text[len(self._sent) :]
            added += [self._chunk({"content": new})] if new else []
            self._sent = update.text
        if update.kind == "done":
            added.append(self._chunk({}, update.finish_reason))
            if self.include_usage:
                added.append(self._object("chat.completion.chunk", []) | {"usage": usage(update)})
        return added

    def _chunk(self, delta: Mapping[str, str], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {
            "index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish_reason
        }  # fmt: skip
        nothing = {"usage": None} if self.include_usage else {}
        return self._object("chat.completion.chunk", [choice]) | nothing

    def _object(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": list(choices),
        }


def usage(update: ChatUpdate) -> dict[str, int]:
    return {
        "prompt_tokens": update.prompt_tokens,
        "completion_tokens": update.tokens,
        "total_tokens": update.prompt_tokens + update.tokens,
    }
