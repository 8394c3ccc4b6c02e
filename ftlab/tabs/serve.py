"""Serves the app: accounts, access rules, `/healthz`, and logging of errors.

Gradio only prints errors of handlers. Here they are logged, and the caller gets a sentence: one for
a request that the page never makes, another for an error of the app.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import importlib.util
import ipaddress
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.state_holder import SessionState
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftlab.basics.addresses import is_loopback
from ftlab.basics.bearer import NamedTokens
from ftlab.basics.errors import FtlabError
from ftlab.basics.log import RepeatedErrors, RepeatedRefusals, note_refusal, without_inputs
from ftlab.basics.people import LONGEST_NAME, MOST_QUEUED, People, asked_by, is_name
from ftlab.basics.words import shown_name, some_names
from ftlab.jobs.control import control_folder
from ftlab.jobs.inputs import DEMO_REFUSAL, Access, demo_access
from ftlab.operations.health import HealthProbe
from ftlab.records.run import make_read_only
from ftlab.records.store import RunStore
from ftlab.tabs.first_page import FirstPage
from ftlab.tabs.gate import Gate, GatedApp, Limits, asked, bound_connections, user_of
from ftlab.tabs.given_files import GivenFiles
from ftlab.tabs.hub_login import HubLogin
from ftlab.tabs.requests import (
    NO_SUCH_PART,
    BodyLimits,
    WrongCall,
    check_inputs,
    names_of_event,
    page_calls,
)

FAILED = (
    "Something went wrong here, and it is in the log of this app's operator; "
    "reload the page and try again."
)

_REFUSALS = {400, 401, 403, 413, 422, 429}  # a failed login is 400
_LONGEST = 300  # characters of a path or a sentence


def calm(page: gr.Blocks) -> None:
    """Reduces gradio's idle work; call it after `Blocks.queue`.

    Gradio polls its queue 1,100 times a second, which takes 3 % of a core on an idle page. With 60
    it was still 1.4 %; with 20 an event waits 25 ms on average. Gradio also polls for the progress
    of events, which none here reports. And it searches the disk for matplotlib and bokeh at each
    event: if they are not installed, a `None` entry in `sys.modules` makes that import fail.
    """
    page._queue.sleep_when_free = 0.05  # seconds
    page._queue.progress_update_sleep_when_free = 2.0
    for name in ("matplotlib", "bokeh"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = None  # type: ignore[assignment]


class NotedBlocks(gr.Blocks):
    """The page: logs errors of handlers, validates inputs, and does not process skipped outputs."""

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._errors = RepeatedErrors()
        self.own_routes: list[Route] = []
        """Routes of the page that are not gradio's; `Serving.launch` adds them."""
        self.people = People()
        """Of the app; `Serving.launch` sets them."""
        self.given = GivenFiles()

    @property
    def expects_oauth(self) -> bool:
        """`False`: gradio's own login is not added; outside of a Space it lets everybody in."""
        return False

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *args: Any, **kw: Any
    ) -> dict[str, Any]:
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        asked_at = getattr(kw.get("request"), "request", None)
        user = user_of(self.app, asked_at.headers) if asked_at is not None else None
        with asked_by(self.people.person(user)):
            answer = await self._process(function, inputs, *args, **kw)
            self.given.give(answer.get("data"))
            return answer

    async def _process(
        self, function: BlockFunction, inputs: list[Any], *args: Any, **kw: Any
    ) -> dict[str, Any]:
        try:
            event = kw.get("event_data")
            if event is not None:
                event._data = dict(names_of_event(event._data))  # gradio expects a mapping
            return await super().process_api(function, inputs, *args, **kw)
        except gr.Error as refusal:
            wrong = isinstance(refusal, WrongCall)
            said = refusal.reason if wrong else without_inputs(str(refusal.message), inputs)
            event_name = "wrong call" if wrong else "call refused"
            note_refusal(event_name, handler=_name(function), reason=said[:_LONGEST])
            refusal.print_exception = False  # an error of the caller, logged above
            request = getattr(kw.get("request"), "request", None)
            if isinstance(request, Request):  # gradio answers with 500, like an app error
                request.state.refused = True  # for `NotedRefusals`
            raise
        except Exception as error:
            name = _name(function)
            self._errors.note("handler failed", error, inputs, place=name, handler=name)
            raise gr.Error(FAILED, print_exception=False) from None

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """Raises `WrongCall` for inputs that the page cannot send, `gr.Error` from components."""
        check_inputs(block_fn.inputs, inputs)
        if self.given.names_others(inputs):
            raise WrongCall("a file of somebody else")
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error:
            raise
        except Exception as error:  # a component could not read the value
            raise WrongCall(type(error).__name__) from None

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: Any, state: SessionState | None
    ) -> list[Any]:
        """Ignores skipped outputs: constructing their components is the main cost of most polls."""
        outputs = list(block_fn.outputs)
        one_each = isinstance(predictions, list | tuple) and len(predictions) == len(outputs)
        if not one_each or len(outputs) < 2 or block_fn.batch or block_fn.is_validator_function:
            return await super().postprocess_data(block_fn, predictions, state)
        skip = gr.skip()
        kept = [
            place
            for place, value in enumerate(predictions)
            if not (isinstance(value, dict) and value == skip)
        ]
        answer = [None if block.stateful else gr.skip() for block in outputs]
        if kept:
            rest = copy(block_fn)
            rest.outputs = [outputs[place] for place in kept]
            values = [predictions[place] for place in kept]
            given = values if len(values) > 1 else values[0]  # a single output is not in a list
            done = await super().postprocess_data(rest, given, state)
            for place, value in zip(kept, done, strict=True):
                answer[place] = value
        return answer


def _name(function: BlockFunction) -> str:
    return str(function.api_name or getattr(function.fn, "__qualname__", function.name))


class NotedRefusals:
    """ASGI middleware: logs refused requests; logs and answers errors outside handlers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._errors = RepeatedErrors()
        self._refusals = RepeatedRefusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                status = int(message["status"])
                if status == 500 and scope.get("state", {}).get("refused"):
                    message["status"] = 400  # already logged
                elif status in _REFUSALS or (status >= 500 and status != 503):
                    # 503 is the regular answer of an unhealthy `/healthz`
                    self._refusals.note("request refused", status=status, **asked(scope))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if not begun and getattr(error, "errno", 0) == errno.ENAMETOOLONG:
                # gradio tried to open a file with a name longer than the system allows
                await PlainTextResponse(NO_SUCH_PART, 404)(scope, receive, send)
                return
            # With an HTTPException gradio ends the stream of a session that no longer exists.
            if not isinstance(error.__cause__ or error, HTTPException):
                # The pattern of the route: the number of different paths is unlimited.
                route = str(getattr(scope.get("route"), "path", ""))
                self._errors.note("request failed", error, place=route, **asked(scope))
            if not begun:
                await PlainTextResponse(FAILED, 500)(scope, receive, send)
                return
            with suppress(Exception):  # ends the response early, which the client notices
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def health_route(store: RunStore) -> Route:
    """Returns the route `/healthz`; with a login, only logged-in users see details."""
    probe = HealthProbe(store)

    def healthz(request: Request) -> JSONResponse:
        health = probe.health()
        app = request.app
        logs_in = app.auth is not None or app.auth_dependency is not None
        may_know = not logs_in or user_of(app, request.headers) is not None
        told = health.to_json() if may_know else {"status": health.status}
        status = 200 if health.is_ok else 503
        return JSONResponse(told, status, headers={"Cache-Control": "no-store"})

    return Route("/healthz", healthz)  # not a coroutine: it reads files, so it runs in a thread


VARIABLE = "FTLAB_AUTH"
MIN_CHARACTERS = 8
"""Shortest password: at the rate that `gate.Attempts` allows, a shorter one could be guessed."""

_MAX_BYTES = 64 * 1024
_EXAMPLE = "one line each, as in ada:a-long-password"


@dataclass(frozen=True)
class Accounts:
    """Passwords by user; they do not appear in the repr."""

    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.passwords)

    async def check(self, user: str, password: str) -> bool:
        """True if the password is right; takes the same time for an unknown user."""
        known = self.passwords.get(user)
        wanted = secrets.token_hex() if known is None else known
        return hmac.compare_digest(_digest(wanted), _digest(password)) and known is not None


def read_accounts(file: Path | None, environment: MutableMapping[str, str]) -> Accounts:
    """Reads the accounts of the file, or of `FTLAB_AUTH`, which is removed from the environment.

    It is removed so that no child process inherits a password. Raises `FtlabError` if a line is
    invalid, or if other users of the machine can read the file.
    """
    text = environment.pop(VARIABLE, "")
    if file is None:
        return _parse(text, VARIABLE)
    return _parse(_read(file), f"'{file}'", must_have=True)


def _digest(password: str) -> bytes:
    """Hashes to a fixed length, so that the comparison does not reveal the password's length."""
    return hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest()


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if ":" in file.name:  # the value is probably a password: do not repeat it in the message
            raise FtlabError(
                "--auth names no file that can be read; it takes a file, never user:password, "
                f"which others could read off the command line. Give {_EXAMPLE}."
            ) from None
        reason = getattr(error, "strerror", None) or error
        raise FtlabError(
            f"The accounts in '{file}' cannot be read ({reason}); name a file with {_EXAMPLE}."
        ) from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise FtlabError(
            f"The accounts in '{file}' can be read or changed by others of this machine (mode "
            f"{stat.S_IMODE(mode):o}), who could then log in; run: chmod 600 '{file}'."
        )
    if len(data) > _MAX_BYTES:
        raise FtlabError(f"'{file}' has more than {_MAX_BYTES:,} bytes; give {_EXAMPLE}.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FtlabError(f"'{file}' is no text in UTF-8; give {_EXAMPLE}.") from None


def _parse(text: str, where: str, must_have: bool = False) -> Accounts:
    """Parses lines of `user:password`; ignores empty lines and lines that begin with "#"."""
    passwords: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, password = line.partition(":")
        user = user.strip()
        if not colon or not user:
            raise FtlabError(f"Line {number} of {where} is no user:password; give {_EXAMPLE}.")
        if len(password) < MIN_CHARACTERS:
            raise FtlabError(
                f"The password in line {number} of {where} has {len(password)} characters; give "
                f"at least {MIN_CHARACTERS}."
            )
        if not is_name(user):
            raise FtlabError(
                f"The name in line {number} of {where} must have 1 to {LONGEST_NAME} printable "
                "characters; give another."
            )
        if user in passwords:
            raise FtlabError(f"Line {number} of {where} names a user again; give each one line.")
        passwords[user] = password
    if must_have and not passwords:
        raise FtlabError(f"{where} names nobody; give {_EXAMPLE}.")
    return Accounts(passwords)


_NOT_ALONE = (
    "would let anybody who reaches {where} start runs and read files here; give users and "
    f"passwords with --auth FILE or {VARIABLE}=user:password."
)


_BODY_BYTES = 4 * 2**20
"""Size limit of a body that is not an upload: a form that may hold pasted text."""

_DEMO_BODY_BYTES = 2**20
"""The same in a demo, where the longest text to paste is a model's config.json."""

_SPACE_PROXIES = ("10.0.0.0/8",)
"""The network of the Hub's proxy in front of a Space; only that proxy can reach the Space."""


@dataclass(frozen=True)
class Serving:
    """The address of the app, its accounts, and the local folders that visitors may name.

    `space` is the id of the Hugging Face Space that it runs in, "" elsewhere. `proxies` are the
    trusted addresses and networks whose X-Forwarded-For header gives the client address. `agents`
    have tools at `/mcp` with those tokens; `None`: they have none. `private`, `admins` and
    `most_queued` are as in `People`. `hub`: people log in with Hugging Face instead of a password.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    share: bool = False
    accounts: Accounts = field(default_factory=Accounts)
    folders: tuple[Path, ...] = ()
    space: str = ""
    proxies: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    agents: NamedTokens | None = None
    private: bool = False
    admins: tuple[str, ...] = ()
    most_queued: int | None = MOST_QUEUED
    hub: HubLogin | None = None

    @property
    def logs_in(self) -> bool:
        """True if people log in, by password or with Hugging Face."""
        return bool(self.accounts) or self.hub is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Who is named as somebody who may log in; members of organisations may, too."""
        return tuple(self.accounts.passwords) if self.hub is None else self.hub.users.names

    @property
    def people(self) -> People:
        """Who asks, and what each may see and change. Without `admins` the first one named is."""
        admins = self.admins or self.names[:1]
        return People(self.logs_in, self.private, frozenset(admins), self.most_queued)

    @property
    def is_demo(self) -> bool:
        """True for a Space without a login: visitors have read-only access."""
        return bool(self.space) and not self.logs_in

    @property
    def is_public(self) -> bool:
        """True if it can be reached from other machines."""
        return self.share or not is_loopback(self.host)

    def check(self) -> None:
        """Raises `FtlabError` for an app that would be open to strangers."""
        is_reached = self.is_public or self.is_demo or self.logs_in
        if self.agents is not None and is_reached and not self.agents:
            raise FtlabError(
                "--mcp where others can reach it, or people log in, needs a token; set "
                f"{self.agents.variable}, as "
                'python -c "import secrets; print(secrets.token_urlsafe())" makes one.'
            )
        self._check_people()
        if self.logs_in or self.is_demo or not self.is_public:
            return
        what = "--share" if self.share else f"--host {self.host}"
        where = "its public link" if self.share else "that address"
        raise FtlabError(f"{what} without a login {_NOT_ALONE.format(where=where)}")

    def _check_people(self) -> None:
        """Raises `FtlabError` for names that nobody logs in with."""
        if not self.logs_in:
            named = "--private" if self.private else "--admin" if self.admins else ""
            if named:
                raise FtlabError(
                    f"{named} is for people who log in; give users and passwords with --auth FILE "
                    f"or {VARIABLE}=user:password."
                )
            return
        if self.hub is not None and self.hub.users.orgs:
            return  # whose members are not known before they log in
        tokens = {} if self.agents is None else self.agents.tokens
        variable = "" if self.agents is None else self.agents.variable
        for where, names in (("--admin", self.admins), (variable, tokens)):
            for name in filter(None, names):
                if name not in self.names:
                    raise FtlabError(
                        f"{where} names '{shown_name(name)}', who has no login here; the logins: "
                        f"{some_names(self.names, 6)}."
                    )

    def access(self, runs_folder: Path) -> Access:
        """Returns what visitors may do; behind a login they are not assumed to be the operator."""
        if self.is_demo:
            return demo_access(self.space)
        if self.logs_in or self.folders:
            uploads = control_folder(runs_folder) / "uploads"
            return Access(
                folders=self.folders,
                uploads=uploads,
                closed=runs_folder if self.private else None,
                logs_in=self.logs_in,
                pushes=self.hub is not None,
            )
        return Access()

    @contextmanager
    def runs_folder(self, named: Path) -> Iterator[Path]:
        """Yields the runs folder: `named`, or for a demo a temporary empty, read-only folder.

        So a demo shows nothing of the machine's own runs folder.
        """
        if not self.is_demo:
            yield named
            return
        folder = Path(tempfile.mkdtemp(prefix="ftlab-demo-"))
        try:
            make_read_only(folder, DEMO_REFUSAL)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def launch(
        self,
        page: gr.Blocks,
        routes: Sequence[Route] = (),
        **options: Any,
    ) -> None:
        """Serves the page in a thread, behind the gate; gradio's environment variables are ignored.

        The page must be built and its queue configured. `routes` come before gradio's own;
        `options` are passed to `Blocks.launch`. Raises `OSError` if the port is in use.
        """
        is_open = not self.logs_in and not self.is_demo  # every visitor is the operator
        limits = replace(self.limits, rate=None) if is_open else self.limits
        given = None
        if isinstance(page, NotedBlocks):
            page.people, given = self.people, page.given
        # The proxies that uvicorn trusts; by default every client on this machine.
        os.environ["FORWARDED_ALLOW_IPS"] = ",".join(self.proxies)
        page.launch(
            server_name=f"[{self.host}]" if ":" in self.host else self.host,
            server_port=self.port,
            share=self.share,
            auth=self.accounts.check if self.accounts else None,  # type: ignore[arg-type]  # awaited
            mcp_server=False,
            enable_monitoring=False,
            num_workers=0,  # further processes would serve files without the gate
            prevent_thread_lock=True,
            quiet=True,
            _frontend=False,  # otherwise launch fails if the page takes 3 s, as on a busy machine
            _app=GatedApp(
                self.gate,
                limits,
                page_calls(page),
                [*routes, *getattr(page, "own_routes", [])],
                [Middleware(NotedRefusals), Middleware(FirstPage)],
                self.people,
                given,
                self.hub,
            ),
            **options,
        )
        bound_connections(page)

    @property
    def gate(self) -> Gate:
        """The gate with the access rules of this app."""
        return Gate(
            any_host=self.logs_in or self.is_demo,
            may_upload=not self.is_demo,
            needs_login=self.logs_in,
            hub_login=self.hub is not None,
            framed=bool(self.space),
            agents=self.agents,
            body=BodyLimits(_DEMO_BODY_BYTES if self.is_demo else _BODY_BYTES),
        )


def serving(
    host: str,
    port: int,
    share: bool,
    accounts: Accounts,
    folders: tuple[Path, ...],
    proxies: tuple[str, ...],
    environment: Mapping[str, str],
    agents: NamedTokens | None = None,
    private: bool = False,
    admins: tuple[str, ...] = (),
    most_queued: int | None = MOST_QUEUED,
    hub: HubLogin | None = None,
) -> Serving:
    """Builds `Serving` from command-line values; raises `FtlabError` for a bad folder or proxy."""
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise FtlabError(
                f"--proxy {proxy} is no address; give that from which the proxy asks, as in "
                "10.0.0.5, or a network, as in 10.0.0.0/8."
            ) from None
    for folder in folders:
        if not folder.is_dir():
            raise FtlabError(f"--allow-folder {folder}: there is no such folder; name one.")
    space = environment.get("SPACE_ID", "")
    return Serving(
        host.strip("[]"),
        port,
        share,
        accounts,
        folders=tuple(folder.resolve() for folder in folders),
        space=space,
        proxies=proxies or (_SPACE_PROXIES if space else ()),
        agents=agents,
        private=private,
        admins=admins,
        most_queued=most_queued,
        hub=hub,
    )
