"""What must never stand in a log: access tokens, and what secret environment variables hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "[hidden]"
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_-]{6,}")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}")
_SECRET_NAME = re.compile(
    r"(?i)token(?!izers)|secret|passw|credential|(api|access|private)_?key|auth"
)
_SHORTEST = 6
"""Characters; a shorter value ("1", "true") would hide half of every line."""


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of that name holds what nobody else may know."""
    return bool(_SECRET_NAME.search(name))


def secrets_of(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The values of variables that are named like a secret, longest first.

    Of "user:password" the password counts by itself as well.
    """
    given = os.environ if environment is None else environment
    found = set()
    for name, value in given.items():
        if is_secret_name(name):
            found |= {value.strip(), value.strip().partition(":")[2]}
    return tuple(sorted((v for v in found if len(v) >= _SHORTEST), key=len, reverse=True))


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without tokens of the Hugging Face Hub, HTTP credentials and the secrets."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _BEARER.sub(rf"\1 {HIDDEN}", _TOKEN.sub(HIDDEN, text))


def without_inputs(text: str, inputs: Any) -> str:
    """The text without any word that a person sent: prompts, notes, rows of their data.

    `inputs` is an event's whole input as it came, lists and objects within each other.
    """
    for given in sorted(set(_texts(inputs)), key=len, reverse=True):
        for form in {given, repr(given)[1:-1]}:
            text = text.replace(form, "[given]")
    return text


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        if len(value) >= _SHORTEST:
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
