"""Visits an app with a login over HTTPS and prints what it answers, as JSON.

Run as: python -m tests.install.visitor URL CERTIFICATE ACCOUNTS
"""

from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx

FROM = "127.0.0.9"
"""The visitor's own address, of the whole network 127.0.0.0/8 that is this machine."""

FORGED = "203.0.113.7"
"""What the visitor says in a header of its own address (an address for documents, RFC 5737)."""


def main(arguments: list[str]) -> int:
    url, certificate, accounts = arguments
    user, _, password = Path(accounts).read_text().strip().partition(":")
    right = {"username": user, "password": password}
    trusted = ssl.create_default_context(cafile=certificate)
    with httpx.Client(
        base_url=url, timeout=60, transport=httpx.HTTPTransport(verify=trusted, local_address=FROM)
    ) as visitor:
        answers: dict[str, Any] = {
            "health": visitor.get("/healthz").json(),
            "stranger": visitor.get("/gradio_api/info").status_code,
            "wrong": visitor.post(
                "/login",
                data=right | {"password": "not this one"},
                headers={"X-Forwarded-For": FORGED},
            ).status_code,
            "foreign": visitor.post(
                "/login", data=right, headers={"Origin": "https://elsewhere.example"}
            ).status_code,
        }
        logged_in = visitor.post("/login", data=right, headers={"Origin": url})
        answers |= {
            "right": logged_in.status_code,
            "cookies": logged_in.headers.get_list("set-cookie"),
            "page": visitor.get("/").status_code,
            "root": visitor.get("/config").json()["root"],
            "details": visitor.get("/healthz").json(),
        }
    plain = httpx.get(url.replace("https:", "http:"), timeout=60)
    answers["plain"] = [plain.status_code, plain.headers.get("location")]
    print(json.dumps(answers))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
