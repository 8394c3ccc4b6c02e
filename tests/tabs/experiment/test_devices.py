"""What the page shows of a machine with several GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftlab.basics import devices
from ftlab.basics.locks import DeviceLock
from ftlab.methods.registry import look_of
from ftlab.records.store import RunStore
from ftlab.tabs import header
from ftlab.tabs.experiment.devices import devices_html, look_at_devices
from ftlab.tabs.experiment.queue import NEWEST, QueueWatch
from tests.fake_nvml import GB, FakeCard, use_cards
from tests.fakes import make_run

CARDS = (
    FakeCard("Card", "GPU-000", free=4 * GB, load=97),
    FakeCard("Card", "GPU-111", free=24 * GB),
    FakeCard("Card", "GPU-222", free=23 * GB, load=5),
)


@pytest.fixture(autouse=True)
def three_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.list_devices.cache_clear()
    use_cards(monkeypatch, *CARDS)
    yield
    devices.list_devices.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """One run goes on, on the first card."""
    folder = tmp_path / "runs"
    make_run(folder, "lora", status="running", device="cuda:0")
    return RunStore(folder)


def test_each_card_is_shown_with_its_run_its_memory_and_its_load(store: RunStore) -> None:
    held = DeviceLock("cuda:2")
    assert held.try_acquire()
    views = look_at_devices(store.runs(), devices.list_devices())
    assert [(view.device.id, view.is_used, view.load) for view in views] == [
        ("cuda:0", True, 97), ("cuda:1", False, 0), ("cuda:2", True, 5),
    ]  # fmt: skip
    busy, free, elsewhere = devices_html(views).split("</li>")[:3]
    assert "LoRA" in busy
    assert look_of("lora").colour in busy
    assert "20.0 of 24.0 GB" in busy
    assert "97\u2009%" in busy
    assert "free" in free
    assert "in use elsewhere" in elsewhere


def test_the_queue_shows_the_cards_and_tells_a_page_when_they_change(store: RunStore) -> None:
    watch = QueueWatch(store)
    shown = watch.look(NEWEST)
    assert shown.devices.count("<li>") == 3
    news = watch.poll({"sweep": NEWEST})
    tag, html = news.html["devices"]
    assert html == shown.devices
    assert "devices" not in watch.poll({"sweep": NEWEST, "devices": tag}).html


def test_the_bar_at_the_top_counts_the_memory_of_all_like_cards(store: RunStore) -> None:
    bar = header.header_html(store.runs())
    assert "3 × Card" in bar
    assert "51.0 GB<small> free of 72.0" in bar


@pytest.mark.parametrize("cards", [(), CARDS[:1]], ids=["no card", "one card"])
def test_a_machine_with_fewer_than_two_cards_shows_no_list(
    cards: tuple[FakeCard, ...], store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.list_devices.cache_clear()
    use_cards(monkeypatch, *cards)
    assert devices_html(look_at_devices(store.runs(), devices.list_devices())) == ""
