"""The pages of a login with Hugging Face: the button, the way there and back, and logging out.

Every redirect of ours leads to the page itself or to the Hub, whatever the request says.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ftlab.basics.log import note
from ftlab.tabs.hub_login import CALLBACK, COOKIE, INFO, LOGIN, HubLogin

_TIMEOUT_SECONDS = 10.0
_DEFAULT_SECONDS = 8 * 3600  # how long the Hub lets a token live unless the Space says otherwise
_MOST_COOKIE_BYTES = 3_900
"""Browsers drop a cookie of more than 4,096 bytes, name and attributes included."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
}
_STYLE = """
body{margin:0;font:15px/1.5 system-ui,sans-serif;background:#f4f5f7;color:#1b2129}
main{max-width:26rem;margin:18vh auto 0;padding:0 20px}
h1{font-size:20px;margin:0 0 8px}
a.go,button{display:inline-block;margin-top:12px;padding:8px 16px;border:0;border-radius:6px;
background:#4f46e5;color:#fff;font:inherit;text-decoration:none;cursor:pointer}
a.go:focus-visible,button:focus-visible{outline:2px solid currentColor;outline-offset:2px}
@media (prefers-color-scheme:dark){body{background:#0d1015;color:#e4e8ed}
a.go,button{background:#5b54ec}}
"""


def login_page(sentence: str, status: int = 200, framed: bool = False, again: str = "") -> Response:
    """The page with the button. `framed`: it is shown in a frame of another site, where browsers
    may refuse cookies, so the login opens a tab of its own."""
    target = ' target="_blank" rel="noopener"' if framed else ""
    label = again or "Log in with Hugging Face"
    return _page(
        Markup("<p>{}</p><a class='go' href='{}'{}>{}</a>").format(
            sentence, LOGIN, Markup(target), label
        ),
        status,
    )


def logout_page() -> Response:
    """Asks once more: gradio's LoginButton opens an address, which any link or picture could."""
    return _page(
        Markup(
            "<p>Your runs stay as they are.</p>"
            "<form method='post' action='/logout'><button>Log out</button></form>"
        )
    )


def _page(content: Markup, status: int = 200) -> Response:
    html = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>ftlab</title>"
        "<meta name='viewport' content='width=device-width'>"
        f"<style>{_STYLE}</style><main><h1>ftlab</h1>{escape(content)}</main></html>"
    )
    return HTMLResponse(html, status, _HEADERS)


@dataclass(frozen=True)
class HubRoutes:
    """The routes of a login; `client` is authlib's client of the Hub, made by `hub_routes`."""

    login: HubLogin
    client: Any

    async def leave(self, request: Request) -> Response:
        """Sends the browser to the Hub."""
        request.session.clear()
        try:
            answer: Response = await self.client.authorize_redirect(request, self.login.callback)
        except Exception as error:
            return self._failed(error)
        return answer

    async def arrive(self, request: Request) -> Response:
        """Takes the Hub's answer: checks whose it is, and keeps it in the browser's cookie."""
        from authlib.integrations.base_client.errors import MismatchingStateError, OAuthError

        try:
            token = await self.client.authorize_access_token(request)
            user = token["userinfo"]
            orgs = await self._orgs(token, user) if self.login.users.orgs else frozenset()
        except MismatchingStateError:
            return login_page(
                "This login has begun in another browser, or too long ago. Log in again, at "
                f"https://{self.login.host}.",
                400,
            )
        except OAuthError as error:
            note("login refused", error=type(error).__name__)
            return login_page("Hugging Face did not allow this login. Log in again.", 400)
        except Exception as error:
            return self._failed(error)
        request.session.clear()  # only now: a link of another site leads here too, and ends nothing
        name = str(user.get("preferred_username") or "")
        if not self.login.users.include(name, orgs):
            note("login refused", error="not listed")
            return login_page(
                f"'{name[:96]}' is not among the people who may use this app. Ask its owner, or "
                "log in at Hugging Face with another account.",
                403,
                again="Log in again",
            )
        until = token.get("expires_at") or time.time() + _DEFAULT_SECONDS
        info = {
            "access_token": str(token["access_token"]),
            "scope": str(token.get("scope") or self.login.scopes),
            "expires_at": int(until),
            "userinfo": {"preferred_username": name},
            "orgs": sorted(orgs & self.login.users.orgs),
            "login": secrets.token_urlsafe(16),
        }
        if len(json.dumps({INFO: info})) * 4 / 3 > _MOST_COOKIE_BYTES:
            return login_page(
                "The Hub's token is too long for a cookie; tell the app's owner.", 502
            )
        request.session[INFO] = info
        note("logged in", by="Hugging Face")
        return RedirectResponse("/", 303)

    async def end(self, request: Request) -> Response:
        """Ends this login, in this browser and for every copy of its cookie."""
        person = self.login.person(request.cookies)
        if person is not None:
            self.login.ended.end(person)
        request.session.clear()
        return RedirectResponse("/", 303)

    async def _orgs(self, token: dict[str, Any], user: dict[str, Any]) -> frozenset[str]:
        """The person's organisations, which only the Hub's page on the person tells.

        One that asks for a second factor or its own sign-on first does not count.
        """
        told = await self.client.userinfo(token=token)
        if told.get("sub") != user.get("sub"):
            raise ValueError("the Hub told of somebody else")
        return frozenset(
            str(org.get("preferred_username"))
            for org in told.get("orgs") or ()
            if not org.get("pendingSSO") and not org.get("missingMFA")
        )

    def _failed(self, error: Exception) -> Response:
        note("login failed", error=type(error).__name__)  # its text could hold the code or token
        return login_page(
            "Hugging Face cannot be reached, or answered wrongly. Log in again in a minute.", 502
        )


def hub_routes(login: HubLogin) -> list[Route]:
    """The routes. They come before gradio's, whose `/logout` knows nothing of these logins."""
    from authlib.integrations.starlette_client import OAuth

    client = OAuth().register(
        name="huggingface",
        client_id=login.client_id,
        client_secret=login.client_secret,
        server_metadata_url=f"{login.provider}/.well-known/openid-configuration",
        client_kwargs={"scope": login.scopes, "timeout": _TIMEOUT_SECONDS},
    )
    routes = HubRoutes(login, client)
    return [
        Route(LOGIN, routes.leave, methods=["GET"]),
        Route(CALLBACK, routes.arrive, methods=["GET"]),
        Route("/logout", routes.end, methods=["POST"]),
    ]


def hub_session(login: HubLogin) -> Middleware:
    """Reads and writes the cookie: HTTPS only, out of reach of scripts, gone with the browser.

    `SameSite=None`, since the Hub shows a Space in a frame; the gate refuses other sites.
    """
    from starlette.middleware.sessions import SessionMiddleware

    return Middleware(
        SessionMiddleware,
        secret_key=login.key,
        session_cookie=COOKIE,
        max_age=None,
        same_site="none",
        https_only=True,
    )
