"""Merging: exact in fp32, rounded once, measured again, refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ftlab.basics.devices import resolve_device
from ftlab.basics.errors import FtlabError
from ftlab.methods.peft_rules import UNMERGEABLE
from ftlab.records.merge import MergeDirectory, MergeRecord
from ftlab.records.store import Run, read_run
from ftlab.share import merge
from ftlab.share.merge import merge_run
from ftlab.share.merge_control import start_merge, why_not_mergeable
from ftlab.training.evaluate import Evaluation
from tests.fakes import make_run
from tests.share.conftest import Train

IDS = torch.arange(2, 34).view(2, 16)


def merged(run: Run) -> MergeRecord:
    directory = MergeDirectory(run.directory)
    directory.folder.mkdir(exist_ok=True)
    merge_run(directory, resolve_device("cpu"))
    record = directory.record()
    assert record is not None
    return record


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits  # type: ignore[no-any-return]


def test_the_merged_model_answers_as_base_and_adapter_and_is_scored_like_the_run(
    train: Train, export_model: Path
) -> None:
    run = train("lora")
    record = merged(run)
    base = AutoModelForCausalLM.from_pretrained(export_model)
    untouched = logits(base)
    wanted = logits(PeftModel.from_pretrained(base, run.directory.adapter))
    plain = AutoModelForCausalLM.from_pretrained(run.directory.merged)
    torch.testing.assert_close(logits(plain), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(wanted, untouched, atol=1e-4)
    assert run.result is not None
    measures = run.result.measures
    assert record.score_before_merge == measures.score_after
    assert record.loss_before_merge == measures.eval_loss_after
    assert record.loss_after_merge == pytest.approx(measures.eval_loss_after, abs=1e-4)
    assert record.score_after_merge == pytest.approx(measures.score_after, abs=0.05)
    assert record.score_gain is not None
    assert record.dtype == "fp32"
    assert record.bytes == sum(path.stat().st_size for path in run.directory.merged.iterdir())
    assert not MergeDirectory(run.directory).partial.exists()


def test_a_16_bit_base_is_merged_in_fp32_and_rounded_once(train: Train, export_model: Path) -> None:
    run = train("lora", "bf16")
    assert merged(run).dtype == "bf16"
    adapter = load_file(run.directory.adapter / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    base = load_file(export_model / "model.safetensors")[f"{name}.weight"].bfloat16()
    wanted = (base.float() + 2.0 * (b @ a)).bfloat16()  # alpha 16 over rank 8
    found = load_file(run.directory.merged / "model.safetensors")[f"{name}.weight"]
    assert torch.equal(found, wanted)


def test_a_run_on_4_bits_merges_into_the_16_bit_base(train: Train) -> None:
    run = train("qlora", "bf16")
    record = merged(run)
    assert record.dtype == "bf16"
    config = json.loads((run.directory.merged / "config.json").read_text())
    assert "quantization_config" not in config
    assert record.loss_after_merge == pytest.approx(record.loss_before_merge, abs=0.1)


def test_weights_that_learnt_are_put_into_the_base(train: Train) -> None:
    run = train("last_layers:layers=1")
    record = merged(run)
    assert record.loss_after_merge == pytest.approx(record.loss_before_merge, abs=1e-4)


def test_merging_again_replaces_the_model_and_its_record(train: Train) -> None:
    run = train("lora")
    merged(run)
    (run.directory.merged / "old.txt").write_text("of the merge before")
    assert merged(run).at > 0
    assert not (run.directory.merged / "old.txt").exists()


def test_an_adapter_goes_with_the_base_that_it_was_trained_on_alone(
    train: Train, export_model: Path, tmp_path: Path
) -> None:
    run = train("lora")
    weights = export_model / "model.safetensors"
    before = weights.read_bytes()
    tensors = load_file(weights)
    save_file({k: v + 0.01 for k, v in tensors.items()}, weights, metadata={"format": "pt"})
    try:
        with pytest.raises(FtlabError, match="have changed since the run"):
            merged(run)
    finally:
        weights.write_bytes(before)
    assert not run.directory.merged.exists()


def test_the_gain_is_the_score_after_merging_less_that_before_example_by_example(
    tmp_path: Path,
) -> None:
    before = {2: 0.9, 0: 0.5, 1: 0.0}  # the rows of a record are in any order
    rows = [{"index": index, "score_after": score} for index, score in before.items()]
    run = read_run(make_run(tmp_path, samples=rows))
    after = Evaluation(1.0, 0.4, [], [0.3, 0.1, 0.8], [])
    found = merge._gain(run, after)
    assert found is not None
    mean, low, high = found
    assert mean == pytest.approx((-0.2 + 0.1 - 0.1) / 3)
    assert (low, high) == pytest.approx((-0.2, 0.1)), "of three examples any may be drawn alone"
    assert merge._gain(run, None) is None
    few = read_run(make_run(tmp_path, samples=rows[:2]))
    assert merge._gain(few, after) is None, "one of them was not scored before"


def test_data_that_changed_are_not_scored_and_the_record_says_so(
    train: Train, export_task: Path
) -> None:
    run = train("lora")
    before = export_task.read_text()
    export_task.write_text(before.replace("Repeat", "Say"), encoding="utf-8")
    try:
        record = merged(run)
    finally:
        export_task.write_text(before, encoding="utf-8")
    assert record.score_after_merge is None
    assert "have changed since the run" in record.note
    assert run.directory.merged.is_dir()


def test_what_is_no_change_of_a_weight_is_refused_before_anything_is_loaded(train: Train) -> None:
    soft, whole = train("prompt_tuning:tokens=4"), train("full")
    with pytest.raises(FtlabError, match="no change of a weight"):
        start_merge(soft)
    assert not MergeDirectory(soft.directory).folder.exists()
    assert "nothing to merge" in why_not_mergeable(whole)


def test_the_types_that_have_nothing_to_merge_are_those_that_peft_cannot_merge() -> None:
    cannot = {
        kind.value
        for kind, tuner in PEFT_TYPE_TO_TUNER_MAPPING.items()
        if not hasattr(tuner, "merge_and_unload")
    }
    refusing_later = {"XLORA", "POLY", "SHADOW"}
    assert cannot == set(UNMERGEABLE) - refusing_later
