"""Logging in with Hugging Face: who may, and what the cookie of a logged-in person says.

The cookie holds the person's token, signed with a key made of the Space's client secret. It lies in
the browser alone: each request brings it, and nothing of it is written or kept here. `hub_routes`
has the pages that set it. gradio's own login is not used (`NotedBlocks.expects_oauth`): outside of
a Space it would log everybody in as the owner of the machine's token.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from base64 import b64decode
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from ftlab.basics.errors import FtlabError

USERS = "FTLAB_HF_USERS"
COOKIE = "__Host-ftlab-hub"
"""Browsers take a cookie with this prefix over HTTPS only, and from this very host only."""

INFO = "oauth_info"
"""The part of the session in which gradio looks for the token of a `gr.OAuthToken`."""

LOGIN, CALLBACK = "/login/huggingface", "/login/callback"

_ID, _SECRET, _SCOPES = "OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OAUTH_SCOPES"
_PROVIDER, _HOST = "OPENID_PROVIDER_URL", "SPACE_HOST"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_EXAMPLE = "ada, bob, org:NAME"
_WRITE = frozenset({"contribute-repos", "write-repos", "manage-repos"})
"""Each of these lets an app upload: to repositories that it creates, to all, and also delete."""


@dataclass(frozen=True)
class HubUsers:
    """Who may log in: users of the Hub by name, and everybody in an organisation of `orgs`.

    The names are in the order in which they were given.
    """

    names: tuple[str, ...]
    orgs: frozenset[str] = frozenset()

    def include(self, name: str, orgs: frozenset[str]) -> bool:
        return name in self.names or bool(self.orgs & orgs)


def parse_users(text: str) -> HubUsers:
    """Parses names with commas between them. Raises `FtlabError` for one that the Hub cannot have.

    Names are compared letter by letter, as the Hub writes them.
    """
    names: list[str] = []
    orgs: list[str] = []
    for entry in filter(None, map(str.strip, text.split(","))):
        kind, colon, rest = entry.partition(":")
        name = rest.strip() if colon else entry
        if (colon and kind.strip() != "org") or not _NAME.fullmatch(name):
            raise FtlabError(
                f"{USERS} names '{entry[:80]}', which is no user and no organisation of the Hub; "
                f"give names as in {_EXAMPLE}."
            )
        (orgs if colon else names).append(name)
    if not names and not orgs:
        raise FtlabError(f"{USERS} names nobody; give names as in {_EXAMPLE}, or remove it.")
    return HubUsers(tuple(dict.fromkeys(names)), frozenset(orgs))


@dataclass(frozen=True)
class HubPerson:
    """Somebody who is logged in. `login` is the number of this login; the token is not in here."""

    name: str
    login: str
    until: float


class EndedLogins:
    """Logins that were ended: a copy of their cookie is worth nothing either, until a restart."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._turn = threading.Lock()

    def end(self, person: HubPerson) -> None:
        with self._turn:
            now = time.time()
            self._until = {login: until for login, until in self._until.items() if until > now}
            self._until[person.login] = person.until

    def __contains__(self, login: str) -> bool:
        return login in self._until


@dataclass(frozen=True)
class HubLogin:
    """The app as the Hub knows it. `host` is the address at which the Hub serves the Space."""

    client_id: str
    client_secret: str = field(repr=False)
    scopes: str
    provider: str
    host: str
    users: HubUsers
    ended: EndedLogins = field(default_factory=EndedLogins, repr=False)

    def __post_init__(self) -> None:
        if not self.client_secret:  # the key of all cookies would be one that everybody knows
            raise FtlabError(f"{_SECRET} is empty, so cookies could be forged; restart the Space.")

    @property
    def key(self) -> str:
        """Signs the cookies; a new client secret ends all logins."""
        return hashlib.sha256(f"{self.client_secret}-ftlab-1".encode()).hexdigest()

    @property
    def callback(self) -> str:
        return f"https://{self.host}{CALLBACK}"

    def person(self, cookies: Mapping[str, str]) -> HubPerson | None:
        """Whose cookie it is; `None` if it is forged, cut, expired, ended, or of nobody listed."""
        info = self._session(cookies.get(COOKIE, "")).get(INFO)
        if not isinstance(info, dict):
            return None
        user, until, login = info.get("userinfo"), info.get("expires_at"), info.get("login")
        if not isinstance(user, dict) or not isinstance(until, int) or not isinstance(login, str):
            return None
        name, orgs = user.get("preferred_username"), info.get("orgs")
        if not isinstance(name, str) or not isinstance(orgs, list):
            return None
        is_over = until <= time.time() or login in self.ended
        if is_over or not self.users.include(name, frozenset(orgs)):
            return None
        return HubPerson(name, login, until)

    def _session(self, cookie: str) -> dict[str, Any]:
        """What starlette's `SessionMiddleware` wrote; empty unless it is signed with our key."""
        from itsdangerous import BadSignature, TimestampSigner

        if not cookie:
            return {}
        try:
            signed = TimestampSigner(self.key).unsign(cookie.encode("utf-8", "surrogatepass"))
            session = json.loads(b64decode(signed))
        except (BadSignature, ValueError):
            return {}
        return session if isinstance(session, dict) else {}


def may_write(scope: str) -> bool:
    """Whether a token with these scopes, separated by spaces, may upload anything."""
    return bool(_WRITE & set(scope.split()))


def read_hub_login(
    environment: MutableMapping[str, str], has_passwords: bool = False
) -> HubLogin | None:
    """Reads who may log in with Hugging Face; `None` if nobody is named.

    The client secret is removed from the environment, so that no child process inherits it. Raises
    `FtlabError` if names are given where nobody could log in.
    """
    secret = environment.pop(_SECRET, "").strip()
    text = environment.get(USERS, "")
    if not text.strip():
        return None
    if has_passwords:
        raise FtlabError(
            f"{USERS} and passwords (FTLAB_AUTH or --auth) are both given, so a name could stand "
            "for two people; remove one of the two."
        )
    if not environment.get("SPACE_ID"):
        raise FtlabError(
            f"{USERS} is for a Hugging Face Space, where the Hub says who somebody is; elsewhere "
            "give users and passwords with --auth FILE."
        )
    users = parse_users(text)
    values = {name: environment.get(name, "").strip() for name in (_ID, _SCOPES, _PROVIDER, _HOST)}
    missing = [name for name, value in {**values, _SECRET: secret}.items() if not value]
    if missing:
        raise FtlabError(
            f"{USERS} needs {', '.join(missing)}, which the Hub sets in a Space that has "
            "hf_oauth: true in the metadata of its README.md; add it."
        )
    if not (find_spec("authlib") and find_spec("itsdangerous")):
        raise FtlabError(f"{USERS} needs authlib and itsdangerous; install requirements.txt.")
    return HubLogin(
        values[_ID],
        secret,
        values[_SCOPES].replace(",", " "),
        values[_PROVIDER].rstrip("/"),
        values[_HOST].partition(",")[0].strip(),  # the others are domains of one's own
        users,
    )
