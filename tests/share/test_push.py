"""Uploading to the Hub, with a fake of its API: what goes there, and where the token does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftlab.__main__ import main
from ftlab.basics.errors import FtlabError
from ftlab.commands import push as command
from ftlab.share import bundle as pushing
from ftlab.share.bundle import Bundle, check_repo, push, token_of

SECRET = "hf_planted_aBcDeF0123456789"


class FakeHub:
    """Keeps what it is asked; `private` is what it says of the repository afterwards."""

    def __init__(self, private: bool = True, error: Exception | None = None) -> None:
        self.created: dict[str, Any] = {}
        self.uploaded: dict[str, bytes] = {}
        self._private = private
        self._error = error

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.created = {"repo": repo_id} | options

    def repo_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=self._private)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        if self._error:
            raise self._error
        self.uploaded = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    return Bundle("ftlab-lora", {"README.md": "# A card"}, {weights.name: weights})


def test_a_repository_is_private_and_gets_what_the_zip_holds(bundle: Bundle) -> None:
    hub = FakeHub()
    address = push(bundle, "me/mine", public=False, token=SECRET, api=hub)
    assert address.endswith("/me/mine")
    assert hub.created == {"repo": "me/mine", "private": True, "exist_ok": True}
    assert hub.uploaded == {"README.md": b"# A card", "adapter_model.safetensors": b"weights"}


def test_nothing_goes_to_a_repository_that_is_public_already_unless_that_is_meant(
    bundle: Bundle,
) -> None:
    hub = FakeHub(private=False)
    with pytest.raises(FtlabError, match="exists already and is public"):
        push(bundle, "me/mine", public=False, token=SECRET, api=hub)
    assert not hub.uploaded
    push(bundle, "me/mine", public=True, token=SECRET, api=hub)
    assert hub.created["private"] is False
    assert hub.uploaded


def test_an_error_that_holds_the_token_is_said_without_it(bundle: Bundle) -> None:
    hub = FakeHub(error=RuntimeError(f"401 for Bearer {SECRET}"))
    with pytest.raises(FtlabError, match="401 for Bearer") as caught:
        push(bundle, "me/mine", public=False, token=SECRET, api=hub)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_token_is_in_no_output_and_in_no_file(
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hub, given = FakeHub(), []
    monkeypatch.setenv("HF_TOKEN", f" {SECRET}\n")
    monkeypatch.setattr(command, "any_run", lambda folder, run: None)
    monkeypatch.setattr(command, "run_bundle", lambda run, merged: bundle)
    monkeypatch.setattr(pushing, "hub_api", lambda token: given.append(token) or hub)
    assert main(["push", "a-run", "--repo", "me/mine"]) == 0
    assert given == [SECRET]
    said = capfd.readouterr()
    assert "me/mine" in said.out
    assert SECRET not in said.out + said.err
    assert all(SECRET.encode() not in data for data in hub.uploaded.values())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(SECRET.encode() not in path.read_bytes() for path in files)


def test_without_a_token_one_sentence_says_where_it_comes_from() -> None:
    with pytest.raises(FtlabError, match="set HF_TOKEN"):
        token_of({"HF_TOKEN": " "})


@pytest.mark.parametrize("repo", ["mine", "a/b/c", "../x", "a/..", "", "https://x/y"])
def test_a_name_that_is_no_repository_is_refused(repo: str) -> None:
    with pytest.raises(FtlabError, match="write OWNER/NAME"):
        check_repo(repo)
