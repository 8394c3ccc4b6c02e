"""Runs from spec to result, in this process, on a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from ftlab.basics.errors import Diverged, FtlabError
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.registry import CORE
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant, parse_variant, read_variants
from ftlab.models.loading import load_base_model, put_trained_weights
from ftlab.models.resolve import resolve_model
from ftlab.playground.attach import attach
from ftlab.playground.panes import find_source
from ftlab.records.result import PHASES, PhaseMeasure, RunResult
from ftlab.records.resume import Checkpoint, Earlier
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec
from ftlab.tasks.formatting import FileTokenizer
from ftlab.tasks.registry import general_passages
from ftlab.training import run as run_module
from ftlab.training.failures import explain
from ftlab.training.meters import PhaseMeter
from ftlab.training.run import RunRecord
from tests.slow import slow
from tests.training.one_run import do, request, spec_of

IDS = torch.arange(2, 34).view(2, 16)


WAYS = (*CORE, "last_layers:layers=1", "pissa", "adalora")
"""One variant for each way in which a run trains and saves; the probe has every method."""


@dataclass(frozen=True)
class Ran:
    """A run that was done, with the base run that it is compared with."""

    base_id: str
    base: RunResult
    spec: RunSpec
    result: RunResult
    folder: Path


@pytest.fixture(scope="module")
def ran(
    tiny_model: Path, task_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Ran]:
    """Runs a variant once for all tests, and a base once for all variants."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def base_of(precision: BasePrecision | None) -> tuple[str, RunResult]:
        spec = plan_sweep(request(tiny_model, task_file, "qlora" if precision else "lora"))[0]
        assert (spec.is_base, spec.base_precision) == (True, precision)
        return spec.run_id, do(spec, folder)

    @cache
    def run(way: str) -> Ran:
        spec = spec_of(tiny_model, task_file, way)
        base_id, base = base_of(spec.base_precision)
        spec = replace(spec, base_run_id=base_id)
        return Ran(base_id, base, spec, do(spec, folder), folder)

    return run


@pytest.mark.parametrize("way", [*CORE, *slow(way for way in WAYS if way not in CORE)])
def test_a_run_trains_measures_and_saves_what_others_can_load(
    way: str, ran: Callable[[str], Ran], tiny_model: Path
) -> None:
    run = ran(way)
    result, measures = run.result, run.result.measures
    assert set(result.phases) == set(PHASES)
    assert measures.trainable_params
    assert measures.total_params
    assert measures.trainable_params <= measures.total_params
    assert measures.peak_memory_bytes
    assert measures.net_peak_memory_bytes is not None
    assert measures.train_seconds
    assert measures.tokens_per_second
    assert measures.adapter_bytes
    assert measures.eval_loss_before == run.base.measures.eval_loss_before
    assert measures.eval_loss_after != measures.eval_loss_before
    assert result.memory_kind == "CPU resident"
    assert result.environment["packages"]["peft"]
    adapter = run.folder / run.spec.run_id / "adapter"
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
    added = measures.trainable_params if method.is_adapter else 0
    if way != "adalora":  # which has parameters that do not learn
        assert measures.total_params == untouched.num_parameters() + added


@pytest.mark.parametrize("way", ["lora", *slow(["full", "qlora", "prompt_tuning"])])
def test_gradient_checkpointing_changes_the_memory_not_the_result(
    way: str, ran: Callable[[str], Ran], tmp_path: Path
) -> None:
    plain = ran(way)
    settings = replace(plain.spec.settings, gradient_checkpointing=True, eval_answers=False)
    checkpointed = do(replace(plain.spec, settings=settings), tmp_path)
    assert checkpointed.measures.train_loss_last == pytest.approx(
        plain.result.measures.train_loss_last, rel=1e-3
    )


def test_a_4bit_weight_counts_its_logical_size(ran: Callable[[str], Ran]) -> None:
    totals = {ran(way).base.measures.total_params for way in ("lora", "qlora")}
    assert len(totals) == 1


def test_samples_hold_the_same_prompts_before_and_after(ran: Callable[[str], Ran]) -> None:
    run = ran("lora")
    before, after = (
        RunDirectory(run.folder / name).samples() for name in (run.base_id, run.spec.run_id)
    )
    assert [row["prompt"] for row in before] == [row["prompt"] for row in after]
    for old, new in zip(before, after, strict=True):
        assert new["answer_before"] == old["answer_before"]
        assert {"answer_after", "score_after", "loss_after", "reference"} <= new.keys()


def test_the_losses_of_a_run_are_the_means_over_the_tokens_of_its_samples_and_passages(
    ran: Callable[[str], Ran], tiny_model: Path
) -> None:
    run = ran("lora")
    rows, measures = RunDirectory(run.folder / run.spec.run_id).samples(), run.result.measures
    tokens = [row["tokens"] for row in rows]
    mean = sum(row["loss_after"] * row["tokens"] for row in rows) / sum(tokens)
    assert measures.eval_loss_after == pytest.approx(mean)
    passages = zip(run.result.general_losses, run.result.general_tokens, strict=True)
    summed = sum(loss * count for loss, count in passages)
    expected = summed / sum(run.result.general_tokens)
    assert measures.general_loss_after == pytest.approx(expected, rel=1e-6)
    read = FileTokenizer(tiny_model).encode(general_passages(), add_special_tokens=True)
    with_loss = [len(ids) - 1 for ids in read]  # nothing comes before the first
    assert list(run.result.general_tokens) == with_loss


def test_what_is_measured_of_the_steps_is_what_was_reported_of_each(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    spec = spec_of(tiny_model, task_file, eval_answers=False)
    found = do(spec, tmp_path, report=events.append).measures
    steps = [event for event in events if event["event"] == "step"]
    first, second, third = (event["seconds"] for event in steps)
    assert found.train_seconds == pytest.approx(first + second + third)
    assert found.first_step_seconds == first
    assert found.step_seconds == max(second, third)
    tokens = [event["tokens"] for event in steps]
    assert found.tokens_per_second == pytest.approx(sum(tokens[1:]) / (second + third))
    assert found.train_tokens == sum(tokens)
    assert (found.train_loss_first, found.train_loss_last) == (steps[0]["loss"], steps[2]["loss"])
    assert found.peak_memory_bytes is not None
    assert found.before_model_bytes is not None
    assert found.net_peak_memory_bytes == found.peak_memory_bytes - found.before_model_bytes
    adapter = tmp_path / spec.run_id / "adapter"
    files = ("adapter_model.safetensors", "adapter_config.json")
    assert found.adapter_bytes == sum((adapter / name).stat().st_size for name in files)
    assert found.adapter_dtype == "fp32"
    # Each batch of four is padded to a multiple of eight tokens.
    padded = found.train_tokens / (1 - (found.padding_share or 0))
    assert padded == pytest.approx(round(padded))
    assert round(padded) % 32 == 0


def test_a_resumed_run_has_the_higher_of_its_net_peaks() -> None:
    """Not the one with the higher peak alone."""
    checkpoint = Checkpoint(3, {}, 1.0, 5_000, 4_500, 1, 1, 0.0)
    record = RunRecord(earlier=Earlier(checkpoint, (), (3,)))
    record.set(before_model_bytes=1_000)
    for own, peak, before in ((2_000, 2_000, 1_000), (1_400, 5_000, 4_500)):
        record.set(before_model_bytes=1_000)
        record.set_peak(record.peak(own))
        found = record.measures
        assert (found.peak_memory_bytes, found.before_model_bytes) == (peak, before)
        assert found.net_peak_memory_bytes == peak - before


@pytest.mark.parametrize(
    ("peak", "now", "free"), [(900, 300, 600), (300, 900, 0), (None, 300, 0), (900, None, 0)]
)
def test_scoring_may_use_what_is_free_again_since_the_peak_of_the_training(
    peak: int | None, now: int | None, free: int
) -> None:
    memory: Any = SimpleNamespace(now=lambda: now)
    meter = PhaseMeter(memory, lambda event: None)
    assert run_module._below_peak(meter) == 0, "a base run trains nothing"
    meter.phases["train"] = PhaseMeasure(1.0, peak_bytes=peak)
    assert run_module._below_peak(meter) == free


def test_all_variants_see_the_same_first_batch(ran: Callable[[str], Ran]) -> None:
    results = [ran(way).result for way in ("full", "lora")]
    first_losses = [result.measures.train_loss_first for result in results]
    assert first_losses[0] == pytest.approx(first_losses[1], abs=1e-3)
    orders = {result.environment["order_hash"] for result in results}
    assert len(orders) == 1
    assert len(orders.pop()) == 64


def test_without_base_numbers_the_run_still_counts_and_says_so(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    result = do(spec_of(tiny_model, task_file), tmp_path)
    assert result.measures.score_before is None
    assert result.measures.score_after is not None
    assert any("base run gave no numbers" in note for note in result.notes)


@pytest.mark.parametrize(
    ("settings", "said", "not_said"),
    [
        ({"optimizer": "adamw_8bit"}, ["8-bit AdamW keeps 32-bit state"], "pages nothing"),
        ({"optimizer": "paged_adamw_8bit"}, ["pages nothing on a CPU"], "Warm-up"),
        (
            {"warmup_steps": 3, "eval_examples": 99},
            ["Warm-up was cut from 3 steps to 0", "so that many were scored, not 99"],
            "8-bit",
        ),
    ],
)
def test_settings_that_do_less_than_their_name_says_are_noted(
    settings: dict[str, Any], said: list[str], not_said: str, tiny_model: Path, task_file: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    settings = {"warmup_steps": 0, "eval_answers": False} | settings
    notes = " ".join(do(spec_of(tiny_model, task_file, **settings), tmp_path).notes)
    assert [part for part in said if part not in notes] == []
    assert not_said not in notes


def test_a_maximum_length_that_nothing_fits_stops_the_run_in_a_sentence(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(FtlabError, match=r"longer than 16 tokens; the shortest has \d+"):
        do(spec_of(tiny_model, task_file, max_length=16), tmp_path)


def test_a_learning_rate_that_blows_up_is_said_with_step_and_rate(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_model, task_file, "full", steps=30, warmup_steps=0)
    record = RunRecord()
    with pytest.raises(Diverged, match=r"not a number at step \d+ \(learning rate") as raised:
        do(replace(spec, variant=Variant("full", {}, 1e30)), tmp_path, record)
    status, reason = explain(raised.value, "train")
    measures = record.result(status, reason).measures
    assert status == "diverged"
    assert measures.trainable_params == measures.total_params
    assert measures.peak_memory_bytes
    assert measures.steps_done is not None
    assert measures.steps_done < 30
    assert measures.train_seconds is None, "the time of some steps compares with nothing"


def test_a_run_that_diverges_in_its_last_step_is_found_by_the_evaluation(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_model, task_file, "full", steps=1, warmup_steps=0, eval_answers=False)
    with pytest.raises(Diverged, match=r"test loss after the last step is \d+\.\d+, that of"):
        do(replace(spec, variant=Variant("full", {}, 1.0)), tmp_path)


@pytest.mark.slow
def test_evaluations_between_the_steps_leave_losses_and_peak_as_they_are(
    ran: Callable[[str], Ran],
) -> None:
    run = ran("lora")
    often = replace(run.spec.settings, eval_every=2)
    losses: list[list[float]] = []
    curve: list[dict[str, Any]] = []
    peaks: list[int] = []
    for name, settings in (("plain", run.spec.settings), ("often", often)):
        record, events = RunRecord(), list[dict[str, Any]]()
        spec = replace(run.spec, settings=settings, run_id=name)
        do(spec, run.folder, record, events.append)
        losses.append([event["loss"] for event in events if event["event"] == "step"])
        curve = [event for event in events if event["event"] == "evaluation"]
        peaks.append(record.measures.net_peak_memory_bytes or 0)
        last: Any = record.measures
    assert losses[0] == losses[1], "bit for bit"
    assert abs(peaks[0] - peaks[1]) < 25_000_000
    assert [event["step"] for event in curve] == [0, 2, 3]
    assert curve[0]["loss"] == last.eval_loss_before, "all examples are few enough for the curve"
    assert curve[-1]["loss"] == last.eval_loss_after
    # The changes are paired with the base run.
    assert len(run.base.general_losses) == len(record.general_losses) == len(general_passages())
    assert last.general_loss_before == run.base.measures.general_loss_before
    assert last.general_loss_change == pytest.approx(
        last.general_loss_after - last.general_loss_before
    )
    assert last.general_loss_change_low < last.general_loss_change < last.general_loss_change_high
    assert last.loss_change == pytest.approx(last.eval_loss_after - last.eval_loss_before)
    assert last.score_gain is not None


@pytest.mark.parametrize(
    ("config", "saved"),
    [
        ({"peft_type": "C3A", "block_size": 32}, {"peft_type": "C3A", "block_size": 32}),
        ({"peft_type": "ADALORA", "init_r": 4, "target_r": 2}, {"total_step": 3}),
        (
            {"peft_type": "LORA", "init_lora_weights": "pissa", "r": 2},
            {"init_lora_weights": True, "r": 4},
        ),
    ],
)
def test_a_run_of_a_peft_config_by_hand_saves_what_peft_and_the_playground_load(
    config: dict[str, Any], saved: dict[str, Any], tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    asked = request(tiny_model, task_file, eval_answers=False)
    variants = tuple(read_variants(json.dumps(config | {"learning_rate": 0.01})))
    spec = plan_sweep(replace(asked, variants=variants))[-1]
    assert do(spec, tmp_path).measures.trainable_params
    adapter = tmp_path / spec.run_id / "adapter"
    text = (adapter / "adapter_config.json").read_text(encoding="utf-8")
    written = json.loads(text)
    assert {key: written[key] for key in saved} == saved
    assert written["base_model_name_or_path"] == tiny_model.name
    assert str(tmp_path) not in text
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), adapter)
    shared = load_base_model(resolve_model(str(tiny_model)), "fp32", None, torch.device("cpu"))
    with torch.inference_mode():
        untouched = shared(IDS).logits
        attached = attach(shared, find_source(tmp_path, spec.run_id))
        expected = plain.eval()(IDS).logits
        assert not torch.allclose(expected, untouched, atol=1e-5)
        assert torch.equal(shared(IDS).logits, untouched)
        if attached.model is not None:
            assert torch.allclose(attached.model(IDS).logits, expected, atol=1e-5)
        else:
            assert attached.low_rank is not None
            assert set(attached.low_rank.layers)


def test_an_adapter_of_the_registry_trains_on_a_base_in_4_bits(
    ran: Callable[[str], Ran],
) -> None:
    run = ran("oft:base=nf4")
    assert run.spec.base_precision == "nf4"
    measures = run.result.measures
    assert measures.eval_loss_before == run.base.measures.eval_loss_before
    assert measures.eval_loss_after != measures.eval_loss_before
    assert any("Only the linear layers of a 4-bit base" in note for note in run.result.notes)
