"""One run from spec to result, in this process, on a tiny random model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ftlab.basics.errors import Diverged, FtlabError
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.registry import CORE
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.loading import put_trained_weights
from ftlab.records.result import PHASES
from ftlab.records.run import RunDirectory
from ftlab.tasks.registry import general_passages
from ftlab.training.failures import explain
from ftlab.training.run import RunRecord, execute
from tests.training.one_run import do, request

IDS = torch.arange(2, 34).view(2, 16)


WAYS = (*CORE, "last_layers:layers=1", "pissa", "adalora")
"""One variant for each way in which a run trains and saves; the probe has every method."""


@pytest.mark.parametrize("way", WAYS)
def test_a_run_trains_measures_and_saves_what_others_can_load(
    way: str, tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    base_spec, spec = plan_sweep(request(tiny_model, task_file, way))
    before = do(base_spec, tmp_path)
    result = do(spec, tmp_path)
    measures = result.measures
    assert set(result.phases) == set(PHASES)
    assert measures.trainable_params
    assert measures.total_params
    assert measures.trainable_params <= measures.total_params
    assert measures.peak_memory_bytes
    assert measures.net_peak_memory_bytes is not None
    assert measures.train_seconds
    assert measures.tokens_per_second
    assert measures.adapter_bytes
    assert measures.eval_loss_before == before.measures.eval_loss_before
    assert measures.eval_loss_after != measures.eval_loss_before
    assert result.memory_kind == "CPU resident"
    assert result.environment["packages"]["peft"]
    adapter = tmp_path / spec.run_id / "adapter"
    method = parse_variant(way).spec
    if method.is_adapter:
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == tiny_model.name
        plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapter)
    elif method.ships_whole_model:
        plain = AutoModelForCausalLM.from_pretrained(adapter)
    else:
        plain = AutoModelForCausalLM.from_pretrained(tiny_model)
        put_trained_weights(plain, adapter)
    untouched = AutoModelForCausalLM.from_pretrained(tiny_model)
    logits = plain(IDS).logits[:, -16:]
    assert not torch.equal(logits, untouched(IDS).logits)


def test_a_4bit_weight_counts_its_logical_size(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    specs = plan_sweep(request(tiny_model, task_file, "lora", "qlora"))
    bases = [do(spec, tmp_path) for spec in specs if spec.is_base]
    totals = {result.measures.total_params for result in bases}
    assert len(totals) == 1


def test_samples_hold_the_same_prompts_before_and_after(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    base_spec, spec = plan_sweep(request(tiny_model, task_file, "lora"))
    do(base_spec, tmp_path)
    do(spec, tmp_path)
    before = RunDirectory(tmp_path / base_spec.run_id).samples()
    after = RunDirectory(tmp_path / spec.run_id).samples()
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    for old, new in zip(before, after, strict=True):
        assert new["answer_before"] == old["answer_before"]
        assert {"answer_after", "score_after", "loss_after", "reference"} <= new.keys()


def test_without_base_numbers_the_run_still_counts_and_says_so(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    _, spec = plan_sweep(request(tiny_model, task_file, "lora"))
    result = do(spec, tmp_path)
    assert result.measures.score_before is None
    assert result.measures.score_after is not None
    assert any("base run gave no numbers" in note for note in result.notes)


def test_all_variants_of_a_sweep_see_the_same_first_batch(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    specs = plan_sweep(request(tiny_model, task_file, "full", "lora"))[1:]
    results = [do(spec, tmp_path) for spec in specs]
    first_losses = [result.measures.train_loss_first for result in results]
    assert first_losses[0] == pytest.approx(first_losses[1], abs=1e-3)
    orders = {result.environment["order_hash"] for result in results}
    assert len(orders) == 1
    assert len(orders.pop()) == 64


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_8bit_optimizers_run_and_a_paged_one_says_that_it_pages_nothing_here(
    optimizer: str, tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    _, spec = plan_sweep(request(tiny_model, task_file, "lora", optimizer=optimizer))
    result = do(spec, tmp_path)
    assert any("pages nothing" in note for note in result.notes) == optimizer.startswith("paged")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "pissa"])
def test_gradient_checkpointing_changes_the_memory_not_the_result(
    way: str, tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    _, spec = plan_sweep(request(tiny_model, task_file, way))
    plain = do(spec, tmp_path / "plain")
    settings = replace(spec.settings, gradient_checkpointing=True)
    checkpointed = do(replace(spec, settings=settings), tmp_path / "checkpointed")
    assert checkpointed.measures.train_loss_last == pytest.approx(
        plain.measures.train_loss_last, rel=1e-3
    )


def test_a_maximum_length_that_nothing_fits_stops_the_run_in_a_sentence(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    _, spec = plan_sweep(request(tiny_model, task_file, "lora", max_length=16))
    with pytest.raises(FtlabError, match=r"longer than 16 tokens; the shortest has \d+"):
        do(spec, tmp_path)


def test_a_learning_rate_that_blows_up_is_said_with_step_and_rate(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    request_ = request(tiny_model, task_file, "full", steps=30, warmup_steps=0)
    spec = plan_sweep(request_)[-1]
    spec = replace(spec, variant=Variant("full", {}, 1e30))
    record = RunRecord()
    directory = RunDirectory(tmp_path / spec.run_id)
    with pytest.raises(Diverged, match=r"not a number at step \d+ \(learning rate") as raised:
        execute(spec, directory, record, lambda event: None)
    status, reason = explain(raised.value, "train")
    measures = record.result(status, reason).measures
    assert status == "diverged"
    assert measures.trainable_params == measures.total_params
    assert measures.peak_memory_bytes
    assert measures.steps_done is not None
    assert measures.steps_done < 30
    assert measures.train_seconds is None, "the time of some steps compares with nothing"


def test_a_run_that_goes_astray_in_its_last_step_is_found_by_the_evaluation(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    request_ = request(tiny_model, task_file, "full", steps=1, warmup_steps=0)
    spec = replace(plan_sweep(request_)[-1], variant=Variant("full", {}, 1.0))
    with pytest.raises(Diverged, match=r"held-out loss after the last step is \d+\.\d+, that of"):
        do(spec, tmp_path)


def test_evaluations_between_the_steps_leave_losses_and_peak_as_they_are(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    base_spec, plain = plan_sweep(request(tiny_model, task_file, "lora"))
    before = do(base_spec, tmp_path)
    often = replace(plain, settings=replace(plain.settings, eval_every=2), run_id="often")
    losses: list[list[float]] = []
    curve: list[dict[str, Any]] = []
    peaks: list[int] = []
    for spec in (plain, often):
        directory, record = RunDirectory(tmp_path / spec.run_id), RunRecord()
        directory.write_spec(spec)
        events: list[dict[str, Any]] = []
        execute(spec, directory, record, events.append)
        losses.append([event["loss"] for event in events if event["event"] == "step"])
        curve = [event for event in events if event["event"] == "evaluation"]
        peaks.append(record.measures.net_peak_memory_bytes or 0)
        last = record.measures
    assert losses[0] == losses[1], "bit for bit"
    assert abs(peaks[0] - peaks[1]) < 25_000_000
    assert [event["step"] for event in curve] == [0, 2, 3]
    assert curve[0]["loss"] == last.eval_loss_before, "all examples are few enough for the curve"
    assert curve[-1]["loss"] == last.eval_loss_after
    # What it has gained and forgotten is paired with the base run.
    assert len(before.general_losses) == len(record.general_losses) == len(general_passages())
    assert last.general_loss_before == before.measures.general_loss_before
    assert last.general_loss_change == pytest.approx(
        last.general_loss_after - last.general_loss_before
    )
    assert last.general_loss_change_low < last.general_loss_change < last.general_loss_change_high
    assert last.loss_change == pytest.approx(last.eval_loss_after - last.eval_loss_before)
    assert last.score_gain is not None


def test_settings_that_do_less_than_their_name_says_are_noted(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    _, spec = plan_sweep(request(tiny_model, task_file, "lora", warmup_steps=3, eval_examples=99))
    notes = " ".join(do(spec, tmp_path).notes)
    assert "Warm-up was cut from 3 steps to 0" in notes
    assert "so that many were scored, not 99" in notes
