"""Whose gradio's files are: what the page made for a person, and what that person uploaded.

gradio serves every file of its temporary folder to whoever knows its path, and paths of exports
follow from the ids of runs. Where each sees only what is one's own, a file is served to the person
it was made for, and only that person's events can name it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from gradio.routes import API_PREFIX
from starlette.types import Message, Send

from ftlab.basics.people import Person, asking
from ftlab.basics.recent import Recent

_MOST_REMEMBERED = 10_000
_ROUTE = re.compile(rf"(?:{API_PREFIX})?/file(.*)", re.IGNORECASE | re.DOTALL)
_LONGEST_ANSWER = 2**20  # bytes of an answer to an upload, which lists paths


class GivenFiles:
    """Remembers whose the last 10,000 files are, in the memory of the process."""

    def __init__(self) -> None:
        self._owners: Recent[str, frozenset[str]] = Recent(_MOST_REMEMBERED)

    def give(self, value: Any) -> None:
        """Every file in a JSON value that the page answers with is now of the person who asks."""
        if not asking().sees_all:
            for path in paths_in(value):
                self._give(path)

    def names_others(self, value: Any) -> bool:
        """Whether a JSON value from a page names a file that is not of the person who asks."""
        person = asking()
        if person.sees_all:
            return False
        return not all(self._is_of(person, path) for path in paths_in(value))

    def may_have(self, person: Person, path: str) -> bool:
        """Whether that path of a request is no file's, or one of the person's."""
        route = None if person.sees_all else _ROUTE.fullmatch(path)
        return route is None or self._is_of(person, route[1][1:])

    def watched(self, send: Send) -> Send:
        """Sends what an upload is answered with, and remembers the files that it lists."""
        if asking().sees_all:
            return send
        body = b""

        async def watching(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.body" and len(body) < _LONGEST_ANSWER:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    with suppress(ValueError):
                        for path in _texts(json.loads(body)):
                            self._give(path)
            await send(message)

        return watching

    def _give(self, path: str) -> None:
        known = os.path.realpath(path)
        self._owners[known] = self._owners.get(known, frozenset()) | {asking().name}

    def _is_of(self, person: Person, path: str) -> bool:
        try:
            known = os.path.realpath(path)
        except (OSError, ValueError):
            return False
        return person.name in self._owners.get(known, frozenset())


def paths_in(value: Any) -> Iterator[str]:
    """The path of every file in a JSON value, as gradio writes files."""
    if isinstance(value, dict):
        if isinstance(value.get("path"), str):
            yield value["path"]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from paths_in(inner)


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
