"""How much of a request's body is read, how long it is waited for, and what may stand in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.types import Message, Receive

from ftlab.tabs.requests import BodyLimits, Refusal, json_refusal, text_of, unbroken
from tests.asynchronous import run

LIMITS = BodyLimits(max_bytes=10, seconds=0.05)


def coming(parts: Sequence[bytes], then: Message | None = None) -> Receive:
    """A body that comes in parts; after them `then`, or nothing for ever."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        if then is None:
            await asyncio.Event().wait()
            raise AssertionError
        return then

    return receive


def read(parts: Sequence[bytes], then: Message | None = None) -> bytes | Refusal | None:
    return run(LIMITS.read(coming(parts, then)))


async def all_of(receive: Receive) -> list[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return [*messages, await receive()]


END = {"type": "http.request", "body": b"", "more_body": False}


GONE = {"type": "http.disconnect"}


def test_a_body_is_read_whole_and_a_sender_who_has_gone_is_not_answered() -> None:
    assert read([b"abc", b"def"], END) == b"abcdef"
    assert read([b"a"], GONE) is None


@pytest.mark.parametrize(
    ("parts", "status", "sentence"),
    [([b"a" * 6, b"a" * 6, b"never read"], 413, ""), ([b"a"], 408, "0.05 s")],
    ids=["too long", "stopped"],
)
def test_a_body_is_read_to_its_limit_of_size_and_time(
    parts: list[bytes], status: int, sentence: str
) -> None:
    refused = read(parts)
    assert isinstance(refused, Refusal)
    assert refused.status == status
    assert sentence in refused.sentence


def test_an_upload_that_stops_or_breaks_off_is_an_error_of_its_form() -> None:
    with pytest.raises(MultiPartException, match=r"stopped for 0\.05 s; send it again"):
        run(all_of(unbroken(coming([b"a"]), 0.05)))
    with pytest.raises(MultiPartException, match="ended before it was whole; send it again"):
        run(all_of(unbroken(coming([b"a"], GONE), 0.05)))


def test_a_whole_upload_is_passed_on_with_what_comes_after_it() -> None:
    async def slowly() -> list[Message]:
        messages = [{"type": "http.request", "body": b"a", "more_body": True}, END, GONE]

        async def receive() -> Message:
            message = messages.pop(0)
            if message is GONE:
                await asyncio.sleep(0.2)
            return message

        return await all_of(unbroken(receive, 0.05))

    first, *rest = run(slowly())
    assert first["body"] == b"a"
    assert rest == [END, GONE]


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
    text = text_of(body)
    return text if isinstance(text, Refusal) else run(json_refusal(text))


@pytest.mark.hostile("request bodies")
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100 + b"]" * 100,
        b"[" * 15_000 + b"]" * 15_000,
        b'{"a":' * 100 + b"1" + b"}" * 100,
        b"[" * 33 + b"]" * 33,
    ],
)
def test_a_body_of_too_many_levels_is_refused(body: bytes) -> None:
    refused = refusal(body)
    assert refused is not None
    assert refused.status == 413
    assert "levels" in refused.sentence


@pytest.mark.hostile("request bodies")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_json_in_another_encoding_is_refused_or_counted_as_it_is_parsed(encoding: str) -> None:
    refused = refusal(json.dumps({"data": ["x"]}).encode(encoding))
    assert (refused is None) == (encoding == "utf-8-sig")


def test_what_the_page_sends_is_let_through() -> None:
    nested: object = "text, with [signs] and {more}"
    for _ in range(30):
        nested = [nested]
    assert refusal(json.dumps({"data": nested, "more": [1.5, None]}).encode()) is None
    assert refusal(json.dumps({"data": ["x" * 2**20]}).encode()) is None
    assert refusal(b"") is None
    assert refusal(b"no JSON, so gradio refuses it") is None
