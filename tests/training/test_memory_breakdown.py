"""What a run's peak is made of, and that it was predicted to be so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.prediction import of_run
from ftlab.prediction.of_run import with_prediction
from ftlab.records.result import MEMORY_PARTS, RunResult
from ftlab.records.spec import RunSpec
from ftlab.tasks.formatting import BatchSize
from ftlab.training import run
from ftlab.training.run import RunRecord
from tests.slow import slow
from tests.training.one_run import do, spec_of

Case = tuple[str, str, dict[str, Any]]
CASES: list[Case] = [
    ("full", "bf16", {}),
    ("lora", "bf16", {}),
    ("lora", "fp32", {"gradient_checkpointing": True}),
    ("lora:r=16", "bf16", {"accumulation": 3, "batch_size": 2}),
]
OTHERS: list[Case] = [
    ("lora", "mixed", {"optimizer": "adamw_8bit"}),
    ("qlora", "bf16", {}),
    ("prompt_tuning", "bf16", {}),
    ("dora", "bf16", {}),
    ("lora_fa", "bf16", {}),
    ("boft", "bf16", {}),
    ("adalora", "bf16", {}),
]


def ran(
    case: Case, tiny_model: Path, task_file: Path, folder: Path
) -> tuple[RunSpec, RunRecord, RunResult]:
    variant, policy, settings = case
    settings = {"eval_answers": False, "eval_examples": 1} | settings
    spec = spec_of(tiny_model, task_file, variant, policy=policy, **settings)
    spec, record = replace(spec, base_run_id=None), RunRecord()
    return spec, record, do(spec, folder, record)


@pytest.mark.parametrize("case", [*CASES, *slow(OTHERS)], ids=lambda case: " ".join(map(str, case)))
def test_each_part_of_the_measured_peak_is_what_was_predicted(
    case: Case, tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec, record, result = ran(case, tiny_model, task_file, tmp_path)
    assert set(result.anatomy) == set(MEMORY_PARTS)
    whole = sum(result.anatomy.values())
    known = with_prediction(result, spec, record.longest, record.scoring)
    assert known.measures.predicted_net_peak_bytes == sum(known.predicted_anatomy.values())
    for part in MEMORY_PARTS:
        off = abs(known.predicted_anatomy[part] - result.anatomy[part])
        assert off < 0.01 * whole, (part, known.predicted_anatomy, result.anatomy)


def test_a_run_keeps_what_was_computed_of_its_training_and_scoring(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec, record, result = ran(("lora", "bf16", {}), tiny_model, task_file, tmp_path)
    known = with_prediction(result, spec, record.longest, record.scoring)
    assert {"train", "evaluate"} <= set(result.phases)
    assert set(known.predicted_seconds) == {"train", "evaluate", "other"}
    assert all(seconds > 0 for seconds in known.predicted_seconds.values())
    failed = with_prediction(replace(result, status="failed"), spec, record.longest, record.scoring)
    assert failed.predicted_seconds == {}


def test_looking_at_the_peak_changes_no_weight(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Case = ("lora", "bf16", {"weight_decay": 0.1})
    _, _, looked = ran(case, tiny_model, task_file, tmp_path / "looked")
    monkeypatch.setattr(run, "measure_memory_breakdown", lambda *given: {})
    _, _, not_looked = ran(case, tiny_model, task_file, tmp_path / "not")
    assert not not_looked.anatomy
    assert looked.measures.eval_loss_after == not_looked.measures.eval_loss_after


def test_without_a_batch_or_a_prediction_a_result_is_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, task_file: Path
) -> None:
    spec = spec_of(tiny_model, task_file)
    base = replace(spec, variant=None)
    result = RunResult("done")
    longest = BatchSize(4, 16, 8)
    assert with_prediction(result, spec, None, None) is result
    assert with_prediction(result, base, longest, None) is result
    monkeypatch.setattr(of_run, "predict", lambda question: 1 / 0)
    assert with_prediction(result, spec, longest, None) is result


def test_a_run_that_ends_early_in_training_still_has_its_prediction(
    tiny_model: Path, task_file: Path
) -> None:
    spec = spec_of(tiny_model, task_file)
    early = with_prediction(RunResult("out_of_memory"), spec, BatchSize(4, 64, 32), None)
    assert early.measures.predicted_net_peak_bytes
