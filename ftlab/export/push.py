"""What a run learnt, uploaded to the Hugging Face Hub.

The token comes from the environment alone. It is handed to huggingface_hub and to nothing else,
and taken out of whatever an error says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ftlab.errors import FtlabError, one_line
from ftlab.export.bundle import Bundle, laid_out
from ftlab.models.reference import is_owned_hub_id

TOKEN = "HF_TOKEN"


class HubApi(Protocol):
    """What is asked of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def repo_info(self, repo_id: str) -> Any: ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any: ...


def hub_api(token: str) -> HubApi:
    from huggingface_hub import HfApi

    api: Any = HfApi(token=token)
    return api


def token_of(environment: Mapping[str, str] = os.environ) -> str:
    """Raises `FtlabError` without one."""
    token = environment.get(TOKEN, "").strip()
    if not token:
        raise FtlabError(
            f"There is no token in the environment: set {TOKEN} to one of yours that may write "
            "(huggingface.co/settings/tokens); it is asked for nowhere else."
        )
    return token


def check_repo(repo: str) -> str:
    """The name; raises `FtlabError` unless it is OWNER/NAME."""
    if not is_owned_hub_id(repo):
        raise FtlabError(f"'{repo[:120]}' is no repository; write OWNER/NAME.")
    return repo


def push(bundle: Bundle, repo: str, public: bool, token: str, api: HubApi | None = None) -> str:
    """Uploads the bundle's files and gives the repository's address.

    A repository is made private unless `public`. One that is there already keeps its visibility,
    so a public one is refused unless `public`. Raises `FtlabError` for whatever the Hub refuses.
    """
    check_repo(repo)
    try:
        api = hub_api(token) if api is None else api
        api.create_repo(repo, private=not public, exist_ok=True)
        if not public and api.repo_info(repo).private is False:
            raise FtlabError(
                f"{repo} is there already and public, so whatever is uploaded can be read by all; "
                "say --public if that is meant, or name another."
            )
        with laid_out(bundle) as folder:
            _upload(api, repo, folder)
    except FtlabError:
        raise
    except Exception as error:
        said = one_line(error).replace(token, "…")[:300]
        raise FtlabError(
            f"{repo} could not be uploaded: {said} Check the name, that the token may write, and "
            "the way to the Hub."
        ) from None
    return f"https://huggingface.co/{repo}"


def _upload(api: HubApi, repo: str, folder: Path) -> None:
    api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload with ftlab")
