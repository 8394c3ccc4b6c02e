"""Free memory, errors and the record of a GPU; torch and the driver are fakes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ftlab.basics import nvml
from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError, NotEnoughMemory
from ftlab.basics.nvml import Process
from ftlab.methods.variant import Variant
from ftlab.prediction import of_run as prediction_module
from ftlab.prediction.of_run import with_remedies
from ftlab.records.result import Measures, PhaseMeasure, RunResult
from ftlab.records.spec import RunSpec
from ftlab.tasks.formatting import BatchSize
from ftlab.training import memory as memory_limit
from ftlab.training.failures import explain, is_device_fault
from ftlab.training.machine import describe_environment
from ftlab.training.memory import CardMemory, card_memory, check_room, least_bytes
from ftlab.training.meters import device_uuid
from ftlab.training.model import torch_device
from tests.training.one_run import spec_of

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
    return spec_of(tiny_model, task_file, "full")


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
    assert least_bytes(replace(spec, variant=Variant("lora"))) == base
    optimizers = {"adamw_8bit": 10, "paged_adamw_8bit": 8}  # bytes of a weight in fp32
    for name, size in optimizers.items():
        settings = replace(spec.settings, optimizer=name)  # type: ignore[arg-type]
        assert least_bytes(replace(spec, settings=settings)) == least // 16 * size
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
    assert "NVIDIA L4 has " in sentence
    assert "of 24.00 GB available, but the " in sentence
    assert "weights, gradients and optimizer state of Full fine-tuning alone need" in sentence
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

    def remedies(question: Any, room: int, ask: Any, counts: Any) -> str:
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
    assert told.reason.endswith("The trained weights were saved before, and can be exported.")


ILLEGAL = RuntimeError(
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call"
)


def test_an_illegal_access_on_a_gpu_is_not_out_of_memory() -> None:
    assert is_device_fault(ILLEGAL)
    assert not memory_limit.is_met(1, ILLEGAL, "cuda:0"), "the host's size says nothing of a card"
    unclear = RuntimeError("could not create a primitive")
    assert memory_limit.is_met(1, unclear, "cpu")
    assert not memory_limit.is_met(10**15, unclear, "cpu"), "far below its limit"
    assert not memory_limit.is_met(None, unclear, "cpu")
    assert memory_limit.is_met(10**15, RuntimeError("can't start new thread"), "cpu")
    assert explain(unclear, "train", at_limit=True)[0] == "out_of_memory"
    assert explain(unclear, "train")[0] == "failed"
    assert explain(ValueError("odd"), "train", at_limit=True)[0] == "failed"


def test_an_error_that_memory_caused_is_out_of_memory_unless_its_cause_is_hidden() -> None:
    wrapped, hidden = RuntimeError("the step failed"), RuntimeError("the step failed")
    wrapped.__cause__ = hidden.__context__ = MemoryError()
    assert explain(wrapped, "train")[0] == explain(hidden, "train")[0] == "out_of_memory"
    hidden.__suppress_context__ = True
    assert explain(hidden, "train")[0] == "failed"


@pytest.mark.parametrize(
    ("error", "status", "part"),
    [
        (MemoryError(), "out_of_memory", "Out of memory in the train phase. Try a smaller batch"),
        (RuntimeError("[enforce fail] can't allocate memory"), "out_of_memory", "smaller batch"),
        (OSError(12, os.strerror(12)), "out_of_memory", "smaller batch"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
         "out_of_memory", "smaller batch"),
        (RuntimeError("CUDA error: out of memory"), "out_of_memory", "smaller batch"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
         "out_of_memory", "smaller batch"),
        (OSError(28, os.strerror(28)), "failed", "The disk is full in the train phase"),
        (Exception("I/O error: No space left on device (os error 28)"), "failed", "disk is full"),
        (KeyboardInterrupt(), "cancelled", "Stopped by the person"),
        (ValueError("odd\nthing"), "failed", "ValueError: odd thing (the log has the traceback)"),
        (ILLEGAL, "failed", "illegal memory access was encountered. Memory is not the cause"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore"),
         "failed", "for execution on the device. To fix it: install a torch that is built for the "
         "card"),
        (RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nmore"),
         "failed", "The GPU cannot be used in the train phase: CUDA error: CUDA-capable device(s) "
         "is/are busy or unavailable. To fix it: end the process that has the card to itself"),
    ],
)  # fmt: skip
def test_an_error_that_stops_a_run_becomes_one_sentence(
    error: BaseException, status: str, part: str
) -> None:
    found, reason = explain(error, "train")
    assert found == status
    assert part in reason
    assert "\n" not in reason
    assert "asynchronously" not in reason
    assert "more" not in reason.replace("nothing more", "")


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


def test_driver_capability_cudnn_and_allocator_settings_of_a_card_are_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, answer in {
        "get_device_name": "NVIDIA L4",
        "get_device_capability": (8, 9),
        "get_device_properties": SimpleNamespace(uuid="12-34"),
        "device_count": 1,
    }.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91_002)
    monkeypatch.setattr(nvml, "driver", lambda: nvml.Driver("580.82", (13, 0)))
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-12-34")
    facts = describe_environment(torch.device("cuda", 0))
    assert facts["device"] == "NVIDIA L4"
    assert (facts["driver"], facts["capability"], facts["cudnn"]) == ("580.82", "8.9", 91_002)
    assert facts["gpu_settings"]["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert "CUDA_VISIBLE_DEVICES" not in facts["gpu_settings"], "equal cards are like for like"
    assert (facts["uuid"], facts["gpus_visible"]) == ("GPU-12-34", 1)


def test_of_a_cpu_nothing_is_said_of_a_card() -> None:
    assert not {"driver", "capability", "cudnn"} & describe_environment(torch.device("cpu")).keys()
