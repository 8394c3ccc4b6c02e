"""Whether the Hub can be reached: asked once, in the background, and never where it must not be."""

from __future__ import annotations

import threading
import time

import pytest

from ftlab.models.hub import HubReach


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


class Hub:
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
    hub = Hub(answer)
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
    hub = Hub()
    assert HubReach(hub).is_reached() is False
    assert hub.asked == 0


def test_nobody_waits_longer_than_he_will_and_an_answer_that_comes_late_counts() -> None:
    hub = Hub()
    hub.may_answer.clear()
    reach, began = HubReach(hub), time.monotonic()
    assert reach.is_reached(wait_seconds=0.05) is False
    assert time.monotonic() - began < 5
    hub.may_answer.set()
    assert reach.is_reached() is True
    assert hub.asked == 1
