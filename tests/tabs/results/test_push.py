"""The section "Push to the Hub" of an opened run: where it is, and whose token it uses."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records.store import Run, RunStore
from ftlab.share.bundle import Bundle
from ftlab.share.hub_uploads import HubUploads, Upload
from ftlab.tabs.results.actions import Use
from ftlab.tabs.results.push import (
    NO_LOGIN,
    NO_SCOPE,
    Push,
    default_repo,
    push_view,
    upload_html,
    wire_push,
)
from ftlab.tabs.serve import NotedBlocks
from tests.fakes import make_run
from tests.share.test_merge_process import with_adapter

NAMES = ("block", "about", "go", "said", "timer")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return with_adapter(tmp_path)


class Started(HubUploads):
    """Keeps what is started instead of uploading it."""

    def __init__(self, error: str = "") -> None:
        super().__init__()
        self.started: list[tuple[Any, ...]] = []
        self._error = error

    def start(
        self, person: str, run_id: str, bundle: Bundle, repo: str, public: bool, token: str
    ) -> None:
        if self._error:
            raise FtlabError(self._error)
        self.started.append((person, run_id, sorted(bundle.texts), repo, public, token))


def pressed(
    store: RunStore, uploads: HubUploads, run_id: str, token: gr.OAuthToken | None, **values: Any
) -> dict[str, Any]:
    """Presses the button as Ada, as gradio would; returns what is shown then."""
    with NotedBlocks() as page:
        push = Push()
        wire_push(push, gr.State(""), store, uploads)
    press = next(one.fn for one in page.fns.values() if one.name == "start")
    assert press is not None
    request = gr.Request(username="ada", session_hash="s", client={"host": "127.0.0.1"})
    given = {"repo": "ada/mine", "public": False} | values
    return dict(zip(NAMES, press(request, run_id, *given.values(), token), strict=True))


def token(scope: str = "openid profile contribute-repos") -> gr.OAuthToken:
    return gr.OAuthToken("hf_planted0001", scope, int(time.time()) + 60)


def test_the_section_is_there_only_where_people_log_in_with_hugging_face() -> None:
    with NotedBlocks() as page:
        assert Use().push is None
    assert not any(isinstance(part, gr.LoginButton) for part in page.blocks.values())
    with NotedBlocks():
        use = Use(pushes=True)
        assert use.push is not None
        assert not use.by_command.visible


def test_a_press_uploads_with_the_persons_own_token(run: Run, tmp_path: Path) -> None:
    uploads = Started()
    seen = pressed(RunStore(tmp_path), uploads, run.run_id, token(), repo=" ada/mine ", public=True)
    texts = ["README.md", "adapter_config.json"]
    assert uploads.started == [("ada", run.run_id, texts, "ada/mine", True, "hf_planted0001")]
    assert seen["said"] == ""


@pytest.mark.parametrize(
    ("given", "said"),
    [(None, NO_LOGIN), (token("openid profile"), NO_SCOPE), (token(""), NO_SCOPE)],
)
def test_without_a_token_that_may_write_a_press_says_why_and_uploads_nothing(
    given: gr.OAuthToken | None, said: str, run: Run, tmp_path: Path
) -> None:
    uploads = Started()
    seen = pressed(RunStore(tmp_path), uploads, run.run_id, given)
    assert said in seen["said"]
    assert uploads.started == []


@pytest.mark.parametrize("scope", ["contribute-repos", "openid write-repos", "manage-repos x"])
def test_each_scope_that_lets_an_app_upload_is_enough(scope: str, run: Run, tmp_path: Path) -> None:
    uploads = Started()
    pressed(RunStore(tmp_path), uploads, run.run_id, token(scope))
    assert len(uploads.started) == 1


def test_a_press_that_is_refused_says_so_beside_the_button(run: Run, tmp_path: Path) -> None:
    uploads = Started("'mine' is no repository; write OWNER/NAME.")
    seen = pressed(RunStore(tmp_path), uploads, run.run_id, token())
    assert "write OWNER/NAME" in seen["said"]
    assert seen["go"].interactive


def test_a_run_that_is_gone_or_has_no_weights_is_not_pushed(tmp_path: Path) -> None:
    base = make_run(tmp_path, "base")
    for run_id in (base.run_id, "../../etc"):
        uploads = Started()
        seen = pressed(RunStore(tmp_path), uploads, run_id, token())
        assert not seen["block"].visible
        assert uploads.started == []


def test_while_an_upload_goes_on_the_section_says_so_and_looks_again(
    run: Run, tmp_path: Path
) -> None:
    gate = Event()

    class Hub:
        def create_repo(self, *_: Any, **__: Any) -> None:
            assert gate.wait(20)
            raise FtlabError("enough")

    uploads = HubUploads(lambda token: Hub())
    store = RunStore(tmp_path)
    seen = pressed(store, uploads, run.run_id, token())
    assert "Making the repository" in seen["said"]
    assert not seen["go"].interactive
    assert seen["timer"].active
    again = dict(zip(NAMES, push_view(store, uploads, run.run_id, "ada"), strict=True))
    assert again["timer"].active
    other = dict(zip(NAMES, push_view(store, uploads, run.run_id, "bob"), strict=True))
    assert (other["said"], other["timer"].active) == ("", False)
    gate.set()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"address": "https://huggingface.co/ada/mine"}, 'href="https://huggingface.co/ada/mine"'),
        ({"wrong": "no <b>"}, "no &lt;b&gt;"),
        ({}, "Uploading 10.0 MB …"),
    ],
)
def test_the_line_says_how_an_upload_stands(change: dict[str, str], said: str) -> None:
    upload = Upload("ada/mine", time.monotonic(), "Uploading", 10_000_000, **change)
    assert said in upload_html(upload)


def test_the_repository_is_proposed_below_the_persons_name(run: Run, tmp_path: Path) -> None:
    repo = default_repo(RunStore(tmp_path), run.run_id, "ada")
    assert repo.startswith("ada/ftlab-lora-")
    assert default_repo(RunStore(tmp_path), "../x", "ada") == ""
