"""The evidence sheet of a method, as a page, as JSON, and in sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.tuning import Point, Tuned
from ftlab.methods.capabilities import capabilities
from ftlab.methods.variant import Variant
from ftlab.records.published import import_files, parse_result
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.share.evidence import (
    Evidence,
    check_proved,
    evidence_page,
    evidence_record,
    sentences,
)
from ftlab.share.peft_results import peft_result
from tests.fakes import make_run
from tests.share.fakes import data_of
from tests.share.test_sweep import words_of

HERE = "/home/ada/model"


def answers(right: int) -> list[dict[str, object]]:
    return [
        {"index": i, "prompt": f"q{i}", "reference": "a", "score_after": float(i < right),
         "loss_after": 1.0 + 0.01 * i, "completion_tokens": 4}
        for i in range(40)
    ]  # fmt: skip


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """OFT is better than LoRA, and not shown to differ from full fine-tuning."""
    make_run(tmp_path, "base")
    for seed in (0, 1):
        for method, score, right in (("oft", 0.75, 30), ("lora", 0.25, 10), ("full", 0.75, 30)):
            run = make_run(
                tmp_path, method, seed=seed, samples=answers(right),
                measures={"score_after": score + 0.001 * seed, "predicted_total_seconds": 61.0},
            )  # fmt: skip
            run.adapter.mkdir(exist_ok=True)
            config = {"peft_type": method.upper(), "base_model_name_or_path": HERE}
            (run.adapter / "adapter_config.json").write_text(json.dumps(config))
    runs = RunStore(tmp_path).runs()
    points = (Point(1e-3, "done", (1.2,)), Point(3e-3, "diverged"))
    tuned = [
        Tuned(Variant(method), points, 2.0, tuple(r for r in runs if r.spec.method == method))
        for method in ("oft", "lora", "full")
    ]
    return Evidence("OFT", data_of(tmp_path), capabilities()["oft"], tuned, ["LoRA: 1 M of 1 M."])


def test_the_page_has_what_the_proof_found_and_then_the_report(evidence: Evidence) -> None:
    page = words_of(evidence_page(evidence))
    heads = [part.split("</h2>")[0] for part in page.split("<h2>")[1:]]
    assert heads[:4] == [
        "Against LoRA and Full fine-tuning", "What it can do", "Predicted and measured",
        "Learning rates",
    ]  # fmt: skip
    assert "What was held equal" in heads
    assert "LoRA: 1 M of 1 M" in page
    assert "learns on a base in NF4: yes" in page
    assert "1e-3 1.200; 3e-3 diverged. 1e-3 has the lowest loss" in page
    assert "1 min 01 s" in page


def test_what_is_shown_is_said_and_nothing_more(evidence: Evidence) -> None:
    said = sentences(evidence)
    assert said[0] == "OFT against LoRA: score 0.75 and 0.25, better."
    assert said[1].startswith("OFT against Full fine-tuning: score 0.75 and 0.75, no difference")
    assert said[2].startswith("By its means OFT is on the Pareto front of ")


def test_a_method_that_another_beats_in_both_is_not_on_the_front(evidence: Evidence) -> None:
    worse = replace(evidence, method="LoRA")
    costly = evidence.data.table.copy()
    costly.loc[costly["variant"] == "LoRA", "net_peak_memory_bytes"] = 9e12
    worse = replace(worse, data=replace(evidence.data, table=costly))
    assert worse.front.startswith("By its means LoRA is not on the Pareto front")


def test_the_json_is_a_result_that_import_reads_and_has_no_path_of_this_machine(
    evidence: Evidence, tmp_path: Path
) -> None:
    text = json.dumps(evidence_record(evidence))
    assert HERE not in text
    run = parse_result(text.encode(), "evidence.json")
    assert run.values["method"] == "oft"
    assert run.values["score_after"] == 0.75
    assert run.values["task"] == "SQL", "it is no result of MetaMathQA"
    assert run.values["net_peak_memory_bytes"] > 0
    file = tmp_path / "evidence.json"
    file.write_text(text)
    assert import_files([file], tmp_path / "runs").imported
    more = json.loads(text)["ftlab"]
    assert len(more["runs"]) == 6
    (score,) = [row for row in more["against"]["LoRA"] if row["measure"] == "score_after"]
    assert (score["value"], score["other"], score["outcome"]) == (0.7505, 0.2505, "better")
    assert [ladder["suggested"] for ladder in more["ladders"]] == [1e-3] * 3
    assert more["capability"]["id"] == "oft"


@pytest.mark.parametrize("method", ["full", "prompt_tuning", "oft"])
def test_a_result_without_its_adapter_has_the_settings_that_were_given(
    tmp_path: Path, method: str
) -> None:
    make_run(tmp_path, method)
    (run,) = RunStore(tmp_path).runs()
    config = peft_result(run)["run_info"]["peft_config"]
    assert config is None if method == "full" else config["peft_type"] == method.upper()


def test_each_number_of_a_result_stands_where_pefts_comparison_has_it(tmp_path: Path) -> None:
    settings = TrainingSettings(steps=7, batch_size=3, accumulation=2, eval_every=4)
    measures = {
        "total_seconds": 50.0, "train_seconds": 40.0, "net_peak_memory_bytes": 900,
        "peak_memory_bytes": 1_200, "adapter_bytes": 70, "trainable_params": 16,
        "total_params": 80, "score_before": 0.1, "score_after": 0.6, "train_loss_last": 1.5,
        "train_tokens": 640, "general_loss_change": 0.25,
    }  # fmt: skip
    make_run(tmp_path, "lora", settings=settings, measures=measures, seed=3)
    (run,) = RunStore(tmp_path).runs()
    found = peft_result(run)
    assert found["run_info"]["total_time"] == 50.0
    asked = found["run_info"]["train_config"]
    assert [asked[key] for key in ("max_steps", "batch_size", "eval_steps", "seed", "dtype")] == [
        7, 3, 4, 3, "bfloat16",
    ]  # fmt: skip
    train = found["train_info"]
    assert (train["accelerator_memory_max"], train["train_time"]) == (900, 40.0)
    assert (train["file_size"], train["num_trainable_params"]) == (70, 16)
    assert train["num_total_params"] == 80
    (last,) = train["metrics"]
    assert (last["step"], last["test accuracy"], last["train loss"]) == (7, 0.6, 1.5)
    assert (last["train samples"], last["train total tokens"]) == (7 * 3 * 2, 640)
    assert last["forgetting"] == 0.25


def test_without_a_finished_run_of_the_method_the_reasons_are_said(tmp_path: Path) -> None:
    make_run(tmp_path, "lora")
    make_run(tmp_path, "oft", "diverged", reason="The loss rose.")
    check_proved(data_of(tmp_path), "LoRA")
    with pytest.raises(
        FtlabError, match=r"No run of OFT is done\. OFT, seed 0: diverged\. The loss"
    ):
        check_proved(data_of(tmp_path), "OFT")


def test_a_run_that_is_not_done_is_no_result(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "failed")
    (run,) = RunStore(tmp_path).runs()
    with pytest.raises(FtlabError, match="is not done"):
        peft_result(run)
