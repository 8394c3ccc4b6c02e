"""A run over several GPUs as real processes, which on a CPU share the cores and talk by gloo."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ftlab.basics.processes import end_process_group
from ftlab.jobs import ranks
from ftlab.jobs.ranks import CUT_OFF, Failure, OtherRanks
from ftlab.records.result import RANK_PEAKS
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import RunDirectory
from tests.training import one_run
from tests.waiting import wait_until

WORKER = [sys.executable, "-m", "ftlab.jobs.run_worker"]


@pytest.fixture
def queued(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunDirectory]:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))

    def queue(variant: str = "lora", **settings: Any) -> RunDirectory:
        usual = {"steps": 4, "shard": 2, "eval_examples": 3}
        spec = one_run.spec_of(tiny_model, task_file, variant, **(usual | settings))
        return one_run.queued(spec, tmp_path / f"runs{len(list(tmp_path.iterdir()))}")

    return queue


def work(directory: RunDirectory) -> None:
    done = subprocess.run([*WORKER, str(directory.path)], check=False, timeout=300)
    result = directory.result()
    assert result is not None
    assert result.status == "done", f"{result.reason}\n{directory.log_tail()}"
    assert done.returncode == 0


def losses(directory: RunDirectory) -> list[float]:
    return [event["loss"] for event in directory.metrics() if event["event"] == "step"]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(5, 25)[None]).logits
    return found


class started:
    """The worker of a long run and its other ranks, which end with the block."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory

    def __enter__(self) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
        self._worker = subprocess.Popen(
            [*WORKER, str(self._directory.path)], start_new_session=True
        )
        wait_until(lambda: bool(losses(self._directory)), seconds=120)
        return self._worker, psutil.Process(self._worker.pid).children(recursive=True)

    def __exit__(self, *error: object) -> None:
        end_process_group(self._worker.pid, self._worker)
        self._worker.wait()


@pytest.mark.slow
def test_records_and_files_are_those_of_one_process(
    queued: Callable[..., RunDirectory], tiny_model: Path
) -> None:
    """The divided run is resumed after its worker died, and its other ranks with it."""
    settings = {"steps": 20, "checkpoint_every": 3}
    alone, divided = queued(shard=1, **settings), queued(**settings)
    work(alone)
    with started(divided) as (worker, others):
        wait_until(lambda: bool(list(divided.checkpoints.glob("checkpoint-*.json"))))
        worker.kill()
        worker.wait()
        assert psutil.wait_procs(others, timeout=120)[1] == []
    ask_to_resume(divided)
    work(divided)
    one, two = alone.result(), divided.result()
    assert one is not None
    assert two is not None
    assert losses(divided) == pytest.approx(losses(alone), abs=1e-4)
    for name in ("trainable_params", "total_params", "train_tokens", "adapter_bytes"):
        assert getattr(two.measures, name) == getattr(one.measures, name), name
    assert two.measures.eval_loss_after == pytest.approx(one.measures.eval_loss_after, abs=1e-4)
    answers = [[row["answer_after"] for row in run.samples()] for run in (alone, divided)]
    assert answers[0] == answers[1]
    peaks = two.environment[RANK_PEAKS]
    assert len(peaks) == 2
    assert two.measures.net_peak_memory_bytes == max(peaks)
    names = [sorted(path.name for path in run.path.rglob("*")) for run in (alone, divided)]
    assert names[0] == names[1]
    bases = [AutoModelForCausalLM.from_pretrained(tiny_model) for _ in range(2)]
    models = [
        PeftModel.from_pretrained(base, str(run.adapter))
        for base, run in zip(bases, (alone, divided), strict=True)
    ]
    assert torch.allclose(logits(models[0]), logits(models[1]), atol=1e-4)


@pytest.fixture
def group() -> Iterator[Callable[..., OtherRanks]]:
    """Ranks that do nothing but what a line of Python says."""
    made: list[OtherRanks] = []

    def make(*lines: str, oom_kills: Callable[[], int] = lambda: 0) -> OtherRanks:
        others = OtherRanks(Path("nowhere"), 1 + len(lines), oom_kills)
        for line in lines:
            read, write = os.pipe()
            command = [sys.executable, "-c", f"import os, time; said = {write}; {line}"]
            others.processes.append(subprocess.Popen(command, pass_fds=[write]))
            os.close(write)
            others.said.append(os.fdopen(read, "rb"))
        made.append(others)
        return others

    yield make
    for others in made:
        others.close(is_done=False)


OUT_OF_MEMORY = (
    """os.write(said, b'{"status": "out_of_memory", "reason": "Out of memory."}'); os._exit(1)"""
)


def test_the_reason_is_that_of_the_rank_that_failed_not_of_those_it_cut_off(
    group: Callable[..., OtherRanks],
) -> None:
    others = group(f"os._exit({CUT_OFF})", "time.sleep(0.5); " + OUT_OF_MEMORY)
    assert others.failure(20) == Failure("out_of_memory", "Out of memory.")


def test_a_rank_that_the_kernel_ended_is_out_of_memory(group: Callable[..., OtherRanks]) -> None:
    others = group("os.kill(os.getpid(), 9)", oom_kills=lambda: 1)
    failure = others.failure(20)
    assert failure is not None
    assert failure.status == "out_of_memory"
    assert "Process 2 of 2" in failure.reason


def test_a_worker_that_never_notices_a_dead_rank_is_ended(
    group: Callable[..., OtherRanks], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By NCCL it would wait for half an hour."""
    monkeypatch.setattr(ranks, "_SECONDS_TO_NOTICE", 0.2)
    others = group("os._exit(7)", "time.sleep(60)")
    ended: list[Failure] = []
    watching = threading.Thread(target=others.watch, args=(ended.append,))
    watching.start()
    watching.join(30)
    assert "ended early (exit status 7)" in ended[0].reason
    assert all(process.poll() is not None for process in others.processes)
