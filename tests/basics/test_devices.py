"""Devices, found without torch; NVML is a stand-in here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from ftlab.basics import devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.torch_devices import torch_devices, way_out, why_no_kernels
from tests.fake_nvml import GB, FakeCard, use_cards


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)
    devices.list_devices.cache_clear()
    yield
    devices.list_devices.cache_clear()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [FakeCard(f"Card {i}", f"GPU-{i}{i}{i}-abc", free=(5 - i) * GB) for i in (0, 1)]
    use_cards(monkeypatch, *cards)


DIVIDED = FakeCard(
    "A100", "GPU-a100", 40 * GB, capability=(8, 0),
    instances=[FakeCard("A100 MIG 1g.5gb", f"MIG-{i}", 5 * GB, 4 * GB) for i in (0, 1)],
)  # fmt: skip
TWO = (FakeCard("Card", "GPU-000-abc"), FakeCard("Card", "GPU-111-abc"))
LOST = FakeCard("Card", "GPU-000-abc", is_lost=True)
WITH_DIVIDED = (DIVIDED, FakeCard("L4", "GPU-l4"))


@pytest.mark.parametrize(
    ("cards", "visible", "ids"),
    [
        ((), None, ["cpu"]),
        (TWO, None, ["cuda:0", "cuda:1", "cpu"]),
        (TWO, "1", ["cuda:1", "cpu"]),
        (TWO, "", ["cpu"]),
        (TWO, "-1", ["cpu"]),
        (TWO, "GPU-111", ["cuda:1", "cpu"]),
        (TWO, "0,1", ["cuda:0", "cuda:1", "cpu"]),
        (TWO, "0,-1,1", ["cuda:0", "cpu"]),
        ((LOST, TWO[1]), None, ["cuda:1", "cpu"]),
        (WITH_DIVIDED, None, ["cuda:0.0", "cuda:0.1", "cuda:1", "cpu"]),
        (WITH_DIVIDED, "MIG-1", ["cuda:0.1", "cpu"]),
        (WITH_DIVIDED, "0", ["cuda:0.0", "cuda:0.1", "cpu"]),
        (WITH_DIVIDED, "GPU-l4", ["cuda:1", "cpu"]),
    ],
)
def test_visible_gpus_and_mig_instances_are_listed_before_the_cpu_and_auto_is_the_first(
    cards: tuple[FakeCard, ...],
    visible: str | None,
    ids: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_cards(monkeypatch, *cards)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.id for device in devices.list_devices()] == ids
    assert devices.resolve_device("auto").id == ids[0]
    if ids[0] != "cpu":
        assert devices.resolve_device("cuda").id == ids[0]


def test_a_torch_that_cannot_use_a_gpu_is_not_offered_one(monkeypatch: pytest.MonkeyPatch) -> None:
    use_cards(monkeypatch, FakeCard("Card 0", "GPU-0"), built=None)
    assert [device.id for device in devices.list_devices()] == ["cpu"]


@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(FtlabError, match=r"no device 'cuda:5' .* devices: cuda:0, cuda:1, cpu"):
        devices.resolve_device("cuda:5")


@pytest.mark.parametrize(
    ("cards", "device_id", "shown"),
    [
        (TWO, "cuda:1", "GPU-111-abc"),
        ((LOST, TWO[1]), "cuda:1", "GPU-111-abc"),
        ((DIVIDED,), "cuda:0.1", "MIG-1"),
        ((), "cuda:3", "3"),
    ],
)
def test_a_process_sees_only_its_own_gpu_by_uuid_if_it_has_one(
    cards: tuple[FakeCard, ...], device_id: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cards(monkeypatch, *cards)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    devices.show_only(device_id)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == shown, "a number may be another card"
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


@pytest.mark.usefixtures("two_gpus")
def test_a_process_on_the_cpu_sees_no_gpu_and_still_knows_them() -> None:
    devices.show_only("cpu")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["HIP_VISIBLE_DEVICES"] == ""
    assert [device.id for device in devices.list_devices()] == ["cuda:0", "cuda:1", "cpu"]


@pytest.mark.parametrize(
    ("capability", "architectures", "has"),
    [
        ((7, 0), "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120", False),
        ((7, 5), "sm_75 sm_80", True),
        ((8, 9), "sm_75 sm_80 sm_86", True),
        ((9, 0), "sm_80 sm_86", False),
        ((9, 0), "sm_80 compute_80", True),
        ((12, 1), "sm_90a sm_120", True),
        ((8, 0), "", True),
    ],
)
def test_a_torch_without_kernels_for_a_card_is_said_with_both_numbers(
    capability: tuple[int, int], architectures: str, has: bool
) -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True,
        get_device_capability=lambda index: capability,
        get_arch_list=architectures.split,
    )
    torch = SimpleNamespace(version=SimpleNamespace(hip=None), cuda=cuda)
    said = why_no_kernels(torch)
    assert (said == "") == has
    if not has:
        assert f"compute capability {capability[0]}.{capability[1]}" in said
        assert "8.0, 8.6" in said
        assert "built for the card" in way_out(said)
    torch.version.hip = "6.4"
    assert why_no_kernels(torch) == "", "AMD's architectures have names of their own"


def test_a_mig_instance_has_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    use_cards(monkeypatch, DIVIDED)
    instance = devices.resolve_device("cuda:0.1")
    assert (instance.memory_bytes, devices.free_bytes(instance)) == (5 * GB, 4 * GB)
    assert instance.capability == (8, 0)


@pytest.mark.parametrize("says_nothing", [True, False])
def test_a_card_that_nvml_does_not_tell_of_is_named_by_torch(
    says_nothing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Python package is missing, or the card does not tell its memory (GB10)."""
    use_cards(monkeypatch, FakeCard("GB10", "GPU-77-0", total=None))
    if says_nothing:
        monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(devices, "has_nvidia_driver", lambda: True)
    torch_names(monkeypatch, "GB10", is_rocm=False, count=1)
    gpu = devices.resolve_device("auto")
    assert (gpu.id, gpu.label, gpu.kind) == ("cuda:0", "GB10 0", "cuda")
    assert (gpu.capability, gpu.uuid, gpu.memory_bytes) == ((12, 1), "GPU-77-0", 192 * GB)
    assert devices.free_bytes(gpu) is None


def test_where_the_kernel_has_no_driver_torch_is_not_started_to_look_for_cards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_cards(monkeypatch)
    monkeypatch.setattr(devices.subprocess, "run", None)
    assert [device.id for device in devices.list_devices()] == ["cpu"]
    assert not devices.has_nvidia_driver(tmp_path)
    (tmp_path / "dxg").touch()
    assert devices.has_nvidia_driver(tmp_path)


@pytest.mark.parametrize(
    ("order", "visible", "ids"),
    [
        (None, "0", ["cuda:0"]),
        (None, "GPU-111", ["cuda:1"]),
        ("PCI_BUS_ID", "1", ["cuda:1"]),
    ],
)
def test_an_index_of_different_cards_has_the_meaning_of_cuda(
    order: str | None, visible: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cards(monkeypatch, FakeCard("L4", "GPU-000"), FakeCard("A100", "GPU-111"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if order is not None:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", order)
    torch_names(monkeypatch, "fastest", is_rocm=False, count=1)
    found = devices.list_devices()[0]
    assert [found.id] == ids
    assert found.label.startswith("fastest") == (order is None and visible == "0")


@pytest.mark.parametrize(
    ("driver", "built", "is_too_old"),
    [(11040, "13.0", True), (12080, "12.9", False), (13000, "12.6", False), (12080, None, False)],
)
def test_a_driver_that_is_too_old_is_said_with_both_versions(
    driver: int, built: str | None, is_too_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_cards(monkeypatch, FakeCard("Card 0", "GPU-0"), cuda=driver, built=built)
    sentence = devices.why_driver_is_too_old()
    assert bool(sentence) == is_too_old
    if is_too_old:
        assert "driver 470.82 runs CUDA 11.4" in sentence
        assert "torch 2.11.0 is built for CUDA 13.0" in sentence


def test_what_torch_was_built_for_is_read_without_importing_it() -> None:
    import torch

    build = devices.torch_build()
    assert (build.version, build.cuda, build.hip) == (
        torch.__version__, torch.version.cuda, torch.version.hip,
    )  # fmt: skip


def torch_names(monkeypatch: pytest.MonkeyPatch, name: str, is_rocm: bool, count: int) -> None:
    """Has a process with torch find so many cards."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: count,
        get_device_properties=lambda i: SimpleNamespace(
            name=f"{name} {i}", total_memory=192 * GB, major=12, minor=1, uuid=f"77-{i}"
        ),
    )
    said = SimpleNamespace(stdout=f"a warning\n{json.dumps(torch_devices(cuda, is_rocm))}\n")
    monkeypatch.setattr(devices.subprocess, "run", lambda *_, **__: said)


@pytest.fixture
def two_amd_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch_build", lambda: devices.TorchBuild("2.11", hip="6.4"))
    torch_names(monkeypatch, "MI300", is_rocm=True, count=2)


@pytest.mark.usefixtures("two_amd_cards")
def test_amds_cards_are_offered_as_torch_names_them_and_marked() -> None:
    found = devices.list_devices()
    assert [device.id for device in found] == ["cuda:0", "cuda:1", "cpu"]
    assert found[0].label == "MI300 0, ROCm, not tried"
    assert (found[0].kind, found[0].memory_bytes, found[0].capability) == ("rocm", 192 * GB, None)
    assert devices.resolve_device("auto").id == "cpu", (
        "nobody tried them, so they are chosen by name"
    )
    assert devices.resolve_device("cuda:1").label.startswith("MI300 1")


@pytest.mark.usefixtures("two_amd_cards")
@pytest.mark.parametrize(("visible", "shown"), [(None, "1"), ("2,5", "5")])
def test_an_amd_card_is_shown_alone_by_its_number_among_the_visible(
    visible: str | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("HIP_VISIBLE_DEVICES", visible)
    devices.show_only("cuda:1")
    assert os.environ["HIP_VISIBLE_DEVICES"] == shown
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_an_apple_gpu_is_offered_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "torch_build", lambda: devices.TorchBuild("2.11.0"))
    monkeypatch.setattr(devices.sys, "platform", "darwin")
    monkeypatch.setattr(devices.platform, "machine", lambda: "arm64")
    gpu, cpu = devices.list_devices()
    assert (gpu.id, gpu.label, gpu.kind) == ("mps", "Apple GPU, MPS, not tried", "mps")
    assert gpu.memory_bytes == cpu.memory_bytes, "it shares the memory of the CPU"
    assert devices.resolve_device("auto") == cpu


def test_two_cards_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    use_cards(monkeypatch, FakeCard("L4", "GPU-0"), FakeCard("L4", "GPU-1"))
    labels = [label for label, _ in devices.device_choices()]
    assert labels[:2] == ["L4 (cuda:0)", "L4 (cuda:1)"]


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(("device_id", "free"), [("cuda:0", 5 * 10**9), ("cuda:1", 4 * 10**9)])
def test_what_is_free_on_a_gpu_is_what_its_driver_says(device_id: str, free: int) -> None:
    assert devices.free_bytes(devices.resolve_device(device_id)) == free


@pytest.mark.usefixtures("two_gpus")
def test_free_memory_is_unknown_if_the_driver_does_not_report_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(handle: int) -> None:
        raise RuntimeError("not supported under MIG")

    card = devices.resolve_device("cuda:0")
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetMemoryInfo", refuse)
    assert devices.free_bytes(card) is None


@pytest.mark.parametrize(
    ("left", "free"), [(None, 6 * 10**9), (2 * 10**9, 2 * 10**9), (9 * 10**9, 6 * 10**9), (0, 0)]
)
def test_free_memory_of_a_cpu_is_the_smaller_of_machine_and_container(
    left: int | None, free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = SimpleNamespace(available=6 * 10**9, total=8 * 10**9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(devices, "_left_in_container", lambda: left)
    assert devices.free_bytes(devices.Device("cpu", "CPU", 8 * 10**9)) == free


@pytest.mark.parametrize(
    ("limit", "used", "stat", "left"),
    [
        ("1000", "300", "anon 200\ninactive_file 50\n", 750),
        ("1000\n", "300\n", "anon 300\n", 700),
        ("1000", "1400", "inactive_file 100\n", 0),
        ("max", "300", "", None),
        ("1000", "much", "", None),
        ("1000", "300", "torn line of three\n", None),
        (None, "300", "", None),
    ],
)
def test_memory_left_in_a_container_counts_file_pages_as_free(
    limit: str | None, used: str, stat: str, left: int | None, tmp_path: Path
) -> None:
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    (tmp_path / "memory.stat").write_text(stat)
    assert devices._left_in_container(tmp_path) == left


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process")
def test_a_process_that_torch_binds_to_one_core_still_counts_all_it_may_use() -> None:
    """As `OMP_PROC_BIND` has it: torch's library binds the thread that imports it."""
    code = """
import os
os.sched_setaffinity(0, range(os.cpu_count()))
before = len(os.sched_getaffinity(0))
from ftlab.basics.devices import cpu_count
from ftlab.models.libraries import prepare_for_libraries
prepare_for_libraries("cpu")
import torch
print(cpu_count(), before)
"""
    environment = os.environ | {"OMP_PROC_BIND": "true"}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True,
        timeout=120,
    )  # fmt: skip
    counted, usable = found.stdout.split()
    assert counted == usable
