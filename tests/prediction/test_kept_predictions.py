"""A prediction is computed once on a machine: the page's is the run's, and the other way round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs.launch import plan_sweep
from ftlab.jobs.sweep_costs import costing
from ftlab.methods.variant import parse_variant
from ftlab.prediction import kept_predictions, of_run
from ftlab.prediction.client import Predictor
from ftlab.prediction.duration import Rates, StepWork, Work
from ftlab.prediction.kept_predictions import keep_prediction, kept_prediction
from ftlab.prediction.question import Prediction, Question, Step, ask_about
from ftlab.prediction.run_time import FORMULA, FORMULA_KEY, SCORE, TRAIN
from ftlab.records.comparability import SCORED
from ftlab.records.result import Measures, RunResult
from ftlab.tasks.formatting import BatchSize
from ftlab.training.run import RunRecord
from tests.training import one_run
from tests.training.one_run import spec_of

FOUND = Prediction("lora", "LoRA", trainable_params=7, peak_allocated_bytes=9, how="simulated")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTLAB_KEPT", str(tmp_path / "kept"))
    return tmp_path / "kept" / "predictions"


def question(length: int = 32) -> Question:
    [asked] = ask_about({}, [parse_variant("lora")], Step(length))
    return asked


def unwanted(*given: Any) -> Prediction:
    raise AssertionError("it is kept")


def test_the_page_asks_no_process_for_what_is_kept(folder: Path) -> None:
    keep_prediction(question(), FOUND)
    with Predictor() as predictor:
        assert predictor.known(question(33)) is None
        assert list(predictor.ask([question()])) == [(0, FOUND)]
        assert predictor.process_id is None
        for file in folder.iterdir():
            file.unlink()
        assert predictor.known(question()) == FOUND, "it is remembered"


def test_a_run_keeps_what_it_predicts_and_a_run_alike_does_not_predict_it_again(
    tiny_model: Path, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, longest, failed = (
        spec_of(tiny_model, task_file),
        BatchSize(4, 64, 120),
        RunResult("failed"),
    )
    first = of_run.with_prediction(failed, spec, longest, None)
    assert first.measures.predicted_net_peak_bytes
    monkeypatch.setattr(of_run, "predict", unwanted)
    again = of_run.with_prediction(failed, spec, longest, None)
    assert again == first
    other_rate = spec_of(tiny_model, task_file, "lora:learning_rate=0.01")
    assert of_run.with_prediction(failed, other_rate, longest, None) == first
    other = of_run.with_prediction(failed, spec, replace(longest, length=72), None)
    assert other.measures.predicted_net_peak_bytes is None, "another batch is another question"


def test_a_run_that_is_done_has_the_seconds_computed_from_its_tokens_and_their_padding(
    tiny_model: Path, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = StepWork(Work(narrow=40), Work(calls=2), tokens=40)
    found = replace(FOUND, work=work, anatomy={"weights": 5})
    monkeypatch.setattr(of_run, "kept_prediction", lambda question: found)
    monkeypatch.setattr(of_run, "kept_rates", lambda device: Rates(1, 1, 1, 1, overlaps=False))
    spec = spec_of(tiny_model, task_file, steps=6, accumulation=2, eval_examples=3)
    # 12 batches of 50 tokens, of which a fifth are padding.
    measures = Measures(train_tokens=480, padding_share=0.2)
    done = RunResult("done", measures=measures, environment={SCORED: 2})
    known = of_run.with_prediction(done, spec, BatchSize(4, 64, 120), None)
    seconds = known.predicted_seconds
    assert seconds[TRAIN] == pytest.approx(6 * (2 * 50 + 2) + 40)
    assert seconds[SCORE] == pytest.approx(40 * (2 * 64 / 40) / 3)
    assert known.predicted_anatomy == {"weights": 5}
    assert known.environment == {SCORED: 2, FORMULA_KEY: FORMULA}
    failed = of_run.with_prediction(replace(done, status="failed"), spec, BatchSize(4, 64, 9), None)
    assert failed.predicted_seconds == {}
    assert of_run.with_prediction(done, spec, None, None) == done


@pytest.mark.parametrize("with_answers", [True, False], ids=["answers", "loss alone"])
def test_a_run_asks_what_was_asked_before_its_launch(
    tiny_model: Path, task_file: Path, tmp_path: Path, with_answers: bool
) -> None:
    request = one_run.request(tiny_model, task_file, "lora", eval_answers=with_answers)
    record = RunRecord()
    spec = plan_sweep(request)[-1]
    one_run.do(spec, tmp_path, record)
    assert record.longest is not None
    asked = of_run.question_of(spec, record.longest, record.scoring)
    assert (asked,) == costing(request).questions
    assert (asked.step.scoring is not None) == with_answers


def test_other_packages_or_other_code_predict_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_prediction(question(), FOUND)
    assert kept_prediction(question()) == FOUND
    monkeypatch.setattr(kept_predictions, "_surroundings", lambda: b"another")
    assert kept_prediction(question()) is None


def test_what_could_not_be_simulated_is_not_kept(folder: Path) -> None:
    keep_prediction(question(), replace(FOUND, how="closed form", reason="It needs a GPU."))
    keep_prediction(question(), replace(FOUND, how="", reason="It cannot be built."))
    assert not folder.exists()


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[:-3], lambda whole: whole.replace(b"7", b"8"), lambda whole: b"\xff\n{}"],
    ids=["torn", "changed", "no text"],
)
def test_a_damaged_file_is_not_used(folder: Path, damage: Any) -> None:
    keep_prediction(question(), FOUND)
    [file] = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert kept_prediction(question()) is None


def test_a_folder_that_cannot_be_written_fails_nothing(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file")
    keep_prediction(question(), FOUND)
    assert kept_prediction(question()) is None
