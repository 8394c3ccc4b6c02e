"""`predict` on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftlab.__main__ import main
from ftlab.commands import predict
from ftlab.prediction.duration import NO_TIME_OVER_CARDS, StepWork, Work
from ftlab.prediction.question import LimitsOf, Prediction, Question

LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 320,
    "max_position_embeddings": 256,
}  # fmt: skip
FIELDS = {
    "method", "label", "trainable_params", "total_params", "adapter_bytes", "peak_allocated_bytes",
    "peak_reserved_bytes", "anatomy", "how", "seconds", "reason", "learning_rate",
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    return str(tmp_path / "config.json")


class Answers:
    """Stands in for the process that predicts."""

    asked: Sequence[Question] = ()
    work: StepWork | None = None

    def __init__(self, limits_of: LimitsOf) -> None:
        pass

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        Answers.asked = questions
        for place in reversed(range(len(questions))):  # they may come in any order
            variant = questions[place].variant
            yield place, Prediction(
                variant.method, variant.label, 10, 1_000, 64, 20 << 30, 21 << 30,
                {"weights": 20 << 30}, "simulated", 0.1, work=self.work,
            )  # fmt: skip


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> type[Answers]:
    monkeypatch.setattr(predict, "Predictor", Answers)
    return Answers


@pytest.mark.slow
def test_a_real_prediction_is_a_json_list_and_nothing_else(
    config: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", config, "--methods", "lora,bitfit", "--length", "64", "--json"]
    assert main(["predict", *given]) == 0
    lora, bitfit = json.loads(capfd.readouterr().out)
    assert set(lora) == FIELDS
    assert (lora["method"], lora["how"], lora["reason"]) == ("lora", "simulated", "")
    assert lora["peak_reserved_bytes"] >= lora["peak_allocated_bytes"] > 0
    assert "bias" in bitfit["reason"]
    assert bitfit["peak_reserved_bytes"] is None


def test_every_option_is_in_the_question(answered: type[Answers], tmp_path: Path) -> None:
    (tmp_path / "c3a.json").write_text('{"peft_type": "C3A", "block_size": 64}')
    given = [
        *("--model", "gpt2", "--variant", "lora:r=4", "--length", "512", "--batch", "2"),
        *("--accumulation", "3", "--completion-tokens", "32", "--dtype", "fp16"),
        *("--attention", "eager", "--checkpointing", "--optimizer", "adamw_8bit"),
        *("--base-precision", "nf4", "--adapter-dtype", "base", "--json"),
    ]
    assert main(["predict", *given, "--peft-config", str(tmp_path / "c3a.json")]) == 0
    lora, c3a = answered.asked
    assert lora.config["model_type"] == "gpt2"
    assert (lora.variant.label, c3a.variant.method) == ("LoRA r=4 on nf4", "peft")
    step = lora.step
    assert (step.length, step.batch, step.accumulation, step.completion_tokens) == (512, 2, 3, 32)
    assert (step.weights, step.attention, step.checkpointing) == ("fp16", "eager", True)
    assert (step.optimizer, step.packing, step.adapters) == ("adamw_8bit", "nf4", "base")


def test_rows_stand_in_the_order_in_which_they_were_asked(
    answered: type[Answers], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--methods", "full,lora,qlora", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == ["full", "lora", "qlora"]


def test_each_row_has_the_rate_that_a_run_on_the_model_starts_from(
    answered: type[Answers], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", "--methods", "lora,ia3", "--variant", "lora:learning_rate=5e-4"]
    for model, rates in (("bundled", [2e-3, 2e-2, 5e-4]), ("gpt2", [1.6e-3, 2e-2, 5e-4])):
        assert main([*given, "--model", model, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [row["learning_rate"] for row in rows] == rates
    assert main([*given, "--model", "gpt2"]) == 0
    shown = capsys.readouterr().out
    assert "1.6e-3" in shown
    assert "Learning rates were tuned on SmolLM2-135M, not on this model." in shown


def test_a_card_is_judged_with_the_margin(
    answered: type[Answers], capsys: pytest.CaptureFixture[str]
) -> None:
    for card, verdict in (("rtx-4090", "fits"), ("l4", "tight"), ("t4", "does not fit")):
        assert main(["predict", "--methods", "lora", "--device", card, "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert row["verdict"] == verdict
        assert (row["margin_bytes"] < 0) == (verdict == "does not fit")
    assert main(["predict", "--methods", "lora", "--device", "t4"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    row = "LoRA 10 1.00 % 64 B 21.47 GB 22.55 GB 21.47 GB"
    assert row in shown, "trained, their share, the file, allocated, reserved, and the weights"
    assert "does not fit, 6.94 GB short" in shown
    assert "Tesla T4 has 16.11 GB" in shown


def test_with_a_card_the_time_of_1000_steps_is_said_and_with_a_price_their_cost(
    answered: type[Answers], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answered, "work", StepWork(Work(narrow=251e12), Work(), tokens=1_024))
    given = ["predict", "--methods", "lora", "--device", "l40s", "--price", "3.6"]
    assert main([*given, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["seconds_1000_steps"] == pytest.approx(1_000)
    assert row["cost_1000_steps"] == pytest.approx(1)
    assert main([*given, "--accumulation", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Method 1,000 steps Cost LoRA 33 min 20 s 2.00" in shown


def test_a_report_and_a_card_are_written_for_a_device(
    answered: type[Answers], config: str, tmp_path: Path
) -> None:
    report, card = tmp_path / "plan.html", tmp_path / "plan.svg"
    files = ["--report", str(report), "--card", str(card)]
    given = ["predict", "--model", config, "--methods", "full,qlora"]
    assert main([*given, "--device", "rtx-3090", *files]) == 0
    sentence = "Predicted: one GeForce RTX 3090 is enough to fine-tune"
    for file in (report, card):
        assert sentence in " ".join(file.read_text(encoding="utf-8").split())
    assert "with QLoRA" in card.read_text(encoding="utf-8")


def test_a_report_without_a_device_is_an_error_before_any_prediction(
    answered: type[Answers], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answered.asked = ()
    assert main(["predict", "--report", str(tmp_path / "plan.html")]) != 0
    assert "name a card with --device" in capsys.readouterr().err
    assert main(["predict", "--device", "t4", "--card", str(tmp_path / "plan.txt")]) != 0
    assert "end it with .png or .svg" in capsys.readouterr().err
    assert not answered.asked


def test_over_several_cards_the_parts_of_one_are_shown_and_no_time(
    answered: type[Answers], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["predict", "--methods", "full", "--device", "rtx-4090", "--shard", "4"]
    assert main(given) == 0
    (question,) = answered.asked
    assert question.step.shard == 4
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("Gathered", "Communication", "on each of 4 cards", NO_TIME_OVER_CARDS):
        assert words in shown
    assert main(given[:-2]) == 0
    assert "Gathered" not in capsys.readouterr().out
