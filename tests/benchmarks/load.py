"""Many browsers on one page while a run trains: what the web process needs for their polls.

Run as: python -m tests.benchmarks.load [--minutes 5] [--sessions 50] [--steps 0] [--arrive 10]
        [--json FILE]

Starts the app in a process of its own on a folder with some ended runs and one that trains (this
process writes its metrics, two steps a second, as a worker does; `--steps` are there already).
Each session speaks the page's own protocol: it loads the page, keeps its heartbeat open, fires the
page's load events, asks for the live parts at the pace that the answers name, and ticks every timer
that its visitor would see. Every third visitor has opened Results as well.

Exits with 1 if the web process took more than 10 % of one core, 95 % of polls took longer than
1 s, any call failed, or resident memory grew by more than 10 % from minute 1 to the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.browser.conftest import free_port
from tests.fakes import make_run

MOST_SHARE = 0.10  # of one core
MOST_SECONDS = 1.0  # for 95 % of the polls
MOST_GROWTH = 1.10  # resident memory at the end over that after a minute
_STEP_SECONDS = 0.5
_PATIENCE_SECONDS = 120.0
_CONFIG = re.compile(r"window\.gradio_config = (\{.*?\});\s*</script>", re.DOTALL)


@dataclass
class Tally:
    """What all sessions saw: seconds of each poll by the timer's handler, and failed calls."""

    polls: list[tuple[str, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    received_bytes: int = 0


@dataclass(frozen=True)
class Page:
    """The page's own description of itself, as a browser gets it."""

    config: Mapping[str, Any]

    def handlers(self, component: int, event: str) -> list[dict[str, Any]]:
        """What the page calls when that happens to the component."""
        return [
            one
            for one in self.config["dependencies"]
            if [component, event] in one["targets"] and one["backend_fn"]
        ]

    def values(self) -> dict[int, Any]:
        return {one["id"]: one["props"].get("value") for one in self.config["components"]}

    def timers(self, tabs: Sequence[str]) -> list[int]:
        """The timers outside of any tab, and those in the named ones."""
        seen = self._inside(self.config["layout"], set(tabs))
        kinds = {one["id"]: one["type"] for one in self.config["components"]}
        return [number for number in seen if kinds.get(number) == "timer"]

    def active(self, timer: int) -> tuple[float, bool]:
        props = next(one["props"] for one in self.config["components"] if one["id"] == timer)
        return float(props["value"]), bool(props["active"])

    def tab(self, name: str) -> int:
        return next(
            one["id"]
            for one in self.config["components"]
            if one["type"] == "tabitem" and one["props"].get("id") == name
        )

    def _inside(self, node: Mapping[str, Any], tabs: set[str]) -> list[int]:
        kinds = {one["id"]: one for one in self.config["components"]}
        own = kinds.get(node["id"])
        if own is not None and own["type"] == "tabitem" and own["props"].get("id") not in tabs:
            return []
        return [
            node["id"],
            *(i for child in node.get("children") or [] for i in self._inside(child, tabs)),
        ]


class Session:
    """One browser with the page open."""

    def __init__(self, client: httpx.AsyncClient, tally: Tally, tabs: Sequence[str]) -> None:
        self._client = client
        self._tally = tally
        self._tabs = tabs
        self._hash = secrets.token_hex(6)
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._early: dict[str, dict[str, Any]] = {}
        self._stream: asyncio.Task[None] | None = None
        self._timers: dict[int, tuple[float, bool]] = {}

    async def open(self, within: float) -> None:
        """Loads the page at some moment within so many seconds, with all that it then asks for."""
        await asyncio.sleep(random.uniform(0, within))
        self._page = page = Page(await self._load())
        self._values = page.values()
        self._timers = {timer: page.active(timer) for timer in page.timers(self._tabs)}
        self._heart = asyncio.create_task(self._heartbeat())
        await asyncio.gather(*(self._call(one) for one in page.handlers(0, "load")))
        for name in self._tabs[1:]:
            selected = page.handlers(page.tab(name), "select")
            await asyncio.gather(*(self._call(one) for one in selected))

    async def poll(self, until: float) -> None:
        """Ticks the timers until that moment (of the event loop's clock), then closes the page."""
        await asyncio.gather(self._watch(until), *(self._tick(one, until) for one in self._timers))
        self._heart.cancel()

    async def _watch(self, until: float) -> None:
        """Asks for the live parts, as `assets/watch.js` does."""
        clock = asyncio.get_running_loop().time
        had = {"page": self._hash, "sweep": "newest", "curve": ""}
        seconds = random.uniform(0, 2)
        while clock() + seconds < until:
            await asyncio.sleep(seconds)
            began = clock()
            try:
                answer = await self._client.get("/watch", params=had)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                self._tally.errors.append(f"watch: {type(error).__name__}: {error}"[:200])
                continue
            self._tally.polls.append(("watch", clock() - began))
            self._tally.received_bytes += len(answer.content)
            news = answer.json()
            had |= {name: tag for name, (tag, _) in news["html"].items()}
            curve = news.get("curve", {})
            if "figure" in curve:
                had["curve"] = json.loads(curve["figure"])["layout"]["meta"]["tag"]
            had["curve"] = curve.get("tag", had["curve"])
            seconds = news["seconds"]

    async def _load(self) -> dict[str, Any]:
        answer = await self._client.get("/")
        answer.raise_for_status()
        found = _CONFIG.search(answer.text)
        assert found, "the page holds no config"
        config: dict[str, Any] = json.loads(found[1])
        return config

    async def _heartbeat(self) -> None:
        with suppress(httpx.HTTPError):  # the first visitor's ends with the app
            async with self._client.stream("GET", f"/gradio_api/heartbeat/{self._hash}") as stream:
                async for _ in stream.aiter_bytes():
                    pass

    async def _tick(self, timer: int, until: float) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(random.uniform(0, self._timers[timer][0]))
        handlers = self._page.handlers(timer, "tick")
        while clock() < until:
            seconds, active = self._timers[timer]
            if active:
                for one in handlers:
                    began = clock()
                    await self._call(one)
                    self._tally.polls.append((one["api_name"], clock() - began))
            await asyncio.sleep(max(0.05, seconds))

    async def _call(self, one: Mapping[str, Any]) -> None:
        """Calls a handler of the page and takes over what it gives back."""
        body = {
            "data": [self._values.get(number) for number in one["inputs"]],
            "event_data": None,
            "fn_index": one["id"],
            "trigger_id": one["targets"][0][0],
            "session_hash": self._hash,
        }
        try:
            done = await (self._queued(body) if one["queue"] else self._direct(body))
        except (TimeoutError, httpx.HTTPError, ValueError) as error:
            self._tally.errors.append(f"{one['api_name']}: {type(error).__name__}: {error}"[:200])
            return
        for number, value in zip(one["outputs"], done.get("data", []), strict=False):
            self._take(number, value)

    async def _direct(self, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = await self._client.post("/gradio_api/run/predict", json=body)
        answer.raise_for_status()
        self._tally.received_bytes += len(answer.content)
        found: dict[str, Any] = answer.json()
        return found

    async def _queued(self, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = await self._client.post("/gradio_api/queue/join", json=body)
        answer.raise_for_status()
        event = answer.json()["event_id"]
        if event in self._early:
            message = self._early.pop(event)
        else:
            future = self._waiting[event] = asyncio.get_running_loop().create_future()
            if self._stream is None:
                self._stream = asyncio.create_task(self._listen())
            message = await asyncio.wait_for(future, _PATIENCE_SECONDS)
        if not message["success"]:
            raise ValueError(message.get("output"))
        output: dict[str, Any] = message["output"]
        return output

    async def _listen(self) -> None:
        """The stream of answers: open as long as one is awaited, as in a browser."""
        where = "/gradio_api/queue/data"
        try:
            params = {"session_hash": self._hash}
            async with self._client.stream("GET", where, params=params) as stream:
                async for line in stream.aiter_lines():
                    self._tally.received_bytes += len(line)
                    if line.startswith("data:") and self._hear(json.loads(line[5:])):
                        break
        except httpx.HTTPError as error:
            self._hear({"msg": "unexpected_error", "message": f"{type(error).__name__}: {error}"})
        self._stream = None
        if self._waiting:  # asked for while this stream was being closed
            self._stream = asyncio.create_task(self._listen())

    def _hear(self, message: dict[str, Any]) -> bool:
        """Takes one message; whether it is the last of the stream."""
        if message["msg"] == "process_completed":
            future = self._waiting.pop(message["event_id"], None)
            if future is None:
                self._early[message["event_id"]] = message
            elif not future.done():
                future.set_result(message)
        elif message["msg"] == "unexpected_error":
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ValueError(message["message"]))
            self._waiting.clear()
            return True
        return bool(message["msg"] == "close_stream")

    def _take(self, number: int, value: Any) -> None:
        is_update = isinstance(value, dict) and value.get("__type__") == "update"
        if number in self._timers and is_update:
            seconds, active = self._timers[number]
            given = value.get("value", seconds), value.get("active", active)
            self._timers[number] = float(given[0]), bool(given[1])
        elif is_update:
            if "value" in value:
                self._values[number] = value["value"]
        else:
            self._values[number] = value


class Trainer:
    """A run that goes on: writes a step twice a second, as a worker would."""

    def __init__(self, folder: Path, steps: int) -> None:
        losses = [3.0 / (1 + step / 500) + random.gauss(0, 0.05) for step in range(max(1, steps))]
        self._step = len(losses)
        self._file = make_run(folder, "lora", "running", losses=losses).metrics_file

    async def go_on(self) -> None:
        while True:
            self._step += 1
            event = {
                "event": "step", "step": self._step, "loss": 1.3 + random.gauss(0, 0.05),
                "learning_rate": 1e-3, "tokens": 700, "seconds": _STEP_SECONDS,
                "elapsed": 2.1 + _STEP_SECONDS * self._step, "at": round(time.time(), 3),
            }  # fmt: skip
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
            await asyncio.sleep(_STEP_SECONDS)


@dataclass(frozen=True)
class Load:
    """What was measured; memory in bytes, `share` in cores."""

    sessions: int
    seconds: float
    share: float
    polls: int
    quantiles: tuple[float, float, float]
    by_handler: Mapping[str, float]
    errors: Sequence[str]
    memory: tuple[int, int, int]
    sent_bytes: int

    @property
    def failures(self) -> list[str]:
        found = []
        if self.share > MOST_SHARE:
            found.append(f"the web process took {self.share:.1%} of a core")
        if self.quantiles[1] > MOST_SECONDS:
            found.append(f"5 % of polls took longer than {self.quantiles[1]:.2f} s")
        if self.errors:
            found.append(f"{len(self.errors)} calls failed, as in {self.errors[0]}")
        if self.memory[2] > MOST_GROWTH * self.memory[1]:
            found.append("memory grew")
        return found


async def measure(app: psutil.Process, url: str, trainer: Trainer, options: Any) -> Load:
    """Opens the sessions and polls for the minutes asked for."""
    tally = Tally()
    clock = asyncio.get_running_loop().time
    training = asyncio.create_task(trainer.go_on())
    # The server closes a connection that rests for 5 s; a browser would ask again by itself.
    limits = httpx.Limits(keepalive_expiry=4)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        # The first visitor waits for what all later ones find at hand: predictions, previews.
        await Session(client, tally, ("experiment", "results")).open(0)
        before = app.memory_info().rss
        sessions = [
            Session(client, tally, ("experiment", "results") if i % 3 == 2 else ("experiment",))
            for i in range(options.sessions)
        ]
        await asyncio.gather(*(session.open(options.arrive) for session in sessions))
        tally.received_bytes = 0  # loading the page is no polling
        began, used = clock(), _cpu_seconds(app)
        until = began + 60 * options.minutes
        polling = [asyncio.create_task(session.poll(until)) for session in sessions]
        await asyncio.sleep(min(60.0, until - clock()))
        settled = app.memory_info().rss
        await asyncio.sleep(max(0.0, until - clock()))
        seconds, share = clock() - began, _cpu_seconds(app) - used
        memory = (before, settled, app.memory_info().rss)
        done = await asyncio.gather(*polling, return_exceptions=True)
        tally.errors += [repr(one) for one in done if isinstance(one, BaseException)]
    training.cancel()
    taken = sorted(took for _, took in tally.polls) or [0.0]
    names = {name for name, _ in tally.polls}
    return Load(
        sessions=options.sessions,
        seconds=seconds,
        share=share / seconds,
        polls=len(tally.polls),
        quantiles=(taken[len(taken) // 2], taken[int(0.95 * (len(taken) - 1))], taken[-1]),
        by_handler={
            name: statistics.median(took for other, took in tally.polls if other == name)
            for name in sorted(names)
        },
        errors=tally.errors,
        memory=memory,
        sent_bytes=tally.received_bytes,
    )


def _cpu_seconds(process: psutil.Process) -> float:
    """Of the web process alone: its workers are processes of their own."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def served(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The app in a process of its own, ready; ended on the way out."""
    port = free_port()
    command = [sys.executable, "-m", "ftlab", "app", "--port", str(port), "--runs-dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while "ready" not in (line := process.stdout.readline()):
                assert line, "the app did not start"
            yield psutil.Process(process.pid), f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)


def report(load: Load) -> str:
    middle, most, worst = (f"{1000 * value:.0f} ms" for value in load.quantiles)
    start, settled, end = (f"{value / 1e6:.0f} MB" for value in load.memory)
    handlers = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in load.by_handler.items())
    return "\n".join(
        [
            f"{load.sessions} sessions for {load.seconds:.0f} s, {load.polls:,} polls "
            f"({load.polls / load.seconds:.0f} a second)",
            f"web process     {load.share:.1%} of one core",
            f"poll            {middle} median, {most} for 95 %, {worst} at most ({handlers})",
            f"sent            {load.sent_bytes / load.seconds / 1000:.0f} kB a second",
            f"errors          {len(load.errors)}",
            f"resident memory {start} at start, {settled} after a minute, {end} at the end",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--steps", type=int, default=0, help="steps that the run has behind it")
    parser.add_argument(
        "--arrive", type=float, default=10.0, help="seconds within which all open the page"
    )
    parser.add_argument("--json", type=Path, help="write what was measured to that file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for method in ("full", "qlora", "prompt_tuning"):
            make_run(folder, method)
        trainer = Trainer(folder, options.steps)
        with served(folder) as (app, url):
            load = asyncio.run(measure(app, url, trainer, options))
    print(report(load))
    if options.json:
        options.json.write_text(json.dumps(vars(load), indent=2) + "\n")
    for failure in load.failures:
        print(f"too much: {failure}", file=sys.stderr)
    return int(bool(load.failures))


if __name__ == "__main__":
    sys.exit(main())
