"""The Plan tab's logic: fields in, verdict, methods, changes and curve out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.cards import find_card
from ftlab.basics.devices import Device
from ftlab.basics.errors import InvalidRequest
from ftlab.basics.units import format_seconds
from ftlab.prediction.client import Predictor
from ftlab.prediction.duration import ON_CARDS, seconds_of_steps
from ftlab.prediction.question import Question
from ftlab.prediction.run_time import FORMULA, FORMULA_KEY
from ftlab.records.result import PhaseMeasure, dump_result
from ftlab.tabs.context import Latest, Links
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.plan import tab
from ftlab.tabs.plan.request import changed_fields, curve_questions, read_plan
from ftlab.tabs.plan.tab import curve_heading, make_curve, make_plan, show_seen_times
from tests.fakes import make_run
from tests.prediction.fakes import SizedPredictor, TimedPredictor, failing
from tests.tabs.page_fakes import page_context

FIELDS: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B", "config": "", "card": "rtx-4090", "method": "lora",
    "length": 1024, "batch": 4, "accumulation": 1, "completion_tokens": "", "weights": "bf16",
    "optimizer": "adamw", "checkpointing": False, "shard": 1,
}  # fmt: skip


def values(**changes: Any) -> dict[str, Any]:
    return {f"plan_{name}": value for name, value in (FIELDS | changes).items()}


def shown(tmp_path: Path, predictor: Predictor, **changes: Any) -> list[list[Any]]:
    context = page_context(tmp_path, predictor)
    return list(make_plan(context, Form(), values(**changes), predictor.ask))


def test_the_verdict_comes_first_and_each_method_as_it_is_known(tmp_path: Path) -> None:
    states = shown(tmp_path, SizedPredictor(lambda q: 10))
    assert "is being simulated" in states[0][0]
    assert states[0][1].count("…") == 4
    assert "LoRA on Llama 3.1 8B needs" in states[1][0]
    assert ">fits<" in states[1][0]
    assert "14.26 GB</span> are left." in states[1][0], "25.76 GB, less 0.5 for CUDA and 11"
    trained = re.sub("<[^>]+>", "", states[1][0])
    assert "Trains 2.4 M of 8.0 G parameters (0.030 %); its file has 9.8 MB." in trained
    assert states[1][1].count("…") == 3
    assert states[-1][1].count("…") == 0


def test_each_method_says_the_time_of_1000_steps_and_with_a_price_what_they_cost(
    tmp_path: Path,
) -> None:
    predictor = TimedPredictor(lambda q: 10)
    *_, last = shown(tmp_path, predictor, accumulation=3)
    seconds = seconds_of_steps(
        predictor.known(predictor.asked[0]).work,  # type: ignore[union-attr]
        find_card("rtx-4090"),
        3,
    )
    assert seconds is not None
    low, high = (format_seconds(seconds * times) for times in (ON_CARDS.low, ON_CARDS.high))
    assert low != high
    assert f"({low} to {high})" in last[0]
    assert format_seconds(seconds) in last[1]
    assert f'1,000 steps take about <span class="pred">{format_seconds(seconds)}</span>' in last[0]
    assert "cost" not in last[1]
    *_, priced = shown(tmp_path, predictor, price="3600", accumulation=3)
    assert f">{seconds:.2f}<" in priced[1]
    assert "at 3,600 an hour" in priced[0]


def test_what_training_took_here_stands_beside_what_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tab, "resolve_device", lambda name: Device("cpu", "CPU", 1 << 30))
    context = page_context(tmp_path, SizedPredictor(lambda q: 10))
    assert show_seen_times(context)[0] == ""
    directory = make_run(tmp_path, "lora")
    result = directory.result()
    assert result is not None
    environment = result.environment | {FORMULA_KEY: FORMULA}
    phases, predicted = {"train": PhaseMeasure(30.0)}, {"train": 20.0}
    timed = replace(result, phases=phases, predicted_seconds=predicted, environment=environment)
    directory.result_file.write_bytes(dump_result(timed))
    said, figure = show_seen_times(page_context(tmp_path, SizedPredictor(lambda q: 10)))
    assert "The one run here took 1.50 times what was predicted" in said
    assert figure["visible"]


def test_a_step_that_is_not_simulated_has_no_time(tmp_path: Path) -> None:
    *_, last = shown(tmp_path, SizedPredictor(lambda q: 10), price="1")
    assert "1,000 steps take" not in last[0]
    assert last[1].count("<td>–</td>") == 4


def test_a_price_that_is_no_number_is_an_error_at_its_field(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="Price an hour is 'much'"):
        read_plan(values(price="much"))


def test_changes_that_make_it_fit_are_offered(tmp_path: Path) -> None:
    def size(question: Question) -> float:
        return 15 if question.step.packing or question.step.checkpointing else 40

    predictor = SizedPredictor(size)
    *_, last = shown(tmp_path, predictor)
    verdict, _, offered, *buttons = last[:6]
    assert "does not fit" in verdict
    assert 'Short by <span class="pred">15.74 GB</span>.' in verdict
    assert [button["visible"] for button in buttons] == [True, True, False]
    assert buttons[0]["value"].startswith("Gradient checkpointing: ≈ 16.00 GB, fits")
    assert offered[0]["checkpointing"] is True
    assert offered[1]["method"] == "qlora"


def test_more_cards_are_offered_and_a_plan_over_them_is_of_each_and_has_no_time(
    tmp_path: Path,
) -> None:
    predictor = SizedPredictor(lambda q: 60 / q.step.shard)
    *_, last = shown(tmp_path, predictor, method="full")
    _, _, offered, button, *_ = last
    assert button["value"].startswith("Over 4 cards: ≈ 16.00 GB, fits (the same result;")
    assert offered[0]["shard"] == 4
    *_, over = shown(tmp_path, predictor, method="full", shard=4)
    assert "on each of 4 cards" in over[0]
    assert "The time of a step over several cards is not predicted" in over[0]


def test_a_plan_that_no_change_makes_fit_says_so(tmp_path: Path) -> None:
    *_, last = shown(tmp_path, SizedPredictor(lambda q: 400))
    assert "No change of the fields here makes it fit." in last[0]
    assert not any(button["visible"] for button in last[3:6])


def test_a_failed_prediction_is_one_escaped_sentence(tmp_path: Path) -> None:
    *_, last = shown(tmp_path, SizedPredictor(failing))
    assert "The prediction &lt;b&gt;ended&lt;/b&gt;." in last[0]


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"model": ""}, "plan_model", "No model is named"),
        ({"model": None}, "plan_model", "No model is named"),
        ({"config": "{broken"}, "plan_model", "not valid JSON"),
        ({"card": "abacus"}, "plan_card", "no card 'abacus'"),
        ({"card": None}, "plan_card", "no card"),
        ({"method": "lorra"}, "plan_variants", "There is no method 'lorra'"),
        ({"length": None}, "plan_length", "Longest example is empty"),
        ({"batch": 1.5}, "plan_batch", "Batch is '1.5'"),
        ({"accumulation": "x"}, "plan_accumulation", "Accumulation is 'x'"),
        ({"completion_tokens": 2_000}, "plan_completion_tokens", "can carry loss"),
        ({"length": 10**9}, "plan_length", "it must lie between 1 and 1,000,000"),
        ({"weights": "fp8"}, "plan_weights", "'fp8' is none of: bf16, fp16, fp32"),
        ({"optimizer": ["sgd"]}, "plan_optimizer", "is none of: adamw"),
        ({"checkpointing": 1}, "plan_checkpointing", "it must be true or false"),
    ],
)
def test_a_wrong_value_is_reported_at_its_field(
    changes: dict[str, Any], field: str, sentence: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_plan(values(**changes))
    assert [error.field for error in caught.value.errors] == [field]
    assert sentence in str(caught.value)


def test_a_pasted_config_goes_before_the_chosen_model() -> None:
    config = {"model_type": "gpt2", "n_positions": 512}
    plan = read_plan(values(config=json.dumps(config)))
    assert plan.model.label == "pasted config"
    assert {length for _, length, _ in curve_questions(plan)} == {256, 512}


def test_the_chosen_method_stands_before_the_four() -> None:
    plan = read_plan(values(method="dora"))
    assert [method for method, _ in plan.rows] == ["dora", "full", "lora", "qlora", "prompt_tuning"]


def test_the_curve_grows_point_by_point_and_says_where_a_line_leaves_the_card(
    tmp_path: Path,
) -> None:
    sizes = {"lora": 0.02, "qlora": 0.01, "prompt_tuning": 0.001, "full": 1}
    predictor = SizedPredictor(lambda q: sizes[q.variant.method] * q.step.length)
    states = list(make_curve(page_context(tmp_path, predictor), values(), predictor.ask))
    assert len(states) == 20
    assert "1 of 20 predictions" in states[0][0]
    title, figure = states[-1]
    assert "LoRA at about" in title
    assert "Above the range of the chart: Full fine-tuning" in title
    assert {trace.name for trace in figure["value"].data} == {"LoRA", "QLoRA", "Prompt tuning"}


def test_a_curve_of_wrong_fields_says_what_is_wrong(tmp_path: Path) -> None:
    predictor = SizedPredictor(failing)
    context = page_context(tmp_path, predictor)
    ((title, _),) = make_curve(context, values(batch=0), predictor.ask)
    assert "Batch is 0" in title
    assert "no prediction" not in curve_heading([], read_plan(values()), 0, 4)


def test_a_change_is_put_into_the_fields() -> None:
    plan = read_plan(values())
    assert changed_fields(plan.chosen) == {
        "method": "lora", "length": 1024, "batch": 4, "accumulation": 1, "checkpointing": False,
        "completion_tokens": "", "shard": 1,
    }  # fmt: skip


def test_each_button_puts_its_own_change_into_the_fields(tmp_path: Path) -> None:
    predictor = SizedPredictor(lambda q: 15 if q.step.packing or q.step.checkpointing else 40)
    *_, last = shown(tmp_path, predictor)
    with gr.Blocks() as page, gr.Tabs() as tabs, gr.Tab("Plan"):
        tab.build(page_context(tmp_path, predictor), Links.between(tabs))
    buttons = {part.elem_id: number for number, part in page.blocks.items()}
    for place, expected in ((1, ("lora", True)), (2, ("qlora", False))):
        target = (buttons[f"plan-fix-{place}"], "click")
        (pressed,) = (fn for fn in page.fns.values() if target in fn.targets)
        values = [update["value"] for update in pressed.fn(last[2])]
        put = dict(zip([part.elem_id for part in pressed.outputs], values, strict=True))
        assert (put["f-plan-method"], put["f-plan-checkpointing"]) == expected


def test_an_older_plan_of_the_same_page_is_outdated() -> None:
    latest = Latest()
    first, other = latest.begin("a"), latest.begin("b")
    second = latest.begin("a")
    assert not latest.is_newest("a", first)
    assert latest.is_newest("a", second)
    assert latest.is_newest("b", other)


def test_old_sessions_are_forgotten_and_active_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ftlab.tabs.context._MOST_REMEMBERED", 3)
    latest = Latest()
    first = latest.begin("own")
    for number in range(20):
        own = latest.begin("own")
        latest.begin(f"made up {number}")
        assert latest.is_newest("own", own)
    assert not latest.is_newest("own", first)
    assert len(vars(latest)["_newest"]) == 3
