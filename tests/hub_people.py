"""A Hub of the tests' own with people: its login (OpenID Connect) and repositories of models.

Everybody who is sent to its login is `person` and agrees, unless `denies`.
"""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import RSAKey

from ftlab.tabs.hub_login import CALLBACK, LOGIN
from tests.hub_server import COMMIT, Hub

CLIENT, CLIENT_SECRET = "client-of-the-space", "planted-client-secret-0001"
TOKEN = "hf_oauth_plantedPlantedPlanted0002"
SCOPES = "openid profile contribute-repos"


@dataclass
class PeopleHub:
    """`repos` are (is it private, its files) by name; `refuses` the status of every request for a
    repository, if any; `seen` the tokens that came with them; `claims` and `signs_with` change the
    ID token.
    """

    hub: Hub
    person: str = "ada"
    orgs: tuple[dict[str, Any], ...] = ()
    scope: str = SCOPES
    seconds: int = 3600
    token: str = TOKEN
    denies: bool = False
    token_status: int = 200
    refuses: int = 0
    repos: dict[str, tuple[bool, dict[str, bytes]]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    slow_seconds: float = 0.0
    key: Any = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "one"}))
    claims: dict[str, Any] = field(default_factory=dict)
    signs_with: Any = None
    nonces: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hub.more = self.answer

    @property
    def environment(self) -> dict[str, str]:
        """What the Hub sets in a Space with `hf_oauth: true`, but for its address."""
        return {
            "OAUTH_CLIENT_ID": CLIENT,
            "OAUTH_CLIENT_SECRET": CLIENT_SECRET,
            "OAUTH_SCOPES": SCOPES,
            "OPENID_PROVIDER_URL": self.hub.address,
        }

    def answer(self, asked: Any, path: str) -> bool:
        size = int(asked.headers.get("Content-Length") or 0)
        body = asked.rfile.read(size) if asked.command == "POST" else b""
        query = {name: values[0] for name, values in parse_qs(urlsplit(asked.path).query).items()}
        if path == "/.well-known/openid-configuration":
            asked.json(
                {
                    "issuer": self.hub.address,
                    **{
                        f"{name}_endpoint": f"{self.hub.address}/oauth/{where}"
                        for name, where in (
                            ("authorization", "authorize"),
                            ("token", "token"),
                            ("userinfo", "userinfo"),
                        )
                    },
                    "jwks_uri": f"{self.hub.address}/oauth/jwks",
                    "id_token_signing_alg_values_supported": ["RS256"],
                }
            )
        elif path == "/oauth/authorize":
            self._authorize(asked, query)
        elif path == "/oauth/token":
            form = parse_qs(body.decode())
            self._token(asked, {name: values[0] for name, values in form.items()})
        elif path == "/oauth/jwks":
            asked.json({"keys": [self.key.as_dict(private=False)]})
        elif path == "/oauth/userinfo":
            asked.json({"sub": "1", "preferred_username": self.person, "orgs": list(self.orgs)})
        elif path.startswith("/api/"):
            time.sleep(self.slow_seconds)
            self.seen.add(asked.headers.get("Authorization", ""))
            return self._repository(asked, path.strip("/").split("/"), body)
        else:
            return False
        return True

    def _authorize(self, asked: Any, query: dict[str, str]) -> None:
        assert query["client_id"] == CLIENT
        assert query["response_type"] == "code"
        code = f"code{len(self.nonces)}"
        self.nonces[code] = query["nonce"]
        told = {"error": "access_denied"} if self.denies else {"code": code}
        address = f"{query['redirect_uri']}?{urlencode(told | {'state': query['state']})}"
        asked.head(302, {"Location": address, "Content-Length": "0"})

    def _token(self, asked: Any, form: dict[str, str]) -> None:
        basic = base64.b64encode(f"{CLIENT}:{CLIENT_SECRET}".encode()).decode()
        if asked.headers.get("Authorization") != f"Basic {basic}" or self.token_status != 200:
            return asked.json({"error": "invalid_client"}, max(400, self.token_status))
        nonce = self.nonces.pop(form["code"], None)
        if nonce is None:
            return asked.json({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.hub.address, "aud": CLIENT, "sub": "1", "nonce": nonce,
            "iat": now, "exp": now + 3600, "preferred_username": self.person,
            "name": "Ada L.", "profile": "https://huggingface.co/ada", "picture": "",
            **self.claims,
        }  # fmt: skip
        asked.json(
            {
                "access_token": self.token,
                "token_type": "bearer",
                "expires_in": self.seconds,
                "scope": self.scope,
                "id_token": jwt.encode(
                    {"alg": "RS256", "kid": "one"}, claims, self.signs_with or self.key
                ),
            }
        )

    def _repository(self, asked: Any, parts: list[str], body: bytes) -> bool:
        if self.refuses:
            asked.json({"error": f"no, for Bearer {TOKEN}"}, self.refuses)
        elif parts[1:] == ["repos", "create"]:
            wanted = json.loads(body)
            owner = wanted.get("organization") or self.person
            name = f"{owner}/{wanted['name']}"
            if name in self.repos:
                asked.json({"error": "exists", "url": f"{self.hub.address}/{name}"}, 409)
                return True
            self.repos[name] = (is_private(wanted), {})
            asked.json({"url": f"{self.hub.address}/{name}", "name": name})
        elif parts[1] == "models" and "/".join(parts[2:4]) in self.repos:
            self._model(asked, "/".join(parts[2:4]), parts[4:], body)
        elif parts[1] == "validate-yaml":
            asked.json({"errors": [], "warnings": []})
        else:
            return False
        return True

    def _model(self, asked: Any, name: str, rest: list[str], body: bytes) -> None:
        private, files = self.repos[name]
        if rest[:1] == ["preupload"]:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            told = [{"path": file["path"], **how} for file in json.loads(body)["files"]]
            asked.json({"files": told})
        elif rest[:1] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.hub.address}/{name}/commit/{COMMIT}"
            asked.json({"commitUrl": url, "commitOid": COMMIT, "success": True})
        elif rest[:1] == ["tree"]:
            asked.json([])
        else:
            siblings = [{"rfilename": file} for file in files]
            asked.json({"id": name, "sha": COMMIT, "private": private, "siblings": siblings})


def is_private(wanted: dict[str, Any]) -> bool:
    return bool(wanted.get("private")) or wanted.get("visibility") == "private"


class Visitor:
    """A browser as far as a login needs one: it keeps cookies, and takes `https://` of the app's
    own host for the address at which the app really listens."""

    def __init__(self, app: str, host: str) -> None:
        self.cookies: dict[str, str] = {}
        self.set: list[str] = []
        self._app, self._host = app, host
        self._client = httpx.Client(base_url=app, timeout=30)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.ask("GET", path, headers)

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """One request; no redirect is followed."""
        url = path.replace(f"https://{self._host}", self._app)
        sent = dict(headers or {})
        if not url.startswith("http") or url.startswith(self._app):
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        answer = self._client.request(method, url, headers=sent)
        for line in answer.headers.get_list("set-cookie"):
            self.set.append(line)
            name, value = re.match(r"([^=]+)=([^;]*)", line).groups()  # type: ignore[union-attr]
            self.cookies[name] = value
            if "expires=Thu, 01 Jan 1970" in line:
                del self.cookies[name]
        return answer

    def come_back(self) -> str:
        """Goes to the Hub; returns the address to which it sends the browser back."""
        there = self.get(LOGIN)
        assert there.status_code == 302, there.text
        back = self.get(there.headers["location"]).headers["location"]
        assert back.startswith(f"https://{self._host}{CALLBACK}?")
        return str(back)

    def log_in(self) -> httpx.Response:
        return self.get(
            self.come_back(),
            **{
                "sec-fetch-site": "cross-site",
                "sec-fetch-mode": "navigate",
                "sec-fetch-dest": "document",
            },
        )

    def close(self) -> None:
        self._client.close()

    def client(self) -> httpx.Client:
        """A client with the cookies of this moment."""
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return httpx.Client(base_url=self._app, timeout=30, headers={"cookie": cookie})
