"""What a stranger's worst requests cost the machine, and what everybody else notices of them.

Run as: python -m tests.benchmarks.strangers [--only TEXT] [--times 1.0] [--json FILE]

For each bad deed the app is started as people start it, as a public demo or with a login, and a
stranger does it as often as is written with it (`--times` of that). Another visitor asks `/healthz`
all the while. The table says how long he waited at most, what the app and its workers computed and
held meanwhile, and what was left some seconds later.

Exits with 1 if others waited for more than 0.5 s, the machine gave more than 1 GB or 10 s of one
core, or more than 50 MB or any file stayed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from ftlab.basics import units
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.processes import start_app
from tests.security.servers import PASSWORD, USER, free_port, log_in, press, tree

MOST_WAITED = 0.5  # seconds
MOST_BYTES = 1_000_000_000
MOST_CPU = 10.0  # seconds of one core
MOST_LEFT = 50_000_000  # bytes
SETTLES = 4.0  # seconds after which nothing may be left
_ASKS = """
import http.client, sys, time
while True:
    began = time.monotonic()
    line = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    line.request("GET", "/healthz")
    line.getresponse().read()
    line.close()
    print(time.monotonic() - began, flush=True)
    time.sleep(0.02)
"""

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32_000,
    "max_position_embeddings": 4096,
}  # fmt: skip


@dataclass(frozen=True)
class App:
    """One that runs, and what its page says of itself."""

    port: int
    process: psutil.Process
    runs: Path
    config: dict[str, Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def event(self, name: str, label: str) -> dict[str, Any]:
        """What the page posts for the event of that name that reads a field of that label."""
        parts = {part["id"]: part["props"] for part in self.config["components"]}
        for one in self.config["dependencies"]:
            labels = [parts[number].get("label") for number in one["inputs"]]
            if one["api_name"] == name and label in labels:
                data = [parts[number].get("value") for number in one["inputs"]]
                return {"fn_index": one["id"], "data": data, "place": labels.index(label)}
        raise LookupError(f"the page has no event {name} with {label}")

    @property
    def data_upload(self) -> int:
        """The event that takes a file of data in Experiment: the upload that fills seven parts."""
        for one in self.config["dependencies"]:
            kinds = {kind for _, kind in one["targets"]}
            if "upload" in kinds and (len(one["inputs"]), len(one["outputs"])) == (1, 7):
                return int(one["id"])
        raise LookupError("the page has no event that takes a file of data")

    def family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []


@dataclass(frozen=True)
class Deed:
    """Something bad, `count` times at once in an app of that mode.

    `act` gets the app and how many; it returns what came of it.
    """

    name: str
    mode: Literal["demo", "login"]
    act: Callable[[App, int], str]
    count: int = 50


@dataclass(frozen=True)
class Cost:
    """What a deed cost: seconds that others waited at most, seconds of one core, bytes above what
    there was before, and what stayed."""

    name: str
    mode: str
    said: str
    waited: float
    cpu_seconds: float
    peak_bytes: int
    left_bytes: int
    left_files: int

    @property
    def is_little(self) -> bool:
        return (
            self.waited <= MOST_WAITED
            and self.cpu_seconds <= MOST_CPU
            and self.peak_bytes <= MOST_BYTES
            and self.left_bytes <= MOST_LEFT
            and not self.left_files
        )


def posted(
    path: str, body: bytes, headers: dict[str, str] | None = None
) -> Callable[[App, int], str]:
    """Posts a body over so many connections at once, whole, however early the answer comes."""

    def act(app: App, count: int) -> str:
        return _all_at_once(count, lambda: _post(app, path, body, headers or {}))

    return act


def got(path: str) -> Callable[[App, int], str]:
    def act(app: App, count: int) -> str:
        return _all_at_once(count, lambda: _send(app, f"GET {path} HTTP/1.1\r\n", b""))

    return act


def held(start: bytes) -> Callable[[App, int], str]:
    """Opens connections, sends the start of a request over each, and then a byte now and then."""

    def act(app: App, count: int) -> str:
        lines = [socket.create_connection(("127.0.0.1", app.port), 10) for _ in range(count)]
        for line in lines:
            line.sendall(start)
        for _ in range(3):
            time.sleep(1)
            for line in lines:
                with suppress(OSError):
                    line.sendall(b"a")
        for line in lines:
            line.close()
        return "held for 3 s"

    return act


def planned(config: dict[str, Any], leaves_after: float | None = None) -> Callable[[App, int], str]:
    """Asks Plan for a pasted config, and leaves or waits for the answer."""

    def act(app: App, count: int) -> str:
        event = app.event("plan", "config.json")
        event["data"][event.pop("place")] = json.dumps(config)
        return _all_at_once(count, lambda: _press(app, event, leaves_after))

    return act


def answered_at_length(app: App, count: int) -> str:
    """Asks the shipped adapters for as long an answer as they give, and leaves."""
    body = {"prompt": "Write on and on.", "runs": ["base", "shipped:sql"], "max_new_tokens": 512}

    def ask() -> str:
        with httpx.Client(base_url=app.url, timeout=60) as client:
            joined = client.post("/gradio_api/call/v2/generate", json=body)
            if joined.status_code != 200:
                return f"{joined.status_code}"
            time.sleep(2)
            return "left after 2 s"

    return _all_at_once(count, ask)


def uploaded(name: str, data: bytes) -> Callable[[App, int], str]:
    """Logs in, uploads a file of data and chooses it in Experiment."""

    def act(app: App, count: int) -> str:
        def send() -> str:
            with log_in(app.url) as client:
                client.timeout = httpx.Timeout(120)
                sent = client.post("/gradio_api/upload", files={"files": (name, data)})
                if sent.status_code != 200:
                    return f"{sent.status_code}"
                file = {"path": sent.json()[0], "orig_name": name}
                file["meta"] = {"_type": "gradio.FileData"}
                done, _ = press(client, app.data_upload, [file], secrets.token_hex(6))
                return "answered" if done else "refused"

        return _all_at_once(count, send)

    return act


def guessed(app: App, count: int) -> str:
    guess = f"username={USER}&password=guess-guess".encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return _all_at_once(count, lambda: _post(app, "/login", guess, form))


def _all_at_once(count: int, act: Callable[[], str]) -> str:
    said: list[str] = []

    def one() -> None:
        try:
            said.append(act())
        except OSError as error:
            said.append(type(error).__name__)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counted = sorted({word: said.count(word) for word in said}.items(), key=lambda x: -x[1])
    return ", ".join(f"{number} x {word}" for word, number in counted)


def _post(app: App, path: str, body: bytes, headers: dict[str, str]) -> str:
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    if "Content-Type" not in headers:
        lines.append("Content-Type: application/json\r\n")
    head = f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{''.join(lines)}"
    return _send(app, head, body)


def _send(app: App, head: str, body: bytes) -> str:
    with socket.create_connection(("127.0.0.1", app.port), 60) as line:
        line.sendall(f"{head}Host: 127.0.0.1:{app.port}\r\n\r\n".encode())
        with suppress(OSError):  # it answers and hangs up before it has read all
            line.sendall(body)
        answer = line.recv(100).split(b"\r\n")[0].decode()
        return answer.removeprefix("HTTP/1.1 ") or "closed"


def _press(app: App, event: dict[str, Any], leaves_after: float | None) -> str:
    session = secrets.token_hex(6)
    seconds = httpx.Timeout(60, read=leaves_after or 120)
    with httpx.Client(base_url=app.url, timeout=seconds) as client:
        body = event | {"session_hash": session}
        joined = client.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return f"{joined.status_code} {joined.text[:60]}"
        end = time.monotonic() + (leaves_after or 120)
        try:
            path = f"/gradio_api/queue/data?session_hash={session}"
            with client.stream("GET", path) as answer:
                for line in answer.iter_lines():
                    if time.monotonic() > end:
                        break
                    if '"process_completed"' in line:
                        return "answered" if '"success":true' in line else "refused"
        except httpx.ReadTimeout:
            pass
    return f"left after {leaves_after:g} s"


_NUMBERS = b'{"data":[' + b"0," * (8 * 2**20) + b"0]}"


_LISTS = b'[{"a":[' + b"[]," * (30 * 2**20) + b"[]]}]"


def _call_of(data: bytes) -> bytes:
    return b'{"fn_index":1,"session_hash":"stranger","data":[' + data + b"]}"


DEEDS = (
    Deed("bodies of 16 MB", "demo", posted("/gradio_api/queue/join", _NUMBERS)),
    Deed("bodies of 16 MB to no page", "demo", posted("/nothing/here", _NUMBERS)),
    Deed(
        "the longest bodies that are read",
        "demo",
        posted("/gradio_api/queue/join", _call_of(b'"' + b"x" * (2**20 - 100) + b'"')),
    ),
    Deed(
        "bodies with the most values",
        "demo",
        posted("/gradio_api/queue/join", _call_of(b"[" + b"0," * 19_000 + b"0]")),
    ),
    Deed(
        "bodies nested without end",
        "demo",
        posted("/gradio_api/queue/join", _call_of(b"[" * 9_000 + b"]" * 9_000)),
    ),
    Deed("loads of the page", "demo", got("/"), 100),
    Deed("connections that ask nothing", "demo", held(b"GET / HTTP/1.1\r\nX: "), 500),
    Deed(
        "bodies that do not come",
        "demo",
        held(b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: a\r\nContent-Length: 9999\r\n\r\n"),
        200,
    ),
    Deed("a config of 500,000 layers", "demo", planned(LLAMA | {"num_hidden_layers": 500_000}), 10),
    Deed(
        "the largest config that is taken, waited for",
        "demo",
        planned(LLAMA | {"num_hidden_layers": 512}),
        1,
    ),
    Deed(
        "the largest configs that are taken, left after 2 s",
        "demo",
        planned(LLAMA | {"num_hidden_layers": 511}, 2.0),
        10,
    ),
    Deed("long answers, left after 2 s", "demo", answered_at_length, 10),
    Deed("bodies of 16 MB, no session", "login", posted("/gradio_api/queue/join", _NUMBERS)),
    Deed("bodies of 16 MB to /cancel, no session", "login", posted("/gradio_api/cancel", _NUMBERS)),
    Deed("uploads of 16 MB, no session", "login", posted("/gradio_api/upload", _NUMBERS)),
    Deed("a JSON file of 90 MB of empty lists", "login", uploaded("a.json", _LISTS), 1),
    Deed("a CSV file of 95 MB of commas", "login", uploaded("a.csv", b"," * (95 * 2**20)), 1),
    Deed("guesses of a password", "login", guessed, 300),
)


@dataclass
class Watch:
    """What is seen while a deed is done."""

    app: App
    peak: int = 0
    _ends: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        while not self._ends.wait(0.2):
            self.peak = max(self.peak, held_bytes(self.app))

    def end(self) -> None:
        self._ends.set()


def held_bytes(app: App) -> int:
    """Bytes that the app and its workers hold, what they share counted once."""
    total = 0
    for process in app.family():
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def computed_seconds(app: App) -> float:
    """Of one core, by the app and by workers of it that are or were."""
    total = 0.0
    for process in app.family():
        with suppress(psutil.Error):
            total += sum(process.cpu_times()[:4])
    return total


def cost(app: App, deed: Deed, times: float) -> Cost:
    files, before, began = tree(app.runs), held_bytes(app), computed_seconds(app)
    watch = Watch(app, peak=before)
    looking = threading.Thread(target=watch.look)
    looking.start()
    asking = subprocess.Popen(
        [sys.executable, "-c", _ASKS, str(app.port)], stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.5)
    said = deed.act(app, max(1, round(deed.count * times)))
    time.sleep(SETTLES)
    asking.terminate()
    waited = [float(line) for line in asking.communicate()[0].splitlines()]
    watch.end()
    looking.join()
    left = {name for name, size in tree(app.runs).items() if files.get(name) != size}
    return Cost(
        name=deed.name,
        mode=deed.mode,
        said=said,
        waited=max(waited),
        cpu_seconds=computed_seconds(app) - began,
        peak_bytes=watch.peak - before,
        left_bytes=held_bytes(app) - before,
        left_files=len(left),
    )


@contextmanager
def started(mode: str, folder: Path) -> Iterator[App]:
    """The app as a person starts it, with a worker that has answered once already."""
    port = free_port()
    runs = folder / "runs"
    arguments = ["--port", str(port), "--runs-dir", str(runs)]
    environment = {}
    if mode == "demo":
        environment["SPACE_ID"] = "ada/ftlab"
    else:
        accounts = folder / "accounts"
        accounts.write_text(f"{USER}:{PASSWORD}\n")
        accounts.chmod(0o600)
        arguments += ["--auth", str(accounts)]
    process = start_app(*arguments, env=os.environ | environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        url = f"http://127.0.0.1:{port}"
        with log_in(url) if mode == "login" else httpx.Client(base_url=url) as client:
            config = client.get("/config", timeout=60).json()
        app = App(port, psutil.Process(process.pid), runs, config)
        if mode == "demo":
            planned(LLAMA | {"num_hidden_layers": 1})(app, 1)
        yield app
    finally:
        process.terminate()
        process.wait(20)


def table(costs: Sequence[Cost]) -> list[str]:
    """The rows of a Markdown table."""
    return [
        "| what | app | others waited | computed | memory | left | answers |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        *(
            f"| {one.name} | {one.mode} | {one.waited:.2f} s | {one.cpu_seconds:.1f} s | "
            f"{units.format_bytes(max(0, one.peak_bytes))} | "
            f"{units.format_bytes(max(0, one.left_bytes))} | {one.said} |"
            for one in costs
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="deeds whose name holds that text")
    parser.add_argument("--times", type=float, default=1.0, help="of each deed's number")
    parser.add_argument("--json", type=Path, help="where the figures are written as well")
    options = parser.parse_args(arguments)
    costs: list[Cost] = []
    for deed in DEEDS:
        if options.only not in deed.name:
            continue
        with tempfile.TemporaryDirectory() as folder, started(deed.mode, Path(folder)) as app:
            costs.append(cost(app, deed, options.times))
        print(table(costs)[-1], flush=True)
    rate = product_rate()
    print(rate)
    if options.json:
        write_figures(options.json, [asdict(one) for one in costs], rate)
    return 0 if all(one.is_little for one in costs) else 1


if __name__ == "__main__":
    sys.exit(main())
