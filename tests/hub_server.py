"""A Hub of the tests' own: as much of its protocol as huggingface_hub needs to fetch a model.

The files of a folder are served as slowly as a test wants, so that a download can be watched, cut
off and taken up again. Nothing of it leaves this machine.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PADDING = 4_000_000
"""Bytes of a file of weights that is published beside the model's own."""

_PIECE = 16_384
_PIECES_A_SECOND = 50


@dataclass
class Hub:
    """What the server gives out: `models` by their ids, at `bytes_a_second` each file of weights.

    After so many bytes of a file of weights the connection breaks off and the server is gone
    (`cut_after`), or it breaks off once (`break_once_after`), or nothing more comes
    (`stall_after`). `requests` are the methods and paths that were asked for, `ranges` the parts
    of files.
    """

    models: dict[str, Path] = field(default_factory=dict)
    bytes_a_second: float | None = None
    cut_after: int | None = None
    break_once_after: int | None = None
    stall_after: int | None = None
    is_gone: bool = False
    ranges: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    address: str = ""
    more: Callable[[Any, str], bool] | None = None
    """Answers other requests, given the handler and the path; whether it did."""

    def environment(self, home: Path) -> dict[str, str]:
        """What to start a process with that knows this Hub alone, and has a cache of its own."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
        }


def publish(model: Path, folder: Path) -> Path:
    """The model's files in that folder, with weights enough beside them to be seen coming in."""
    folder.mkdir(parents=True)
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "padding.safetensors").write_bytes(bytes(PADDING))
    (folder / "pytorch_model.bin").write_bytes(b"a format that is not read")
    return folder


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The Hub at an address of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.is_gone = True
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_POST(self) -> None:
            self._answer(with_body=True)

        def do_DELETE(self) -> None:
            self._answer(with_body=True)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def log_message(self, format: str, *given: Any) -> None:
            return

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            if hub.is_gone:
                self.close_connection = True
                self.connection.close()
                return
            if hub.more is not None and hub.more(self, path):
                return None
            for name, folder in hub.models.items():
                if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                    return self.json({"id": name, "sha": COMMIT, "siblings": _names(folder)})
                if path == f"/api/models/{name}/tree/{COMMIT}":
                    return self.json(_tree(folder))
                if path.startswith((f"/{name}/resolve/{COMMIT}/", f"/{name}/resolve/main/")):
                    return self.file(folder / path.rpartition("/")[2], with_body)
            self.json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

        def json(self, value: Any, status: int = 200, more: dict[str, str] | None = None) -> None:
            body = json.dumps(value).encode()
            self.head(status, {"Content-Length": str(len(body)), **(more or {})})
            if self.command != "HEAD":
                self.wfile.write(body)

        def file(self, file: Path, with_body: bool) -> None:
            data = file.read_bytes()
            part = self.headers.get("Range")
            first = int(part[6:].partition("-")[0]) if part else 0
            hub.ranges += [part] if part else []
            headers = {
                "Content-Length": str(len(data) - first),
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            self.head(206 if first else 200, headers)
            if with_body:
                self._body(memoryview(data)[first:], slowly=file.suffix == ".safetensors")

        def _body(self, data: memoryview, slowly: bool) -> None:
            rate = hub.bytes_a_second if slowly else None
            piece = max(1, round(rate / _PIECES_A_SECOND)) if rate else _PIECE
            sent = 0
            while sent < len(data):
                if slowly and self._breaks_off(sent):
                    self.close_connection = True
                    self.connection.close()
                    return
                try:
                    self.wfile.write(data[sent : sent + piece])
                except OSError:
                    return
                sent += piece
                if rate:
                    time.sleep(1 / _PIECES_A_SECOND)

        def _breaks_off(self, sent: int) -> bool:
            while hub.stall_after is not None and sent >= hub.stall_after and not hub.is_gone:
                time.sleep(0.05)
            if hub.cut_after is not None and sent >= hub.cut_after:
                hub.is_gone = True
            if hub.break_once_after is not None and sent >= hub.break_once_after:
                hub.break_once_after = None
                return True
            return hub.is_gone

        def head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    return Handler


def _names(folder: Path) -> list[dict[str, str]]:
    return [{"rfilename": path.name} for path in sorted(folder.iterdir())]


def _tree(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "path": path.name,
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.iterdir())
    ]
