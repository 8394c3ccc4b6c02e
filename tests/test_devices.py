"""Devices, found without torch; NVML is a stand-in here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ftlab import devices
from ftlab.errors import FtlabError


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    devices.list_devices.cache_clear()
    yield
    devices.list_devices.cache_clear()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    fake = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}{handle}{handle}-abc",
        nvmlDeviceGetName=lambda handle: f"Card {handle}",
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(
            total=24_000_000_000, free=(5 - handle) * 1_000_000_000
        ),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(devices, "_torch_is_for_cpu", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_torch_is_for_cpu", lambda: True)
    assert [device.id for device in devices.list_devices()] == ["cpu"]
    assert devices.resolve_device("auto").id == "cpu"


@pytest.mark.usefixtures("two_gpus")
def test_every_gpu_is_listed_before_the_cpu_and_auto_is_the_first() -> None:
    assert [device.id for device in devices.list_devices()] == ["cuda:0", "cuda:1", "cpu"]
    assert devices.resolve_device("auto").label == "Card 0"
    assert devices.resolve_device("cuda").id == "cuda:0"


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        ("1", ["cuda:1", "cpu"]),
        ("", ["cpu"]),
        ("-1", ["cpu"]),
        ("GPU-111", ["cuda:1", "cpu"]),
        ("0,1", ["cuda:0", "cuda:1", "cpu"]),
    ],
)
def test_hidden_gpus_are_not_offered(
    visible: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.id for device in devices.list_devices()] == ids


def test_a_torch_that_cannot_use_a_gpu_is_not_offered_one(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_torch_is_for_cpu", lambda: True)
    assert [device.id for device in devices.list_devices()] == ["cpu"]


@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(FtlabError, match=r"no device 'cuda:5' .* devices: cuda:0, cuda:1, cpu"):
        devices.resolve_device("cuda:5")


def test_a_process_sees_only_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    devices.show_only("cuda:3")
    import os

    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


CPU = devices.Device("cpu", "CPU, 2 cores", 8 * 10**9)


@pytest.fixture
def free_on_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """6 GB, whatever this machine has."""
    memory = SimpleNamespace(available=6 * 10**9, total=8 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("device_id", "free"), [("cuda:0", 5 * 10**9), ("cuda:1", 4 * 10**9)])
def test_what_is_free_on_a_gpu_is_what_its_driver_says(device_id: str, free: int) -> None:
    assert devices.free_bytes(devices.resolve_device(device_id)) == free


@pytest.mark.usefixtures("two_gpus")
def test_a_driver_that_does_not_say_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise RuntimeError("not supported under MIG")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetMemoryInfo", refuse)
    assert devices.free_bytes(devices.Device("cuda:0", "Card 0", 24 * 10**9)) is None


@pytest.mark.usefixtures("free_on_machine")
@pytest.mark.parametrize(
    ("left", "free"), [(None, 6 * 10**9), (2 * 10**9, 2 * 10**9), (9 * 10**9, 6 * 10**9), (0, 0)]
)
def test_on_a_cpu_the_tighter_of_machine_and_container_counts(
    left: int | None, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_left_in_container", lambda: left)
    assert devices.free_bytes(CPU) == free


@pytest.mark.parametrize(
    ("limit", "used", "stat", "left"),
    [
        ("1000", "300", "anon 200\ninactive_file 50\n", 750),
        ("1000\n", "300\n", "anon 300\n", 700),
        ("1000", "1400", "inactive_file 100\n", 0),
        ("max", "300", "", None),
        ("1000", "much", "", None),
        ("1000", "300", "torn line of three\n", None),
    ],
)
def test_a_container_leaves_its_limit_less_what_cannot_be_dropped(
    limit: str, used: str, stat: str, left: int | None, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    (tmp_path / "memory.stat").write_text(stat)
    assert devices._left_in_container(tmp_path) == left


def test_without_a_container_nothing_is_known_of_it(tmp_path: Path) -> None:
    assert devices._left_in_container(tmp_path) is None
