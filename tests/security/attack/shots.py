"""What is sent to a running app: every route, every event, forged headers, bodies of each kind."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from tests.security.test_login import routes

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
ENDLESS = tuple(f"/gradio_api/{name}" for name in ("heartbeat", "queue/data", "upload_progress"))
JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Shot:
    """One request, by its path as it goes over the line, and by the route that it is meant for."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    route: str = ""

    @property
    def is_endless(self) -> bool:
        """Whether it may be answered until whoever asked goes away."""
        return self.method == "GET" and self.path.startswith(ENDLESS)


def json_shot(path: str, value: Any) -> Shot:
    return Shot("POST", path, JSON, json.dumps(value).encode())


PARAMETERS = (
    "x", "-1", "99999999999999999999", "..%2f..%2f..%2fetc%2fpasswd", "....//....//etc/passwd",
    "%00", "%ed%a0%80", "%c3%a4%e2%80%ae", "null", "'%20or%201=1", "%3Cscript%3E", "a" * 4000,
)  # fmt: skip
"""What stands in a path in place of its parameters."""


def on_routes(page: gr.Blocks) -> list[Shot]:
    """Every route with each method, its parameters filled with what no page sends."""
    paths = sorted({path for _, path in routes(page)})
    shots = []
    for path in paths:
        parameters = PARAMETERS if "{" in path else ("",)
        for value in parameters:
            asked = re.sub(r"\{[^}]*\}", lambda _, value=value: value, path)
            methods = METHODS if value in ("", "x") else ("GET", "POST")
            shots += [Shot(method, asked, route=path) for method in methods]
    return shots


def on_bodies(page: gr.Blocks) -> list[Shot]:
    """Every route that takes a body, with bodies of each kind."""
    paths = sorted({path for method, path in routes(page) if method == "POST"})
    return [
        Shot("POST", re.sub(r"\{[^}]*\}", "runs", path), headers, body, path)
        for path in paths
        if path.rstrip("/") != "/login"  # its own limit would answer most of these
        for headers, body in BODIES
    ]


_CALL = {"data": ["", ""], "fn_index": 0, "session_hash": "attack"}
BODIES: tuple[tuple[Mapping[str, str], bytes], ...] = (
    (JSON, b""),
    (JSON, b"null"),
    (JSON, b"[]"),
    (JSON, b"1e999"),
    (JSON, b'"text"'),
    (JSON, b"{"),
    (JSON, b"{}"),
    (JSON, b"[" * 20_000),
    (JSON, b'{"data":' + b"[" * 500 + b"]" * 500 + b"}"),
    (JSON, b'{"data":[' + b"0," * 50_000 + b"0]}"),
    (JSON, json.dumps({str(number): number for number in range(20_000)}).encode()),
    (JSON, b'{"data":[],"data":null,"session_hash":1,"session_hash":"attack"}'),
    (JSON, json.dumps(_CALL).encode("utf-16")),
    (JSON, b'{"data":["\xff\xfe\xed\xa0\x80"],"session_hash":"attack","fn_index":0}'),
    (JSON, b'{"data":["\\ud800"],"session_hash":"\\ud800","fn_index":0}'),
    (JSON, b'{"data":[NaN,Infinity],"session_hash":"attack","fn_index":0}'),
    (JSON | {"content-encoding": "gzip"}, gzip.compress(json.dumps(_CALL).encode())),
    (JSON | {"content-encoding": "br, gzip, nonsense"}, b"\x1f\x8b\x08"),
    ({"content-type": "text/plain"}, json.dumps(_CALL).encode()),
    ({"content-type": "application/x-www-form-urlencoded"}, b"data=1&data=2&session_hash=x"),
    ({"content-type": "multipart/form-data"}, b"no boundary"),
    ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\n\r\n--x--\r\n"),
    ({"content-type": "multipart/form-data; boundary=x"}, b"\x00" * 300),
    (
        {"content-type": "application/xml"},
        b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>',
    ),
    ({"content-type": "application/json; charset=utf-7"}, b"+AHs-"),
)

FORGED: tuple[Mapping[str, str], ...] = (
    {"host": "evil.com"},
    {"host": "localhost:evil"},
    {"host": ""},
    {"origin": "http://evil.com"},
    {"origin": "null"},
    {"origin": "http://evil.com", "sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "nonsense", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
    {"x-forwarded-for": "127.0.0.1, ::1", "forwarded": "for=127.0.0.1;host=evil.com"},
    {"x-forwarded-host": "evil.com", "x-forwarded-proto": "javascript"},
    {"x-gradio-server": "http://evil.com", "x-direct-url": "http://evil.com"},
    {"x-original-url": "/config", "x-rewrite-url": "/config", "x-http-method-override": "DELETE"},
    {"cookie": "access-token=x; access-token-unsecure=" + "x" * 3000},
    {"authorization": "Basic YWRhOmNvcnJlY3QgaG9yc2U=", "x-forwarded-user": "ada"},
    {"range": "bytes=0-18446744073709551616", "if-range": "x"},
    {"accept-language": "," * 2000, "accept": "*/*;q=nan", "accept-encoding": "br;q=-1"},
    {"expect": "100-continue", "te": "trailers", "referer": "http://evil.com/"},
    {"connection": "upgrade", "upgrade": "h2c", "http2-settings": "AAMAAABkAAQAAP__"},
)


def on_headers(page: gr.Blocks) -> list[Shot]:
    """The routes that tell most, with headers that no browser of the page sends."""
    asked = [
        Shot("GET", "/"), Shot("GET", "/config"), Shot("GET", "/gradio_api/info"),
        Shot("GET", "/gradio_api/file=/etc/passwd"), Shot("OPTIONS", "/config"),
        Shot("GET", "/theme.css"), Shot("GET", "/manifest.json"),
        json_shot("/gradio_api/call/runs", {"data": ["", ""]}),
        json_shot("/gradio_api/cancel", {"session_hash": "x", "fn_index": 1, "event_id": "x"}),
    ]  # fmt: skip
    return [
        replace(shot, headers={**shot.headers, **forged}) for shot in asked for forged in FORGED
    ]


WRONG: tuple[Any, ...] = (
    None, True, -1, 10**20, 1e308, "", "../../etc/passwd", "\ud800", [], [[]], {},
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, {"__type__": "update"},
    ["full", {"a": [None]}, 3],
)  # fmt: skip
"""Values of every type, for inputs that each take another."""

NUMBERS: tuple[Any, ...] = (-1, 9999, 10**20, -(10**20), "x", "1", None, True, 1.5, [], {}, 1e308)
SESSIONS: tuple[Any, ...] = (None, 1, [], {}, "", "../x", "\x00", "\ud800", "x" * 1_000_000, True)


def on_calls(page: gr.Blocks, paths: Iterable[str] = ("queue/join", "run/predict")) -> list[Shot]:
    """What names a handler: numbers, sessions, parts and events that there are not."""
    right = {"data": [], "fn_index": 0, "session_hash": "attack", "trigger_id": None}
    changed: list[dict[str, Any]] = [
        *({"fn_index": number} for number in NUMBERS),
        *({"session_hash": session} for session in SESSIONS),
        *({"trigger_id": part} for part in (-1, 10**20, "x", [], True, 1.5)),
        *({"event_id": event} for event in (1, [], "../x", "x" * 100_000)),
        *({"data": data} for data in (None, {}, "x", 1, [None] * 10_000)),
        *({"batched": batched} for batched in (True, "x", [])),
        *({"simple_format": simple} for simple in ("x", [], None)),
        *({"event_data": data} for data in (1, "x", [], {"__class__": "x"})),
        {"request": {"headers": {}}, "oauth_token": 1},
        {"fn_index": -1, "session_hash": None, "data": None},
    ]
    shots = [json_shot(f"/gradio_api/{path}", right | other) for path in paths for other in changed]
    for name in ("nothing", "__init__", "runs%00", "%2e%2e", "lambda", "refresh", "v2/nothing"):
        for route in ("call", "run", "api", "call/v2"):
            shots.append(json_shot(f"/gradio_api/{route}/{name}", {"data": []}))
    for values in (
        {"nothing": 1},
        {"data": []},
        {"sweep": 1, "text": [1]},
        {"": ""},
        {"sweep": {}},
    ):
        shots += [
            json_shot(f"/gradio_api/call/v2/{name}", values)
            for name in ("runs", "launch_sweep", "cancel", "generate")
        ]
    for event in ("x", "..%2fx", "0" * 32):
        shots += [
            json_shot(
                "/gradio_api/cancel", {"session_hash": "x", "fn_index": 0, "event_id": event}
            ),
            json_shot(f"/gradio_api/stream/{event}", right),
            Shot("POST", f"/gradio_api/stream/{event}/close"),
            Shot("GET", f"/gradio_api/call/runs/{event}"),
            Shot("GET", f"/gradio_api/queue/data?session_hash={event}"),
        ]
    parts = [-1, 0, 10**20, "x", *list(page.blocks)[:10]]
    for part, name in itertools.product(parts, ("ls", "__init__", "preprocess")):
        body = {"data": "/etc", "component_id": part, "session_hash": "x", "fn_name": name}
        shots.append(json_shot("/gradio_api/component_server", body))
    return shots


def wrong_values(count: int, seed: int) -> Iterator[list[Any]]:
    """Inputs of wrong types for a handler that takes so many: each place gets another one."""
    for turn in range(3):
        yield [WRONG[(seed + turn * 5 + place) % len(WRONG)] for place in range(count)]


EVENTS: tuple[Any, ...] = (
    None, {}, {"run": "../../etc", "on": [[], {}, None, "lora"], "at": "x", "settings": {"a": []}},
    {"at": 1e308, "on": {"columns": 3}, "sort": [], "more": 1, "customers": "x", "run": None},
    {"on": "x", "settings": [], "further": {"a": 1}, "model": ["x"], "index": None, "value": {}},
)  # fmt: skip


def on_events(page: gr.Blocks) -> list[dict[str, Any]]:
    """Calls of every event of the page: as it is first, with one wrong input, with all wrong."""
    calls = []
    for number, function in page.fns.items():
        if function.fn is None:
            continue
        honest = [first_value(part) for part in function.inputs]
        tried = [*wrong_values(len(honest), number), honest[:-1], [], [*honest, *WRONG]]
        tried += [
            [*honest[:place], WRONG[(number + place) % len(WRONG)], *honest[place + 1 :]]
            for place in range(len(honest))
        ]
        events = EVENTS if function.collects_event_data else (None,)
        for turn, data in enumerate(tried):
            calls.append(
                {"fn_index": number, "data": data, "event_data": events[turn % len(events)]}
            )
        calls += [{"fn_index": number, "data": honest, "event_data": data} for data in events]
    return calls


def first_value(part: Any) -> Any:
    """What the page could send for it; of several, the last, which costs least.

    But of the groups of Results, whose last, means over seeds, costs most.
    """
    choices = [value for _, value in getattr(part, "choices", None) or () if value != "seeds"]
    if isinstance(part, gr.Radio) and choices:
        return choices[-1]
    value = getattr(part, "value", None)
    is_json = value is None or isinstance(value, str | int | float | bool | list)
    return value if is_json else None
