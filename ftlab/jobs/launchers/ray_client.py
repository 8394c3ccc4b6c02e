"""The connection to a Ray cluster's job server, and what is wrong with it in a sentence."""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError, one_line

_TOKEN_FILE = "~/.ray/auth_token"


def authenticate(environment: MutableMapping[str, str]) -> None:
    """Has Ray's client send the cluster's token, as it would not by itself.

    Raises `FtlabError` if there is none, unless `RAY_AUTH_MODE` says that none is wanted. Must be
    called before ray is imported.
    """
    if environment.get("RAY_AUTH_MODE"):
        return
    file = Path(environment.get("RAY_AUTH_TOKEN_PATH") or _TOKEN_FILE).expanduser()
    if not environment.get("RAY_AUTH_TOKEN") and not file.is_file():
        raise FtlabError(
            f"There is no token for the Ray cluster in {_TOKEN_FILE}, RAY_AUTH_TOKEN_PATH or "
            "RAY_AUTH_TOKEN; copy the head's (`ray get-auth-token` prints it), or set "
            "RAY_AUTH_MODE=disabled if only people whom you trust reach the cluster."
        )
    environment["RAY_AUTH_MODE"] = "token"


def connect(address: str) -> Any:
    """A client of the cluster's job server. Raises `FtlabError` with the reason in a sentence."""
    authenticate(os.environ)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # counts more for Ray than an argument
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # else they tell of each upload
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # requests', aiohttp's and Ray's own
        raise FtlabError(why_not(address, error)) from None


def why_not(address: str, error: Exception) -> str:
    text = one_line(error)
    if "401" in text or "Authentication required" in text:
        return f"The Ray cluster at {address} wants a token; copy the head's to {_TOKEN_FILE}."
    if "403" in text or "Authentication failed" in text:
        return (
            f"The Ray cluster at {address} refuses this token; copy the head's anew to "
            f"{_TOKEN_FILE} (`ray get-auth-token` prints it there)."
        )
    if isinstance(error, ConnectionError) or "Failed to connect" in text:
        return (
            f"No Ray cluster answers at {address}; start one there (`ray start --head "
            "--dashboard-host 0.0.0.0`), or correct the address: it is that of Ray's dashboard."
        )
    return f"The Ray cluster at {address} cannot be used: {text[:300]}"
