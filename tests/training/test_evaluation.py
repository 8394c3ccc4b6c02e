"""Scoring: batches that shrink where memory runs out, after what was trained is safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.jobs.launch import plan_sweep
from ftlab.playground.panes import cannot_answer
from ftlab.records.run import RunDirectory
from ftlab.records.store import read_run
from ftlab.settings.training import EVALUATION_BATCH
from ftlab.share.weights import weights_of
from ftlab.training import evaluate
from ftlab.training.evaluate import ShrinkingBatches
from ftlab.training.failures import explain
from ftlab.training.run import RunRecord, execute
from tests.training.one_run import do, request
from tests.training.steps import CPU

OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_batch_that_runs_out_is_done_again_in_halves_and_none_twice() -> None:
    batches, done = ShrinkingBatches(CPU), []

    def work(places: list[int]) -> None:
        if len(places) > 5:
            raise OUT
        done.append(places)

    batches.work(list(range(20)), work)
    assert batches.size == 4
    assert [place for places in done for place in places] == list(range(20))
    assert max(map(len, done)) == 4


def test_a_single_example_that_runs_out_ends_it_with_that_error() -> None:
    def work(places: list[int]) -> None:
        raise OUT

    with pytest.raises(torch.OutOfMemoryError):
        ShrinkingBatches(CPU).work([3, 1, 2], work)


def test_another_error_is_not_tried_again() -> None:
    calls: list[int] = []

    def work(places: list[int]) -> None:
        calls.append(len(places))
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        ShrinkingBatches(CPU).work([1] * 8, work)
    assert calls == [8]


@pytest.mark.parametrize("at_most", [1, 2])
def test_a_run_scored_in_smaller_batches_has_the_same_numbers_and_says_so(
    at_most: int, tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plan_sweep(request(tiny_model, task_file, "lora", eval_examples=4))[-1]
    whole = do(spec, tmp_path / "whole")
    answer = evaluate.answer_batch

    def small(model: Any, tokenizer: Any, prompts: Any, config: Any) -> list[str]:
        if len(prompts) > at_most:
            raise OUT
        return answer(model, tokenizer, prompts, config)

    monkeypatch.setattr(evaluate, "answer_batch", small)
    parts = do(spec, tmp_path / "parts")
    assert parts.measures.eval_loss_after == pytest.approx(whole.measures.eval_loss_after, rel=1e-5)
    assert parts.measures.score_after == whole.measures.score_after
    (note,) = [note for note in parts.notes if "Scoring ran out of memory" in note]
    assert f"with {EVALUATION_BATCH} examples at once, and went on with {at_most}." in note
    assert not any("Scoring ran out" in note for note in whole.notes)


def test_what_was_trained_is_saved_before_it_is_scored(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plan_sweep(request(tiny_model, task_file, "lora"))[-1]
    directory, record = RunDirectory(tmp_path / spec.run_id), RunRecord()
    directory.write_spec(spec)

    def never(*_: Any) -> None:
        raise OUT

    monkeypatch.setattr(evaluate, "answer_batch", never)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        execute(spec, directory, record, lambda event: None)
    directory.write_result(record.result(*explain(raised.value, "evaluate")))
    run = read_run(directory)
    assert run.status == "out_of_memory"
    assert run.result is not None
    assert run.result.measures.adapter_bytes
    assert weights_of(run) == directory.adapter
    assert cannot_answer(run) == ""
    assert (directory.adapter / "adapter_model.safetensors").is_file()


def test_a_run_that_went_astray_keeps_no_weights(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = plan_sweep(request(tiny_model, task_file, "lora"))[-1]
    directory, record = RunDirectory(tmp_path / spec.run_id), RunRecord()
    directory.write_spec(spec)
    monkeypatch.setattr(evaluate, "held_out_loss", lambda model, examples, *_: (1e9, [1e9] * 99))
    with pytest.raises(Exception, match="held-out loss after the last step"):
        execute(spec, directory, record, lambda event: None)
    assert not directory.adapter.exists()
