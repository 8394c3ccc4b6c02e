"""Uploads that the page starts: what arrives, what is refused, and where the token is not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from huggingface_hub import HfApi

from ftlab.basics.errors import FtlabError
from ftlab.share.bundle import Bundle
from ftlab.share.hub_uploads import HubUploads, Upload
from tests.hub_people import TOKEN, PeopleHub
from tests.hub_server import Hub, serving
from tests.waiting import wait_until

RUN = "20261125-120000-ab12-01-lora"


@pytest.fixture
def people(monkeypatch: pytest.MonkeyPatch) -> Iterator[PeopleHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with serving(Hub()) as hub:
        yield PeopleHub(hub)


@pytest.fixture
def uploads(people: PeopleHub) -> HubUploads:
    return HubUploads(lambda token: HfApi(endpoint=people.hub.address, token=token))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    return Bundle("ftlab-lora", {"README.md": "# A card"}, {weights.name: weights})


def ended(uploads: HubUploads, person: str = "ada") -> Upload:
    wait_until(lambda: (found := uploads.of(person, RUN)) is not None and found.is_over)
    found = uploads.of(person, RUN)
    assert found is not None
    return found


def test_a_new_repository_is_private_and_gets_what_the_zip_holds_with_the_persons_token(
    people: PeopleHub, uploads: HubUploads, bundle: Bundle
) -> None:
    uploads.start("ada", RUN, bundle, "ada/mine", False, TOKEN)
    upload = ended(uploads)
    assert (upload.address, upload.wrong) == ("https://huggingface.co/ada/mine", "")
    files = {"README.md": b"# A card", "adapter_model.safetensors": b"weights"}
    assert people.repos == {"ada/mine": (True, files)}
    assert people.seen == {f"Bearer {TOKEN}"}


def test_nothing_goes_to_a_repository_that_is_public_already_unless_that_is_ticked(
    people: PeopleHub, uploads: HubUploads, bundle: Bundle
) -> None:
    people.repos["ada/mine"] = (False, {})
    uploads.start("ada", RUN, bundle, "ada/mine", False, TOKEN)
    assert "is public, so everybody could read the upload; tick public" in ended(uploads).wrong
    assert people.repos["ada/mine"] == (False, {})
    uploads.start("ada", RUN, bundle, "ada/mine", True, TOKEN)
    assert ended(uploads).address
    assert people.repos["ada/mine"][1]


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "does not accept your login (401)"),
        (403, "may not write to ada/mine (403)"),
        (404, "The Hub has no ada/mine that your login may write to (404)"),
        (400, "The Hub does not take the upload to ada/mine now: "),
    ],
)
def test_what_the_hub_refuses_is_one_sentence_without_the_token(
    status: int, said: str, people: PeopleHub, uploads: HubUploads, bundle: Bundle
) -> None:
    people.refuses = status
    uploads.start("ada", RUN, bundle, "ada/mine", False, TOKEN)
    wrong = ended(uploads).wrong
    assert said in wrong
    assert TOKEN not in wrong
    assert "Traceback" not in wrong
    assert bundle.files["adapter_model.safetensors"].read_bytes() == b"weights"


def test_a_hub_that_cannot_be_reached_is_one_sentence(bundle: Bundle) -> None:
    uploads = HubUploads(lambda token: HfApi(endpoint="http://127.0.0.1:9", token=token))
    uploads.start("ada", RUN, bundle, "ada/mine", False, TOKEN)
    said = ended(uploads).wrong
    assert said.startswith("The Hub does not take the upload to ada/mine now: ")
    assert "refused" in said.lower()
    assert "\n" not in said


@pytest.mark.parametrize("repo", ["mine", "a/b/c", "../x", "", "https://x/y"])
def test_a_name_that_is_no_repository_starts_nothing(
    repo: str, people: PeopleHub, uploads: HubUploads, bundle: Bundle
) -> None:
    with pytest.raises(FtlabError, match="write OWNER/NAME"):
        uploads.start("ada", RUN, bundle, repo, False, TOKEN)
    assert uploads.of("ada", RUN) is None
    assert not people.seen


class Waiting:
    """A Hub that waits until it is told to go on."""

    def __init__(self) -> None:
        self.go_on = Event()

    def create_repo(self, *_: Any, **__: Any) -> None:
        assert self.go_on.wait(20)
        raise FtlabError("enough")


@pytest.fixture
def waiting(bundle: Bundle) -> Iterator[Callable[[str], None]]:
    """Starts an upload of that person, which goes on until the test ends."""
    hub = Waiting()
    uploads = HubUploads(lambda token: hub)
    people: list[str] = []

    def start(person: str) -> None:
        uploads.start(person, RUN, bundle, f"{person}/mine", False, TOKEN)
        people.append(person)

    yield start
    hub.go_on.set()
    assert {ended(uploads, person).wrong for person in people} == {"enough"}


def test_a_person_uploads_one_run_at_a_time(waiting: Callable[[str], None]) -> None:
    waiting("ada")
    with pytest.raises(FtlabError, match="You are uploading already"):
        waiting("ada")
    waiting("bob")


def test_four_people_upload_at_once_and_the_next_is_told_to_wait(
    waiting: Callable[[str], None],
) -> None:
    for person in ("ada", "bob", "cleo", "dan"):
        waiting(person)
    with pytest.raises(FtlabError, match="4 uploads are going on"):
        waiting("eve")


def test_nobody_sees_the_upload_of_another(uploads: HubUploads, bundle: Bundle) -> None:
    uploads.start("ada", RUN, bundle, "ada/mine", False, TOKEN)
    ended(uploads)
    assert uploads.of("bob", RUN) is None


@pytest.mark.hostile("planted tokens")
def test_no_token_is_kept_when_an_upload_is_over(uploads: HubUploads, bundle: Bundle) -> None:
    token = f"{TOKEN}-of-this-test"
    uploads.start("ada", RUN, bundle, "ada/mine", False, token)
    wait_until(lambda: (found := uploads.of("ada", RUN)) is not None and found.is_over)
    assert token not in str(vars(uploads))
    wait_until(lambda: not holders(token))


def holders(token: str) -> list[Any]:
    """The clients of the Hub that still hold it."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, HfApi) and one.token == token]
