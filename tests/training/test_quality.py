"""Numbers before, between and after the steps, paired with the base run; no model is loaded."""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.jobs.launch import plan_sweep
from ftlab.methods.variant import Variant
from ftlab.records.base_runs import (
    GAVE_NOTHING,
    GENERAL_TEXT_HASH,
    WAITS,
    General,
    complete,
    curve_event,
    settle,
    untouched_point,
)
from ftlab.records.result import Measures, RunResult
from ftlab.records.run import RunDirectory, write_json_lines
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.training import CURVE_EXAMPLES, TrainingSettings
from ftlab.tasks.formatting import EncodedSet, FormattedExample
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.spec import EXACT_MATCH, Example, Message, TaskSpec
from ftlab.training.evaluate import (
    CurvePoints,
    Evaluation,
    base_quality,
    curve_examples,
    run_quality,
)
from ftlab.training.meters import CpuMemoryMeter, PhaseMeter

TEXT = "the hash of the unrelated text"
COUNT = 12
TASK = TaskSpec("words", "Words", "", EXACT_MATCH)


def held_out(count: int = COUNT) -> EncodedSet:
    """The last example has nine tokens, the others one."""
    examples = tuple(Example((Message("user", f"q{i}"),), f"a{i}") for i in range(count))
    formatted = tuple(
        FormattedExample("q", "a", (1,), (2,) * (9 if i == count - 1 else 1)) for i in range(count)
    )
    return EncodedSet(examples, formatted, 0)


def evaluation(score: float, loss: float, general: float = 2.0, last: float = 0.0) -> Evaluation:
    losses = [loss] * (COUNT - 1) + [loss + last]
    tokens = [1] * (COUNT - 1) + [9]
    mean = sum(one * n for one, n in zip(losses, tokens, strict=True)) / sum(tokens)
    answers = ["x"] * COUNT
    return Evaluation(mean, score, losses, [score] * COUNT, answers, general, (general,) * 3)


def specs_of(*methods: str) -> list[RunSpec]:
    return plan_sweep(
        SweepRequest(
            model="bundled",
            task=TaskReference("bundled", "sql"),
            variants=tuple(Variant(method) for method in methods),
            settings=TrainingSettings(eval_every=5),
            device="cpu",
        )
    )


def lora_after_base(folder: Path, found: Evaluation, text: str = TEXT) -> RunSpec:
    """A run of LoRA whose base run was evaluated so."""
    base, spec = specs_of("lora")
    write_base(folder, base, found, text)
    return spec


def write_base(folder: Path, spec: RunSpec, found: Evaluation, text: str = TEXT) -> None:
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    quality = base_quality(held_out(), found, TASK)
    write_json_lines(directory.samples_file, quality.rows)
    measures = Measures(**quality.measures)
    directory.write_result(
        RunResult(
            "done",
            measures=measures,
            general_losses=found.general_losses,
            environment={GENERAL_TEXT_HASH: text},
        )
    )


def quality_of(folder: Path, spec: RunSpec, found: Evaluation) -> Any:
    general = General(found.general_losses, [10, 10, 10], TEXT)
    return run_quality(spec, folder, held_out(), general, found, TASK)


def test_before_comes_from_the_base_run_and_changes_are_after_minus_before(tmp_path: Path) -> None:
    spec = lora_after_base(tmp_path, evaluation(0.25, 3.0, general=2.0))
    quality = quality_of(tmp_path, spec, evaluation(0.75, 1.0, general=2.5))
    found = quality.measures
    assert (found["score_before"], found["score_after"], found["score_gain"]) == (0.25, 0.75, 0.5)
    assert (found["general_loss_before"], found["general_loss_after"]) == (2.0, 2.5)
    assert found["general_loss_change"] == pytest.approx(0.5)
    assert found["loss_change_low"] == pytest.approx(-2.0)
    assert {*found} <= {field.name for field in dataclasses.fields(Measures)}
    assert quality.rows[0]["score_before"] == 0.25
    assert quality.rows[0]["score_after"] == 0.75
    assert quality.notes == []


def test_the_change_of_the_loss_is_the_difference_of_the_two_losses_shown(tmp_path: Path) -> None:
    spec = lora_after_base(tmp_path, evaluation(0.0, 3.0))
    found = quality_of(tmp_path, spec, evaluation(0.0, 2.0, last=5.0)).measures
    difference = found["eval_loss_after"] - found["eval_loss_before"]
    assert found["loss_change"] == pytest.approx(difference)
    assert found["loss_change"] == pytest.approx(1.25), "not the -0.58 of a mean over examples"


def test_without_a_base_run_there_is_a_sentence_and_no_change(tmp_path: Path) -> None:
    _, spec = specs_of("lora")
    quality = quality_of(tmp_path, spec, evaluation(0.5, 1.0))
    assert quality.notes == (GAVE_NOTHING,)
    assert "score_gain" not in quality.measures


def test_losses_on_another_text_are_not_compared(tmp_path: Path) -> None:
    spec = lora_after_base(tmp_path, evaluation(0.25, 3.0), text="an older text")
    found = quality_of(tmp_path, spec, evaluation(0.75, 1.0, general=9.0)).measures
    assert "general_loss_change" not in found
    assert found["score_gain"] == 0.5


def test_a_score_below_the_base_by_more_than_its_interval_says_why(tmp_path: Path) -> None:
    spec = lora_after_base(tmp_path, evaluation(0.75, 1.0))
    (note,) = quality_of(tmp_path, spec, evaluation(0.25, 2.0)).notes
    assert note.startswith("The score fell by 0.50 (95 % interval 0.50 to 0.50)")
    assert "12 of 12 answers got worse and 0 better" in note
    assert "test loss rose by 1.00: the learning rate (" in note


def test_a_run_on_a_4bit_base_is_compared_with_it_and_says_how_it_stands_to_the_whole_one(
    tmp_path: Path,
) -> None:
    whole, quantised, spec, _ = specs_of("qlora", "lora")
    write_base(tmp_path, whole, evaluation(0.5, 1.0))
    write_base(tmp_path, quantised, evaluation(0.25, 1.0))
    quality = quality_of(tmp_path, spec, evaluation(0.75, 1.0))
    assert quality.measures["score_before"] == 0.25
    assert quality.measures["score_gain"] == 0.5
    assert len(quality.notes) == 1
    assert "untouched model in nf4" in quality.notes[0]
    assert "changed by +0.25" in quality.notes[0]


def test_a_run_without_answers_has_a_loss_and_no_score(tmp_path: Path) -> None:
    base, spec = specs_of("qlora")
    silent = dataclasses.replace(evaluation(0.0, 3.0), score=None, scores=[], answers=[])
    write_base(tmp_path, base, silent)
    quality = quality_of(tmp_path, spec, dataclasses.replace(silent, loss=1.0, losses=[1.0] * 12))
    assert quality.measures["loss_change"] == pytest.approx(-2.0)
    assert "score_gain" not in quality.measures
    assert "answer_after" not in quality.rows[0]
    assert quality.notes == []


def test_the_curve_over_the_steps_begins_at_the_untouched_model(tmp_path: Path) -> None:
    base, spec = specs_of("lora")
    tokens = [len(example.completion_ids) for example in held_out().formatted]
    assert untouched_point(spec, tmp_path, tokens)["loss"] is None, "no base run, no point"
    write_base(tmp_path, base, evaluation(0.25, 3.0, last=1.0))
    point = untouched_point(spec, tmp_path, tokens)
    assert point == {"event": "evaluation", "step": 0, "loss": 3.45, "score": 0.25}


def write_trained(folder: Path, spec: RunSpec, found: Evaluation) -> RunDirectory:
    """A trained run that ended with these numbers."""
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    directory.metrics_file.write_text('{"event": "evaluation", "step": 5, "loss": 1.0}\n')
    quality = quality_of(folder, spec, found)
    write_json_lines(directory.samples_file, quality.rows)
    directory.write_result(
        RunResult(
            "done",
            measures=Measures(**quality.measures),
            general_losses=found.general_losses,
            general_tokens=(10, 10, 10),
            environment={GENERAL_TEXT_HASH: TEXT},
            notes=(*quality.notes, "Something else."),
        )
    )
    return directory


def test_a_run_that_ends_before_its_base_run_gets_the_same_numbers_afterwards(
    tmp_path: Path,
) -> None:
    before, after = evaluation(0.75, 1.0), evaluation(0.25, 2.0, general=2.5, last=1.0)
    base, spec = specs_of("lora")
    write_base(tmp_path / "usual", base, before)
    usual = write_trained(tmp_path / "usual", spec, after)
    early = tmp_path / "early"
    RunDirectory(early / base.run_id).write_spec(base)  # queued
    run = write_trained(early, spec, after)
    assert run.result().notes == (WAITS, "Something else.")  # type: ignore[union-attr]
    complete(RunDirectory(early / base.run_id))
    assert WAITS in run.result().notes, "the base run has not ended"  # type: ignore[union-attr]
    shutil.rmtree(early / base.run_id)
    write_base(early, base, before)
    complete(RunDirectory(early / base.run_id))
    assert run.result() == usual.result()
    assert run.samples() == usual.samples()
    assert run.metrics()[-1]["step"] == 0, "the first point of the curve"
    changed = run.result_file.stat().st_mtime_ns
    complete(RunDirectory(early / base.run_id))
    assert run.result_file.stat().st_mtime_ns == changed, "once is enough"


@pytest.mark.parametrize("status", ["done", "failed"])
def test_the_run_before_it_is_complete_before_the_base_run_has_its_result(
    tmp_path: Path, status: Any
) -> None:
    """Whoever sees that all runs of a sweep have ended sees all its numbers."""
    base, spec = specs_of("lora")
    write_base(tmp_path, base, evaluation(0.4, 1.2))
    written = RunDirectory(tmp_path / base.run_id)
    result = written.result()
    assert result is not None
    ended = replace(result, status=status)
    written.result_file.unlink()
    run = write_trained(tmp_path, spec, evaluation(0.5, 1.0))
    assert WAITS in run.result().notes  # type: ignore[union-attr]
    complete(written, ended)
    result = run.result()
    assert result is not None
    assert WAITS not in result.notes
    assert (GAVE_NOTHING in result.notes) == (status == "failed")
    assert (result.measures.eval_loss_before is None) == (status == "failed")


@pytest.mark.parametrize("last", ["base run", "trained run"])
def test_two_that_end_at_one_moment_on_two_devices_miss_no_numbers(
    tmp_path: Path, last: str
) -> None:
    base, spec = specs_of("lora")
    of_base = RunDirectory(tmp_path / base.run_id)
    of_base.write_spec(base)
    run = write_trained(tmp_path, spec, evaluation(0.5, 1.0))
    unfinished = run.result()
    assert unfinished is not None
    assert WAITS in unfinished.notes
    shutil.rmtree(of_base.path)
    write_base(tmp_path, base, evaluation(0.4, 1.2))
    settle(of_base if last == "base run" else run)
    assert WAITS not in run.result().notes  # type: ignore[union-attr]
    assert run.result().measures.eval_loss_before == pytest.approx(1.2)  # type: ignore[union-attr]
    run.complete_result(unfinished)  # as if both completed it at once
    settle(run)
    settle(of_base)
    starts = [event for event in run.metrics() if event.get("step") == 0]
    assert len(starts) == 1, "the first point of the curve is there once"


def test_a_run_on_a_quantised_base_waits_for_the_one_that_is_not_as_well(tmp_path: Path) -> None:
    base, nf4, _, spec = specs_of("lora", "qlora")
    of_base = RunDirectory(tmp_path / base.run_id)
    of_base.write_spec(base)
    write_base(tmp_path, nf4, evaluation(0.4, 1.2))
    run = write_trained(tmp_path, spec, evaluation(0.5, 1.0))
    assert run.result().notes == (WAITS, "Something else.")  # type: ignore[union-attr]
    settle(run)
    assert WAITS in run.result().notes, "the other base run has not ended"  # type: ignore[union-attr]
    shutil.rmtree(of_base.path)
    write_base(tmp_path, base, evaluation(0.45, 1.1))
    complete(of_base)
    compared, _ = run.result().notes  # type: ignore[union-attr]
    assert "Against the one that is not quantised the score changed by" in compared
    assert run.result().measures.eval_loss_before == pytest.approx(1.2)  # type: ignore[union-attr]


def test_a_base_run_that_gives_no_numbers_is_said_in_the_run_before_it(tmp_path: Path) -> None:
    base, spec = specs_of("lora")
    directory = RunDirectory(tmp_path / base.run_id)
    directory.write_spec(base)
    run = write_trained(tmp_path, spec, evaluation(0.5, 1.0))
    directory.write_result(RunResult("failed", "Killed."))
    complete(directory)
    assert run.result().notes == (GAVE_NOTHING, "Something else.")  # type: ignore[union-attr]


def points_after(every: int, steps: int, draw: bool = False) -> list[dict[str, Any]]:
    def evaluate() -> Evaluation:
        if draw:
            torch.rand(3)
        return Evaluation(1.5, 0.5, [], [], [])

    events: list[dict[str, Any]] = []
    meter = PhaseMeter(CpuMemoryMeter(), lambda event: None)
    points = CurvePoints(every, steps, evaluate, meter, events.append, torch.device("cpu"))
    with meter.measure("train"):
        for step in range(1, steps + 1):
            points.after_step(step)
    return events


def test_there_is_a_point_every_so_many_steps_and_at_the_last() -> None:
    events = points_after(every=3, steps=8)
    assert [event["step"] for event in events] == [3, 6, 8]
    assert events[0] == {"event": "evaluation", "step": 3, "loss": 1.5, "score": 0.5}
    assert points_after(every=0, steps=8) == [], "0 is never"


def test_the_steps_draw_the_random_numbers_that_they_would_have_drawn_anyway() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    points_after(every=1, steps=3, draw=True)
    assert torch.equal(torch.rand(4), expected)


def test_a_loss_that_is_no_number_is_null_in_the_metrics() -> None:
    assert curve_event(1, math.nan, 0.0)["loss"] is None


def test_a_point_is_of_the_first_examples_alone() -> None:
    some = curve_examples(held_out(CURVE_EXAMPLES + 5))
    assert len(some.examples) == len(some.formatted) == CURVE_EXAMPLES
    assert some.examples[0].question == "q0"
