"""Sends shots at a running app, many at once, and holds each answer against what is promised."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from ftlab.tabs.serve import FAILED
from tests.asynchronous import run
from tests.security.attack.shots import JSON, Shot

BOUND_SECONDS = 20.0
AT_ONCE = 12
LONG = 64 * 1024  # bytes of a body, of which the rest may be refused unread
IN_A_ROW = 20  # events of one session before they are heard
_GIVEN_AWAY = re.compile(
    rb"Traceback \(most recent|root:x:0:|site-packages|planted-secret|File \"/"
    rb"|\"error\": ?null"
)


class Attack:
    """What was sent to one app, and which answers were none that is promised."""

    def __init__(self, url: str, may_answer: Callable[[Shot], bool] = lambda shot: True) -> None:
        self.url = url
        self.sent = 0
        self.seconds = 0.0
        self.broken: list[str] = []
        self.statuses: Counter[int] = Counter()
        self._may_answer = may_answer
        self._cookies: Any = None

    def fire(self, shots: Sequence[Shot]) -> None:
        """Sends them all; several are on their way at any time."""
        self._run([self._shot(shot) for shot in shots])

    def press(self, calls: Sequence[dict[str, Any]]) -> None:
        """Calls handlers through the queue, as the page does, and hears how each ends."""
        parts = [calls[start::4] for start in range(4)]
        self._run([self._pressed(f"queue{n}", part) for n, part in enumerate(parts)])

    def log_in(self, cookies: Any) -> None:
        """From here on it is a visitor's who may ask for everything."""
        self._cookies = cookies
        self._may_answer = lambda shot: True

    def _run(self, waiting: Sequence[Any]) -> None:
        began = time.monotonic()
        run(self._all(waiting))
        self.seconds += time.monotonic() - began

    async def _all(self, waiting: Sequence[Any]) -> None:
        turn = asyncio.Semaphore(AT_ONCE)
        limits = httpx.Limits(max_connections=2 * AT_ONCE)
        async with httpx.AsyncClient(
            base_url=self.url,
            timeout=BOUND_SECONDS,
            limits=limits,
            cookies=self._cookies,
            headers={"accept-encoding": "identity"},  # or most of the time goes into compressing
        ) as client:

            async def one(job: Any) -> None:
                async with turn:
                    await job(client)

            await asyncio.gather(*(one(job) for job in waiting))

    def _shot(self, shot: Shot) -> Any:
        async def job(client: httpx.AsyncClient) -> None:
            await self._answer(client, shot)

        return job

    async def _answer(self, client: httpx.AsyncClient, shot: Shot) -> bytes:
        self.sent += 1
        request = client.build_request(
            shot.method, shot.path, headers=dict(shot.headers), content=shot.body or None
        )
        began = time.monotonic()
        try:
            answer = await client.send(request, stream=True)
            text = b""
            async for part in answer.aiter_bytes():
                text += part
                if shot.is_endless:
                    break
            await answer.aclose()
        except httpx.HTTPError as error:
            if not (isinstance(error, httpx.NetworkError) and len(shot.body) > LONG):  # hung up on
                self._break(shot, f"{type(error).__name__}: {error}")
            return b""
        status = answer.status_code
        self.statuses[status] += 1
        if status >= 500 and not (status == 503 and shot.path.startswith("/healthz")):
            self._break(shot, f"{status} {text[:200]!r}")
        if given := _GIVEN_AWAY.search(text):
            self._break(shot, f"gives away {text[max(0, given.start() - 60) : given.end() + 60]!r}")
        if status < 400 and not self._may_answer(shot):
            self._break(shot, f"was answered: {status}")
        if time.monotonic() - began > BOUND_SECONDS:
            self._break(shot, f"took {time.monotonic() - began:.1f} s")
        return text

    def _pressed(self, session: str, calls: Sequence[dict[str, Any]]) -> Any:
        async def job(client: httpx.AsyncClient) -> None:
            for start in range(0, len(calls), IN_A_ROW):
                waiting: dict[str, Shot] = {}
                for call in calls[start : start + IN_A_ROW]:
                    body = json.dumps({"session_hash": session, "trigger_id": None} | call)
                    join = Shot("POST", "/gradio_api/queue/join", JSON, body.encode())
                    answer = await self._answer(client, join)
                    if answer.startswith(b'{"event_id":'):
                        waiting[json.loads(answer)["event_id"]] = join
                await self._hear(client, session, waiting)

        return job

    async def _hear(
        self, client: httpx.AsyncClient, session: str, waiting: dict[str, Shot]
    ) -> None:
        """Each of the events that wait has to end, and where it fails to say why."""
        self.sent += 1
        path = f"/gradio_api/queue/data?session_hash={session}"
        try:
            async with client.stream("GET", path) as answer:
                async for line in answer.aiter_lines():
                    said = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
                    if said["msg"] == "unexpected_error":
                        self.broken.append(f"{session}: {said}")
                    if said["msg"] == "process_completed":
                        shot = waiting.pop(said["event_id"], None)
                        sentence = said["output"].get("error")
                        if shot and not said["success"] and (not sentence or FAILED in sentence):
                            self._break(shot, f"ended in {line[:200]}")
        except httpx.HTTPError as error:
            self.broken.append(f"{session}: {type(error).__name__} while it was heard")
        for shot in waiting.values():
            self._break(shot, "never ended")

    def _break(self, shot: Shot, why: str) -> None:
        self.broken.append(f"{shot.method} {shot.path[:90]} {shot.body[:160]!r}: {why}")


class Probe:
    """Asks `/healthz` all the while, as whoever watches the app does."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def share_within(self, bound: float) -> float:
        return sum(taken <= bound for taken in self.seconds) / max(1, len(self.seconds))


@contextmanager
def probed(url: str, pause: float = 0.1) -> Iterator[Probe]:
    probe, end = Probe(), threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not end.wait(pause):
                began = time.monotonic()
                client.get("/healthz")
                probe.seconds.append(time.monotonic() - began)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield probe
    finally:
        end.set()
        thread.join(60)
