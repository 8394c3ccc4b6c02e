"""Network addresses, and which of them only this machine reaches."""

from __future__ import annotations

import ipaddress
import re
import socket

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?", re.IGNORECASE | re.ASCII)


def ip_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parses an address, with or without a zone; `None` if the text is not an address.

    An IPv4 address that is mapped to IPv6 is returned as IPv4.
    """
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def is_loopback(host: str) -> bool:
    """True if every address of that host name is a loopback address."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return False
    addresses = [ip_of(str(address[0])) for *_, address in found]
    return all(ip is not None and ip.is_loopback for ip in addresses)


def is_this_machine(host: str) -> bool:
    """True if a Host header names loopback: localhost, 127.0.0.1 or [::1], port optional."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found["name"].lower()
    ip = ip_of(name.strip("[]"))
    is_local_name = name == "localhost" or name.endswith(".localhost")
    return is_local_name or (ip is not None and ip.is_loopback)
