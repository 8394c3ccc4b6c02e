"""Whether an address can be listened on, found by doing so."""

from __future__ import annotations

import socket


def why_not_free(host: str, port: int) -> str:
    """Why nothing can be served there, in the system's words; "" where it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # a name that is too long for one
        return getattr(error, "strerror", None) or str(error)
    return ""
