"""Uploads to the Hub that the page starts, each in a thread, with the token of who asked for it.

The thread is the only holder of the token while it uploads; nothing else keeps it. An upload goes
on when its page is closed, and not when the app ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.log import note
from ftlab.basics.recent import Recent
from ftlab.jobs.launchers.hub_errors import hub_errors
from ftlab.share.bundle import (
    Bundle,
    check_repo,
    hub_api,
    make_repo,
    repo_address,
    upload_files,
)

_MOST_AT_ONCE = 4
_MOST_REMEMBERED = 1_000
_ABOUT_LOGIN = "log out, log in with Hugging Face again, and push once more"


@dataclass(frozen=True)
class Upload:
    """One upload: it is going on until it has an `address`, or `wrong` says why it has none."""

    repo: str
    began: float
    stage: str
    bytes: int
    address: str = ""
    wrong: str = ""

    @property
    def is_over(self) -> bool:
        return bool(self.address or self.wrong)


class HubUploads:
    """The uploads of one app by person and run: one a person at a time, four in all.

    `api` makes a `huggingface_hub.HfApi` of a token.
    """

    def __init__(self, api: Callable[[str], Any] = hub_api) -> None:
        self._api = api
        self._uploads: Recent[tuple[str, str], Upload] = Recent(_MOST_REMEMBERED)
        self._turn = threading.Lock()

    def of(self, person: str, run_id: str) -> Upload | None:
        """The latest upload of that run by that person."""
        return self._uploads.get((person, run_id))

    def start(
        self, person: str, run_id: str, bundle: Bundle, repo: str, public: bool, token: str
    ) -> None:
        """Starts an upload. Raises `FtlabError` if it may not begin now, or not to that name."""
        check_repo(repo)
        size = sum(path.stat().st_size for path in bundle.files.values())
        with self._turn:
            going = [who for (who, _), one in list(self._uploads.items()) if not one.is_over]
            if person in going:
                raise FtlabError("You are uploading already; push the next run when that is done.")
            if len(going) >= _MOST_AT_ONCE:
                raise FtlabError(
                    f"{len(going)} uploads are going on, as many as this app does at once; push "
                    "again in a minute."
                )
            upload = Upload(repo, time.monotonic(), "Making the repository", size)
            self._uploads[person, run_id] = upload

        def keep(new: Upload) -> None:
            with self._turn:
                self._uploads[person, run_id] = new

        def work() -> None:
            keep(self._done(upload, bundle, public, token, keep))

        threading.Thread(target=work, daemon=True, name="hub-upload").start()

    def _done(
        self,
        upload: Upload,
        bundle: Bundle,
        public: bool,
        token: str,
        say: Callable[[Upload], None],
    ) -> Upload:
        repo = upload.repo
        try:
            with hub_errors(f"take the upload to {repo}", token, _refusals(repo)):
                api = self._api(token)
                make_repo(repo, public, api, "tick public")
                say(replace(upload, stage="Uploading"))
                upload_files(bundle, repo, api)
        except FtlabError as error:
            note("upload failed", status=getattr(error, "code", None) or 0)
            return replace(upload, wrong=str(error))
        return replace(upload, address=repo_address(repo))


def _refusals(repo: str) -> dict[int, str]:
    """What the Hub's refusals mean for somebody who is logged in with Hugging Face, by status."""
    return {
        401: f"The Hub does not accept your login (401), which has expired or was withdrawn; "
        f"{_ABOUT_LOGIN}.",
        403: f"Your login may not write to {repo} (403); name a repository of your own that this "
        f"app made or makes, or {_ABOUT_LOGIN}, allowing what it asks for.",
        404: f"The Hub has no {repo} that your login may write to (404); name another repository.",
        429: "The Hub takes no more requests of yours just now (429); push again in some minutes.",
    }
