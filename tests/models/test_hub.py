"""Whether the Hub, and a model on it, can be reached, and which requests are never made."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from ftlab.models.hub import HubReach
from ftlab.models.resolve import ModelReach, why_out_of_reach
from tests.hub_server import Hub, publish, serving


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


class Asked:
    """Answers as it is told, and counts the questions."""

    def __init__(self, answer: bool = True) -> None:
        self.answer, self.asked = answer, 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> bool:
        self.asked += 1
        self.may_answer.wait(10)
        return self.answer


@pytest.mark.parametrize("answer", [True, False])
def test_however_many_ask_the_hub_is_asked_once(answer: bool) -> None:
    hub = Asked(answer)
    reach, said = HubReach(hub), list[bool]()
    threads = [threading.Thread(target=lambda: said.append(reach.is_reached())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [answer] * 5
    assert reach.is_reached() == answer
    assert hub.asked == 1


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_a_machine_that_is_offline_never_asks(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    hub = Asked()
    assert HubReach(hub).is_reached() is False
    assert hub.asked == 0


def test_no_caller_waits_longer_than_its_timeout_and_a_late_answer_counts() -> None:
    hub = Asked()
    hub.may_answer.clear()
    reach, began = HubReach(hub), time.monotonic()
    assert reach.is_reached(wait_seconds=0.05) is False
    assert time.monotonic() - began < 5
    hub.may_answer.set()
    assert reach.is_reached() is True
    assert hub.asked == 1


NAME = "tiny/llama"


@pytest.fixture
def hub(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that this very process asks, with a cache of its own."""
    with serving(Hub({NAME: publish(tiny_model, tmp_path / "published")})) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


def test_a_model_of_the_hub_can_be_had_and_nothing_of_it_is_fetched(
    hub: Hub, tmp_path: Path
) -> None:
    assert why_out_of_reach(NAME) == ""
    assert not [asked for asked in hub.requests if "safetensors" in asked]
    assert not (tmp_path / "cache").exists()


def test_a_model_that_the_hub_does_not_have_is_refused_in_a_sentence(hub: Hub) -> None:
    assert "The Hub has no model 'tiny/lama'" in why_out_of_reach("tiny/lama")


def test_a_model_without_safetensors_is_refused_before_it_is_fetched(
    hub: Hub, tmp_path: Path
) -> None:
    for file in (tmp_path / "published").glob("*.safetensors"):
        file.unlink()
    assert "has no safetensors weights" in why_out_of_reach(NAME)


def test_a_hub_out_of_reach_is_said_with_the_way_out(hub: Hub) -> None:
    hub.is_gone = True
    said = why_out_of_reach(NAME)
    assert "could not be reached" in said
    assert said.endswith("a local folder, or a machine with a way to the Hub.")


@pytest.mark.parametrize("model", ["bundled", "no model at all", "/nowhere"])
def test_no_request_is_made_for_a_name_that_is_no_hub_model(hub: Hub, model: str) -> None:
    assert why_out_of_reach(model) == ""
    assert hub.requests == []


def test_no_request_is_made_for_a_cached_model(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(NAME, cache_dir=tmp_path / "cache", endpoint=hub.address)
    hub.requests.clear()
    assert why_out_of_reach(NAME) == ""
    assert hub.requests == []


def test_an_answer_is_kept_a_refusal_only_for_seconds() -> None:
    asked: list[str] = []
    now = [0.0]
    answers = {"a/there": "", "a/gone": "It cannot be had."}

    def ask(model: str) -> str:
        asked.append(model)
        return answers[model]

    models = ModelReach(ask, lambda: now[0])
    assert models.known("a/there") is None
    for model in (*answers, *answers):
        assert models.why_not(model) == models.known(model) == answers[model]
    assert asked == [*answers]
    now[0] = 60.0
    assert (models.known("a/there"), models.known("a/gone")) == ("", None)
    now[0] = 599.0
    assert models.known("a/there") == ""
    now[0] = 601.0
    assert models.known("a/there") is None
    answers["a/gone"] = ""
    assert models.why_not("a/gone") == ""


def test_only_the_last_few_answers_are_kept() -> None:
    models = ModelReach(lambda model: "")
    for number in range(200):
        models.why_not(f"a/{number}")
    assert models.known("a/0") is None
    assert models.known("a/199") == ""
