"""How the app is served, and to whom: on loopback to its operator, elsewhere behind a login."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import Route

from ftlab.access import DEMO_CLOSED, Access, demo_access
from ftlab.errors import FtlabError
from ftlab.runs.closed import close_folder
from ftlab.runs.control import control_folder
from ftlab.ui.accounts import VARIABLE, Accounts
from ftlab.ui.bodies import BodyLimits
from ftlab.ui.calls import page_calls
from ftlab.ui.connections import bound_connections
from ftlab.ui.gate import Gate, GatedApp, Limits
from ftlab.ui.server import NotedRefusals

_NOT_ALONE = (
    "would let anybody who reaches {where} start runs and read files here; give users and "
    f"passwords with --auth FILE or {VARIABLE}=user:password."
)


_BODY_BYTES = 4 * 2**20
"""Of what is not an upload: a form, with room for pasted text."""

_DEMO_BODY_BYTES = 2**20
"""A model's config.json is the longest text that can be pasted in a demo."""

_SPACE_PROXIES = ("10.0.0.0/8",)
"""The network from which the Hub's own proxy asks a Space; nobody else reaches it."""


@dataclass(frozen=True)
class Serving:
    """Where the app is reached, who logs in, which local folders may be named.

    `space` is the id of the Hugging Face Space that it runs in, "" elsewhere. `proxies` are the
    addresses and networks whose word on where a request comes from is taken (X-Forwarded-For).
    """

    host: str = "127.0.0.1"
    port: int = 7860
    share: bool = False
    accounts: Accounts = field(default_factory=Accounts)
    folders: tuple[Path, ...] = ()
    space: str = ""
    proxies: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    @property
    def is_demo(self) -> bool:
        """A Space without a login: whoever comes may look, and nothing more."""
        return bool(self.space) and not self.accounts

    @property
    def is_public(self) -> bool:
        """Whether others than the people of this machine can reach it."""
        return self.share or not is_loopback(self.host)

    def check(self) -> None:
        """Raises `FtlabError` for an app that would be open to strangers."""
        if self.accounts or self.is_demo or not self.is_public:
            return
        what = "--share" if self.share else f"--host {self.host}"
        where = "its public link" if self.share else "that address"
        raise FtlabError(f"{what} without a login {_NOT_ALONE.format(where=where)}")

    def access(self, runs_folder: Path) -> Access:
        """What its visitors may do. Behind a login they are not taken for the operator."""
        if self.is_demo:
            return demo_access(self.space)
        if self.accounts or self.folders:
            uploads = control_folder(runs_folder) / "uploads"
            logs_in = bool(self.accounts)
            return Access(folders=self.folders, uploads=uploads, logs_in=logs_in)
        return Access()

    @contextmanager
    def runs_folder(self, named: Path) -> Iterator[Path]:
        """The folder that is served: the one named, but for a demo an empty one that is closed.

        So a demo shows nothing of what lies in the machine's own runs folder.
        """
        if not self.is_demo:
            yield named
            return
        folder = Path(tempfile.mkdtemp(prefix="ftlab-demo-"))
        try:
            close_folder(folder, DEMO_CLOSED)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def launch(
        self,
        page: gr.Blocks,
        routes: Sequence[Route] = (),
        **options: Any,
    ) -> None:
        """Serves the page in a thread, behind the gate. Nothing is left to gradio's own variables.

        The page is built, and its queue open. `routes` come before gradio's own, and `options` are
        further ones of `Blocks.launch`. Raises `OSError` if the port is taken.
        """
        is_open = not self.accounts and not self.is_demo  # whoever reaches it is its operator
        limits = replace(self.limits, rate=None) if is_open else self.limits
        # What uvicorn takes for proxies, by default whoever asks from this machine.
        os.environ["FORWARDED_ALLOW_IPS"] = ",".join(self.proxies)
        page.launch(
            server_name=f"[{self.host}]" if ":" in self.host else self.host,
            server_port=self.port,
            share=self.share,
            auth=self.accounts.check if self.accounts else None,  # type: ignore[arg-type]  # awaited
            mcp_server=False,
            enable_monitoring=False,
            num_workers=0,  # further processes would serve files beside the gate
            prevent_thread_lock=True,
            quiet=True,
            _frontend=False,  # else it fails where the page takes 3 s, as on a busy machine
            _app=GatedApp(self.gate, limits, page_calls(page), routes, [Middleware(NotedRefusals)]),
            **options,
        )
        bound_connections(page)

    @property
    def gate(self) -> Gate:
        """What is let through to the app that is so served."""
        return Gate(
            any_host=bool(self.accounts) or self.is_demo,
            may_upload=not self.is_demo,
            needs_login=bool(self.accounts),
            framed=bool(self.space),
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
) -> Serving:
    """The serving of a command line; raises `FtlabError` if a listed folder or proxy is none."""
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
    )


def is_loopback(host: str) -> bool:
    """Whether every address of that name is this machine's own, out of reach for others."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError):
        return False
    return all(_is_own(str(address[0])) for *_, address in found)


def _is_own(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)
