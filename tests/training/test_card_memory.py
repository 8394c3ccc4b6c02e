"""What is free on a GPU for a run, with a card and a driver that are stand-ins."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError, NotEnoughMemory
from ftlab.basics.nvml import Process
from ftlab.jobs.launch import plan_sweep
from ftlab.prediction import of_run as prediction_module
from ftlab.prediction.of_run import with_remedies
from ftlab.records.result import Measures, PhaseMeasure, RunResult
from ftlab.records.spec import RunSpec
from ftlab.tasks.order import BatchSize
from ftlab.training import memory_limit
from ftlab.training.failures import explain, is_device_fault
from ftlab.training.memory import CardMemory, card_memory, check_room, least_bytes
from ftlab.training.meters import device_uuid
from ftlab.training.model import torch_device
from tests.training.one_run import request

GB = 1_000_000_000
DEVICE = torch.device("cuda", 0)


def card(free: int, reserved: int = 0, others: tuple[Process, ...] = ()) -> CardMemory:
    """A card of 24 GB as torch and its driver would show it."""
    cuda = SimpleNamespace(
        mem_get_info=lambda device: (free, 24 * GB),
        memory_reserved=lambda device: reserved,
        get_device_name=lambda device: "NVIDIA L4",
        get_device_properties=lambda device: SimpleNamespace(uuid="1234"),
    )
    asked: list[str] = []

    def processes(uuid: str) -> list[Process]:
        asked.append(uuid)
        return [Process(os.getpid(), GB), *others]

    found = card_memory(DEVICE, cuda, SimpleNamespace(processes=processes))
    assert asked == ["GPU-1234"]
    return found


def test_what_torch_keeps_unused_counts_as_free_and_the_context_as_its_own() -> None:
    memory = card(free=20 * GB, reserved=3 * GB)
    assert memory.room == 23 * GB
    assert memory.others == 500_000_000
    assert memory.sentence == "Other processes hold 500 MB of the card's 24.00 GB; " + (
        "end them, or choose another device."
    )
    assert card(free=23_400_000_000).sentence == "", "a little is a desktop's, or nobody's"


def test_others_are_named_the_largest_first() -> None:
    memory = card(10 * GB, 0, (Process(7, GB), Process(8, 12 * GB), Process(9, None)))
    assert memory.others == 13_500_000_000
    assert "hold 13.50 GB" in memory.sentence
    assert "(process 8: 12.00 GB, process 7: 1.00 GB)" in memory.sentence


@pytest.fixture
def spec(tiny_model: Path, task_file: Path) -> RunSpec:
    return plan_sweep(request(tiny_model, task_file, "full", "lora", "qlora"))[-3]


def test_the_least_that_a_run_holds_is_its_weights_and_what_they_learn_with(spec: RunSpec) -> None:
    assert spec.label == "Full fine-tuning"
    least = least_bytes(spec)
    assert least is not None
    assert least % 16 == 0, "fp32: weights, gradients and two moments"
    bf16 = least_bytes(replace(spec, dtype_policy="bf16"))
    assert bf16 == least // 2
    base = least_bytes(replace(spec, variant=None))
    assert base == least // 4
    assert least_bytes(replace(spec, variant=None, base_precision="nf4")) == base // 8
    assert least_bytes(replace(spec, model="nobody/nothing")) is None


def test_a_run_without_room_is_refused_before_it_loads_with_the_numbers(spec: RunSpec) -> None:
    least = least_bytes(spec)
    assert least is not None
    check_room(spec, card(free=20 * GB))
    crowded = card(free=least - 1, others=(Process(8, 12 * GB),))
    with pytest.raises(NotEnoughMemory) as raised:
        check_room(spec, crowded)
    status, sentence = explain(raised.value, "")
    assert status == "out_of_memory"
    assert "Not started: " in sentence
    assert "of 24.00 GB are to be had on NVIDIA L4" in sentence
    assert "weights, gradients and optimizer state of Full fine-tuning alone take" in sentence
    assert "process 8: 12.00 GB" in sentence
    with pytest.raises(NotEnoughMemory, match="base in 4 bits"):
        check_room(spec, CardMemory("NVIDIA L4", 24 * GB, least - 1, 0))
    with pytest.raises(NotEnoughMemory, match="Not started"):
        check_room(replace(spec, memory_limit=least - 1), card(free=20 * GB))


@pytest.fixture
def on_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of whose memory others hold."""
    device = Device("cuda:0", "NVIDIA L4", 24 * GB, "GPU-1234", (8, 9))
    monkeypatch.setattr(prediction_module, "resolve_device", lambda name: device)
    memory = card(free=12 * GB, others=(Process(8, 11 * GB),))
    monkeypatch.setattr(prediction_module, "card_memory", lambda device: memory)


@pytest.mark.usefixtures("on_a_card")
def test_advice_after_an_out_of_memory_counts_what_others_hold(
    spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[int] = []

    def remedies(question: Any, room: int, ask: Any) -> str:
        rooms.append(room)
        return "Something fits."

    monkeypatch.setattr(prediction_module, "predicted_remedies", remedies)
    failed = RunResult("out_of_memory", "", Measures(steps_done=1), {"train": PhaseMeasure(1.0)})
    told = with_remedies(failed, replace(spec, device="cuda:0"), "train", BatchSize(4, 64, 80))
    assert rooms == [12 * GB], "not the whole card"
    assert "in step 2 of 3. Other processes hold 11.50 GB of the card's 24.00 GB" in told.reason
    assert told.reason.endswith("Something fits.")


@pytest.mark.usefixtures("on_a_card")
def test_a_run_that_ran_out_while_it_was_scored_says_that_its_weights_are_there(
    spec: RunSpec,
) -> None:
    told = with_remedies(RunResult("out_of_memory"), spec, "evaluate", None)
    assert "in the evaluate phase" in told.reason
    assert told.reason.endswith("What it trained was saved before, and can be exported.")


ILLEGAL = RuntimeError(
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call"
)


def test_an_illegal_access_on_a_gpu_is_no_want_of_memory() -> None:
    assert is_device_fault(ILLEGAL)
    assert not memory_limit.is_met(1, ILLEGAL, "cuda:0"), "the host's size says nothing of a card"
    assert memory_limit.is_met(1, RuntimeError("could not create a primitive"), "cpu")
    status, sentence = explain(ILLEGAL, "train")
    assert status == "failed"
    assert "an illegal memory access was encountered. Memory is not the cause" in sentence
    assert "asynchronously" not in sentence


@pytest.mark.parametrize(
    ("said", "way_out"),
    [
        (
            "no kernel image is available for execution on the device",
            "install a torch that is built for the card",
        ),
        (
            "CUDA-capable device(s) is/are busy or unavailable",
            "end the process that has the card to itself",
        ),
    ],
)
def test_a_card_that_computes_nothing_from_the_start_has_its_own_way_out(
    said: str, way_out: str
) -> None:
    status, sentence = explain(RuntimeError(f"CUDA error: {said}\nmore"), "load")
    assert status == "failed"
    assert sentence.startswith(f"The GPU cannot be used in the load phase: CUDA error: {said}. ")
    assert way_out in sentence
    assert "more" not in sentence


def test_a_card_without_kernels_in_this_torch_stops_a_run_before_it_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, answer in {
        "is_available": True, "get_device_capability": (7, 0), "get_arch_list": ["sm_75", "sm_80"]
    }.items():  # fmt: skip
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, answer=answer: answer)
    with pytest.raises(FtlabError, match=r"capability 7\.0, .* kernels for 7\.5, 8\.0; install"):
        torch_device("cuda:0")


def test_in_a_worker_the_card_is_the_one_that_it_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch may name the card of a MIG instance instead of the instance."""
    cuda = SimpleNamespace(get_device_properties=lambda device: SimpleNamespace(uuid="12-34"))
    for shown in ("MIG-1", "GPU-9", "0", ""):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert device_uuid(cuda, DEVICE) == (shown if "-" in shown else "GPU-12-34")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_want_of_memory_on_a_gpu_is_told_whoever_says_it(error: Exception) -> None:
    assert explain(error, "train")[0] == "out_of_memory"
