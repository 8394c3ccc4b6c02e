"""Devices, found without torch; NVML is a stand-in here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

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
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(total=24_000_000_000),
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
