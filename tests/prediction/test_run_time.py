"""How long runs take: computed, and corrected by what earlier runs of the device took."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.devices import Device
from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.prediction import run_time
from ftlab.prediction.duration import Rates, ScoringWork, StepWork, Work
from ftlab.prediction.question import Prediction, Step
from ftlab.prediction.run_time import (
    AT_START,
    BETWEEN,
    FORMULA,
    FORMULA_KEY,
    OTHER,
    SCORE,
    TRAIN,
    Estimate,
    RunSize,
    computed,
    in_all,
    past_runs,
    run_size,
    together,
)
from ftlab.records.result import ANSWERING, PhaseMeasure, RunResult, dump_result
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run

CPU = Device("cpu", "CPU, 2 cores", 16 << 30)
RATES = Rates(narrow=1, wide=1, bytes=1, call_seconds=1, overlaps=False)
STEP = Step(length=20, batch=2, completion_tokens=5)
WORK = StepWork(Work(narrow=40), Work(calls=2), tokens=40)
PROMPTS, TOKEN = Work(bytes=240, calls=2), Work(bytes=16, calls=2)
SCORING = ScoringWork(PROMPTS, TOKEN, Work(wide=160, calls=1), rows=16, prompt=15)
FOUND = Prediction("lora", "LoRA", work=WORK, scoring_work=SCORING)
SQL = TaskReference(kind="bundled", id="sql")


def request_of(**settings: object) -> SweepRequest:
    return SweepRequest("bundled", SQL, (Variant("lora"),), TrainingSettings(**settings))  # type: ignore[arg-type]


def made(
    folder: Path,
    method: str,
    took: dict[str, float],
    predicted: dict[str, float] | None = None,
    at: float = 0.0,
    formula: int = FORMULA,
    resumed: tuple[int, ...] = (),
    **more: Any,
) -> None:
    """A run that took that long in its phases, 5 s besides."""
    directory: RunDirectory = make_run(
        folder, method, measures={"total_seconds": sum(took.values()) + 5},
        **({"model": BUNDLED_ID} | more),
    )  # fmt: skip
    result: RunResult | None = directory.result()
    assert result is not None
    phases = {name: PhaseMeasure(seconds) for name, seconds in took.items()}
    environment = result.environment | {FORMULA_KEY: formula}
    again = replace(
        result, phases=phases, predicted_seconds=predicted or {}, finished_at=at,
        environment=environment, resumed=resumed,
    )  # fmt: skip
    directory.result_file.write_bytes(dump_result(again))


def test_a_run_is_computed_from_the_work_of_a_step_and_of_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_time, "general_passages", lambda: ["x" * 960])  # 240 tokens
    size = RunSize(steps=10, accumulation=3, tokens=20, scored=32)
    assert computed(FOUND, STEP, size, RATES) == pytest.approx({
        TRAIN: 10 * (3 * 20 + 2) + 40,  # steps of batches of half the tokens, and the first pass
        # Two batches, prompts apart from what follows them; the answers at once; and the passages.
        SCORE: 2 * 2 * 3 + 32 * (15 + 5) + 32 * 5 * 10 + 5 * (3 + 32 + 32 * 10) + 3 + 240 * 11,
        OTHER: run_time._OTHER_SECONDS + 3 * 20 + 2,  # with one step more, which is traced
    })  # fmt: skip


def test_each_point_of_a_curve_scores_its_first_examples_again() -> None:
    settings = TrainingSettings(steps=30, accumulation=2, eval_every=7)
    size = run_size(settings, tokens=20, scored=64)
    assert size == RunSize(30, 2, 20, 64, curve_points=4)
    once = replace(size, curve_points=0)
    passages = replace(once, scored=0)  # of unrelated text, whose loss is measured at the end alone
    seconds, general = (computed(FOUND, STEP, one, RATES)[SCORE] for one in (once, passages))
    found = computed(FOUND, STEP, size, RATES)[SCORE]
    assert found == pytest.approx(general + (seconds - general) * (1 + 4 * 32 / 64))


def test_without_answers_scoring_is_the_forward_pass_a_third_of_a_batch() -> None:
    size = RunSize(steps=1, accumulation=1, tokens=20, scored=32)
    loss_alone = computed(replace(FOUND, scoring_work=None), STEP, size, RATES)
    assert loss_alone[SCORE] == pytest.approx(40 * (32 * 20 / 40) / 3)


def test_answers_are_as_long_as_the_rows_with_loss_unless_their_length_is_given() -> None:
    size = RunSize(steps=1, accumulation=1, tokens=20, scored=32)
    seconds = [computed(FOUND, STEP, size, RATES, new)[SCORE] for new in (None, 5, 6)]
    assert seconds[0] == seconds[1]
    # One token more of each answer, read once and generated once, with its logits.
    assert seconds[2] - seconds[1] == 32 + 32 * 10 + (3 + 32 + 32 * 10)


def test_answers_take_the_time_of_reading_the_weights_for_few_rows() -> None:
    size = RunSize(steps=1, accumulation=1, tokens=20, scored=128)
    prompts, token = Work(narrow=240, bytes=70), Work(narrow=16, bytes=70)
    tokens = ScoringWork(prompts, token, Work(bytes=20), rows=16, prompt=15)
    work, few = replace(FOUND, scoring_work=tokens), replace(RATES, few_rows=0.5)
    longer = computed(work, STEP, size, few)[SCORE] - computed(work, STEP, size, RATES)[SCORE]
    assert longer == 2 * 5 * (90 / 0.5 - 90), "twice 64 answers of 5 tokens"


def test_weights_in_32_bits_are_read_for_few_rows_as_other_bytes() -> None:
    size = RunSize(steps=1, accumulation=1, tokens=20, scored=128)
    tokens = ScoringWork(Work(wide=240, bytes=70), Work(wide=16, bytes=70), Work(), 16, prompt=15)
    work, few = replace(FOUND, scoring_work=tokens), replace(RATES, few_rows=0.5)
    assert computed(work, STEP, size, few) == computed(work, STEP, size, RATES)


def test_what_a_method_computes_of_its_weights_is_done_once_a_pass() -> None:
    rotated = ScoringWork(Work(narrow=1240), Work(narrow=1016), Work(), rows=16, prompt=15)
    assert rotated.passes(1, 16, 16).narrow == 1016
    assert rotated.passes(1, 240, 16).narrow == 1240
    assert rotated.passes(3, 64, 64).narrow == 3 * 1000 + 64
    alone = ScoringWork(Work(narrow=8), Work(narrow=8), Work(), rows=8, prompt=1)
    assert alone.passes(2, 16, 16).narrow == 16


def test_the_output_layer_is_counted_for_the_tokens_whose_logits_are_wanted() -> None:
    of_16 = ScoringWork(Work(), Work(), Work(narrow=160, bytes=7, calls=1), rows=16, prompt=15)
    assert of_16.passes(2, 1_000, 64) == Work(narrow=640, bytes=14, calls=2)


def test_what_was_not_simulated_has_no_time() -> None:
    size = RunSize(steps=10, accumulation=1, tokens=20, scored=32)
    assert computed(replace(FOUND, work=None), STEP, size, RATES) == {}


def test_a_new_machine_has_a_band_of_one_and_a_half_times(tmp_path: Path) -> None:
    past = past_runs([], CPU)
    assert past.phase(TRAIN, 30, "lora") == Estimate(30, AT_START.low * 30, AT_START.high * 30)


def test_three_runs_correct_the_time_of_every_method_and_their_range_is_the_band(
    tmp_path: Path,
) -> None:
    for method, seconds in (("lora", 20.0), ("full", 22.0), ("qlora", 24.0)):
        made(tmp_path, method, {TRAIN: seconds}, {TRAIN: 10.0})
    past = past_runs(RunStore(tmp_path).runs(), CPU)
    found = past.phase(TRAIN, 100, "ia3")
    assert (found.seconds, found.low, found.high) == pytest.approx((220, 200, 240))


def test_a_methods_own_runs_correct_it_before_those_of_others(tmp_path: Path) -> None:
    for method, seconds in (("lora", 20.0), ("full", 20.0), ("boft", 60.0)):
        made(tmp_path, method, {TRAIN: seconds}, {TRAIN: 10.0})
    past = past_runs(RunStore(tmp_path).runs(), CPU)
    assert past.phase(TRAIN, 100, "boft") == Estimate(600, 200, 600)
    assert past.phase(TRAIN, 100, "ia3") == Estimate(200, 200, 600)
    for seconds in (61.0, 62.0):
        made(tmp_path, "boft", {TRAIN: seconds}, {TRAIN: 10.0})
    past = past_runs(RunStore(tmp_path).runs(), CPU)
    assert past.phase(TRAIN, 100, "boft") == Estimate(610, 600, 620), "enough of its own"


def test_seconds_that_were_computed_by_an_earlier_formula_correct_nothing(tmp_path: Path) -> None:
    made(tmp_path, "lora", {TRAIN: 20.0}, {TRAIN: 10.0}, formula=FORMULA - 1)
    assert past_runs(RunStore(tmp_path).runs(), CPU).phase(TRAIN, 100, "lora").seconds == 100


@pytest.mark.parametrize("wrong", [{"status": "failed"}, {"resumed": (10,)}])
def test_runs_that_did_not_end_or_were_resumed_correct_nothing(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    made(tmp_path, "lora", {TRAIN: 20.0}, {TRAIN: 10.0}, **wrong)
    past = past_runs(RunStore(tmp_path).runs(), CPU)
    assert past.phase(TRAIN, 100, "lora").seconds == 100


def test_runs_of_another_device_correct_nothing(tmp_path: Path) -> None:
    made(tmp_path, "lora", {TRAIN: 20.0}, {TRAIN: 10.0})
    other = Device("cuda:0", "NVIDIA L40S", 48 << 30)
    assert past_runs(RunStore(tmp_path).runs(), other).phase(TRAIN, 100, "lora").seconds == 100


def test_a_base_run_takes_what_an_earlier_one_took_for_each_example(tmp_path: Path) -> None:
    made(tmp_path, "base", {SCORE: 64.0})
    spec: RunSpec = RunStore(tmp_path).runs()[0].spec
    scored = spec.settings.eval_examples
    loss_alone = TrainingSettings(eval_examples=2 * scored, eval_answers=False)
    for other in (
        {"base_precision": "nf4"}, {"model": "owner/other"}, {"settings": loss_alone},
        {"task": TaskReference("bundled", "medical")},
    ):  # fmt: skip
        settings = TrainingSettings(eval_examples=2 * scored)
        made(tmp_path, "base", {SCORE: 9000.0}, **({"settings": settings} | other))
    past = past_runs(RunStore(tmp_path).runs(), CPU)
    more = replace(spec, settings=replace(spec.settings, eval_examples=2 * scored))
    request = SweepRequest(spec.model, spec.task, (Variant("lora"),), more.settings)
    found = past.base(request, more, 2 * scored, computed=1.0)
    assert in_all(found.values()).seconds == pytest.approx(128 + 5 + 1)
    kept = past.base(request, spec, scored, computed=1.0)
    assert in_all(kept.values()).seconds == 2, "its numbers are kept"
    unseen = replace(more, dtype_policy="fp32", base_precision="int8")
    found = past.base(request, unseen, scored, computed=30.0)
    assert found[SCORE].seconds == 30, "none of this precision was measured"


def test_a_run_takes_its_phases_and_what_a_run_takes_besides(tmp_path: Path) -> None:
    for method in ("lora", "full", "qlora"):
        made(tmp_path, method, {TRAIN: 20.0, SCORE: 8.0}, {TRAIN: 20.0, SCORE: 8.0, OTHER: 10.0})
    past = past_runs(RunStore(tmp_path).runs(), CPU)
    found = past.run({TRAIN: 20.0, SCORE: 8.0, OTHER: 20.0}, request_of(), "lora")
    assert found[OTHER].seconds == 10, "5 s were taken where 10 were computed"
    assert in_all(found.values()).seconds == pytest.approx(20 + 8 + 10 + found[BETWEEN].seconds)


def test_answering_takes_what_it_took_before_where_it_is_measured(tmp_path: Path) -> None:
    for method, seconds in (("lora", 40.0), ("full", 70.0), ("qlora", 50.0)):
        made(tmp_path, method, {TRAIN: 20.0, ANSWERING: seconds})
    past = past_runs(RunStore(tmp_path).runs(), CPU)
    asked = past.run({TRAIN: 20.0}, request_of(measure_answering=True), "lora")
    assert asked[ANSWERING] == Estimate(50, 40, 70)
    assert ANSWERING not in past.run({TRAIN: 20.0}, request_of(), "lora")
    assert past.run({}, request_of(measure_answering=True), "lora") == {}


def test_the_time_between_two_runs_is_that_of_earlier_sweeps(tmp_path: Path) -> None:
    for method, end in (("lora", 1000.0), ("full", 1039.0), ("ia3", 9000.0)):
        made(tmp_path, method, {TRAIN: 20.0, SCORE: 8.0}, at=end)
    past = past_runs(RunStore(tmp_path).runs(), CPU)
    assert past.between == (39 - 33,), "the last one was not next in its queue"


def test_a_sweep_takes_the_runs_that_it_is_said_to_need() -> None:
    runs = [Estimate(10, 8, 12), Estimate(5, 4, 7)]
    assert in_all(runs) == Estimate(15, 12, 19)
    third = Estimate(4, 3, 6)
    assert together([*runs, third], devices=2) == Estimate(10, 8, 7 + 6)
    assert together([*runs, third], devices=1) == Estimate(19, 15, 25)
    assert in_all(runs[1:]) == Estimate(5, 4, 7)
