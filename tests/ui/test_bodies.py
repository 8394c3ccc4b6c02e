"""How much of a request's body is read, how long it is waited for, and what may stand in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from ftlab.ui.bodies import BodyLimits, Refusal, count_items, json_refusal

LIMITS = BodyLimits(max_bytes=10, seconds=0.05)


def read(parts: Sequence[bytes], then: Message | None = None) -> bytes | Refusal | None:
    """What is read of a body that comes in parts; after them `then`, or nothing for ever."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if then is None:
            await asyncio.Event().wait()
            raise AssertionError
        return then

    return asyncio.run(LIMITS.read(receive))


END = {"type": "http.request", "body": b"", "more_body": False}


def test_a_body_is_put_together() -> None:
    assert read([b"abc", b"def"], END) == b"abcdef"


def test_a_body_that_goes_on_and_on_is_left_at_the_limit() -> None:
    refused = read([b"a" * 6, b"a" * 6, b"never read"])
    assert isinstance(refused, Refusal)
    assert refused.status == 413


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    refused = read([b"a"])
    assert isinstance(refused, Refusal)
    assert refused.status == 408
    assert "0.05 s" in refused.sentence


def test_a_sender_who_has_gone_is_not_answered() -> None:
    assert read([b"a"], {"type": "http.disconnect"}) is None


@pytest.mark.hostile("request bodies")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-length": "11"}, 413),
        ({"content-length": "9" * 19}, 413),
        ({"content-length": "9" * 4000}, 413),
        ({"transfer-encoding": "chunked"}, 411),
        ({"transfer-encoding": "chunked", "content-length": "2"}, 411),
    ],
)
def test_a_body_is_refused_for_its_head(headers: dict[str, str], status: int) -> None:
    refused = LIMITS.refusal(Headers(headers))
    assert refused is not None
    assert refused.status == status


def test_a_short_body_and_none_are_let_through() -> None:
    assert LIMITS.refusal(Headers({"content-length": "10"})) is None
    assert LIMITS.refusal(Headers({})) is None


def refusal(body: bytes) -> Refusal | None:
    return asyncio.run(json_refusal(body))


@pytest.mark.hostile("request bodies")
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100 + b"]" * 100,
        b"[" * 15_000,
        b"[" * 15_000 + b"]" * 15_000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[" + b"0," * 30_000 + b"0]",
        b"[" + b"{}," * 15_000 + b"{}]",
        b"[" * 1_000_000,
    ],
)
def test_a_body_of_too_many_values_or_levels_is_refused(body: bytes) -> None:
    refused = refusal(body)
    assert refused is not None
    assert refused.status == 413
    assert refused.sentence.endswith(".")


def test_what_the_page_sends_is_let_through() -> None:
    nested: object = "text, with [signs] and {more}"
    for _ in range(60):
        nested = [nested]
    assert refusal(json.dumps({"data": [nested, 1.5, None]}).encode()) is None
    assert refusal(json.dumps({"data": ["x" * 2**20]}).encode()) is None
    assert refusal(b"") is None
    assert refusal(b"no JSON, so gradio refuses it") is None


def test_items_are_counted_without_parsing() -> None:
    for value in ([], [1, 2, 3], {"a": [1, {"b": 2}], "c": "d"}, "text"):
        counted = count_items(json.dumps(value).encode())
        assert counted >= len(list(_values(value)))


def _values(value: object) -> Sequence[object]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(found for item in inner for found in _values(item))]
