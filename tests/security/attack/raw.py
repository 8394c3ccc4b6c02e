"""Requests that no HTTP library would send, over a plain connection."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

_SECONDS = 10.0
_HEAD = b"Host: 127.0.0.1\r\n"
_JOIN = b"POST /gradio_api/queue/join HTTP/1.1\r\n" + _HEAD
_GIVEN_AWAY = re.compile(rb"Traceback \(most|root:x:0:|planted-secret|HTTP/1.1 5")


def on_lines() -> list[bytes]:
    """Lies about a body's length, heads without end, lines that are no HTTP."""
    get = b"GET / HTTP/1.1\r\n"
    return [
        b"",
        b"\r\n\r\n",
        b"\x00" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xab" * 200,
        b"GET /\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        get + b"\r\n",
        get + _HEAD + _HEAD + b"\r\n",
        get + _HEAD + b"a" * 100_000 + b": b\r\n\r\n",
        get + _HEAD + b"".join(b"x-%d: y\r\n" % number for number in range(20_000)) + b"\r\n",
        get + _HEAD + b"X: a\x00b\r\n\r\n",
        get + _HEAD + b"X : a\r\n\r\n",
        get + _HEAD + b"X: a\r\n b\r\n\r\n",
        get.replace(b"\r", b"") + _HEAD.replace(b"\r", b"") + b"\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n" + _HEAD + b"\r\n",
        b"GET http://169.254.169.254/latest HTTP/1.1\r\n" + _HEAD + b"\r\n",
        b"GET //evil.com/%2e%2e HTTP/1.1\r\n" + _HEAD + b"\r\n",
        b"GET /config?x=\xff\xfe HTTP/1.1\r\n" + _HEAD + b"\r\n",
        b"CONNECT evil.com:443 HTTP/1.1\r\nHost: evil.com:443\r\n\r\n",
        b"get /config HTTP/1.1\r\n" + _HEAD + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\n" + _HEAD + b"\r\n",
        _JOIN + b"Content-Length: -1\r\n\r\n{}",
        _JOIN + b"Content-Length: 99999999999999999999\r\n\r\n{}",
        _JOIN + b"Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}",
        _JOIN + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
        _JOIN + b"Content-Length: 1_0\r\n\r\n{}",
        _JOIN + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        _JOIN + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
        _JOIN + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n0\r\n\r\n",
        _JOIN + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        _JOIN + b"Content-Type: application/json\r\nContent-Length: 0\r\n\r\n" + get * 3,
        (get + _HEAD + b"\r\n") * 20,
        get + _HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        get + _HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    ]  # fmt: skip


def send_raw(url: str, lines: Sequence[bytes], broken: list[str]) -> int:
    """Sends each over a connection of its own, of which the writing half is then closed, and adds
    to `broken` what was answered with an error of the app; how many were sent."""
    address = urlsplit(url)
    for line in lines:
        answer = b""
        try:
            with socket.create_connection(
                (str(address.hostname), int(address.port or 80)), _SECONDS
            ) as connection:
                connection.sendall(line)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
        except TimeoutError:
            broken.append(f"{line[:80]!r}: the line is held")
        except OSError:  # closed while it was still written
            pass
        if _GIVEN_AWAY.search(answer):
            broken.append(f"{line[:80]!r}: {answer[:300]!r}")
    return len(lines)
