"""What is predicted beside Launch: which batch, which texts, and what may go wrong."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import TimedSteps
from ftlab.basics.people import Person, asked_by
from ftlab.basics.units import format_seconds
from ftlab.jobs import sweep_costs
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.jobs.sweep_costs import costing, longest_of
from ftlab.methods.variant import parse_variant
from ftlab.prediction.client import Predictor
from ftlab.prediction.duration import Rates
from ftlab.prediction.question import Question
from ftlab.records.expected import Expected, read_expected, write_expected
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.experiment import costs
from ftlab.tabs.experiment.costs import keep_predicted, predict_costs
from ftlab.tasks.formatting import BatchSize
from ftlab.tasks.reference import parse_task
from tests.fakes import make_run
from tests.prediction.fakes import GB, SizedPredictor, TimedPredictor, failing
from tests.tabs.page_fakes import page_context

CPU = Device("cpu", "CPU, 2 cores", 16 * GB)
RATES = Rates(1e13, 1, 1, 1, overlaps=False)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_costs, "like_devices", lambda name: (CPU,))
    monkeypatch.setattr(sweep_costs, "free_bytes", lambda device: 8 * GB)


@pytest.fixture
def request_(tiny_model: Path, task_file: Path) -> SweepRequest:
    return SweepRequest(
        model=str(tiny_model),
        task=parse_task(str(task_file)),
        variants=(parse_variant("lora"), parse_variant("qlora")),
        settings=TrainingSettings(steps=3, batch_size=2, max_length=128),
    )


def sized(peak: float | None = 1) -> SizedPredictor:
    return SizedPredictor(lambda question: peak, beside=0)


def shown(request: SweepRequest, predictor: Predictor, folder: Path) -> list[str]:
    context = page_context(folder, predictor)
    return [str(each) for each in predict_costs(context, request, predictor.ask)]


def facts(shown_html: str) -> dict[str, Any]:
    found = re.search(r'data-costs="([^"]*)"', shown_html)
    assert found is not None
    return dict(json.loads(html.unescape(found.group(1))))


def test_rows_are_filled_as_predictions_arrive_and_the_peak_comes_last(
    request_: SweepRequest, tmp_path: Path
) -> None:
    first, second, third = map(facts, shown(request_, sized(), tmp_path))
    assert first["methods"]["lora"] == {"peak": "…", "file": "…"}
    assert second["methods"]["lora"]["peak"] == "1.10–1.40 GB"
    assert second["methods"]["lora"]["file"] == "9.8 MB"
    assert second["methods"]["lora"]["verdict"] == "fits"
    assert second["methods"]["qlora"]["peak"] == "…"
    assert second["most"] == ""
    assert third["most"] == "1.10–1.40 GB of memory while training, of 8.00 GB free"


def test_beside_timed_steps_it_is_said_why_predictions_take_a_while(
    request_: SweepRequest, tmp_path: Path
) -> None:
    with TimedSteps("cpu").timed():
        *early, last = shown(request_, sized(), tmp_path)
    words = "Predictions rest while the steps of a run are timed"
    assert [words in one for one in early] == [True, True]
    assert words not in last
    assert words not in shown(request_, sized(), tmp_path)[0]


@pytest.mark.parametrize(("peak", "verdict"), [(5, "fits"), (6, "tight"), (7, "does not fit")])
def test_the_verdict_is_for_the_free_memory(
    request_: SweepRequest, tmp_path: Path, peak: float, verdict: str
) -> None:
    last = facts(shown(request_, sized(peak), tmp_path)[-1])
    assert last["methods"]["lora"]["verdict"] == verdict


def test_measured_runs_narrow_the_shown_range(request_: SweepRequest, tmp_path: Path) -> None:
    for measured in (1_150_000, 1_180_000, 1_200_000):
        both = {"predicted_net_peak_bytes": 1_000_000, "net_peak_memory_bytes": measured}
        make_run(tmp_path, "lora", measures=both)
    said = shown(request_, sized(), tmp_path)[-1]
    cells = facts(said)["methods"]
    assert cells["lora"]["peak"] == "1.15–1.20 GB"
    assert cells["qlora"]["peak"] == "1.10–1.40 GB"
    assert "3 runs of this method here took 1.15 to 1.20 times that" in cells["lora"]["why"]
    assert "its width is what 3 runs here showed" in said


def test_what_cannot_be_predicted_is_a_dash_with_its_reason(
    request_: SweepRequest, tmp_path: Path
) -> None:
    last = facts(shown(request_, sized(None), tmp_path)[-1])
    cells = last["methods"]["lora"]
    assert (cells["peak"], cells["file"]) == ("–", "9.8 MB")
    assert cells["why"] == "It <i>cannot</i> be."
    assert last["most"] == ""


def test_a_failed_prediction_keeps_what_is_known_and_is_escaped(
    request_: SweepRequest, tmp_path: Path
) -> None:
    def ends_at_qlora(question: Question) -> float:
        return failing(question) if question.variant.method == "qlora" else 1

    said = shown(request_, SizedPredictor(ends_at_qlora, beside=0), tmp_path)[-1]
    assert set(facts(said)["methods"]) == {"lora"}
    assert "No further prediction: The prediction &lt;b&gt;ended&lt;/b&gt;." in said


def test_a_method_with_several_variants_shows_the_first_and_counts_the_highest(
    request_: SweepRequest, tmp_path: Path
) -> None:
    sizes = SizedPredictor(
        lambda question: int(question.variant.values().get("r", 4)) / 4, beside=0
    )
    several = replace(request_, variants=(parse_variant("lora:r=4"), parse_variant("lora:r=8")))
    last = facts(shown(several, sizes, tmp_path)[-1])
    assert last["methods"]["lora"]["peak"] == "1.10–1.40 GB"
    assert last["most"].startswith("2.20–2.80 GB")


def test_full_fine_tuning_that_is_not_ticked_and_does_not_fit_is_said(
    request_: SweepRequest, tmp_path: Path
) -> None:
    def large_if_full(question: Question) -> float:
        return 7 if question.variant.method == "full" else 1

    sizes = SizedPredictor(large_if_full, beside=0)
    said = facts(shown(request_, sizes, tmp_path)[-1])
    assert set(said["methods"]) == {"lora", "qlora"}
    assert "does not fit" not in {cells["verdict"] for cells in said["methods"].values()}
    assert said["full"].startswith("Full fine-tuning would not fit this device (≈ 7.")
    assert facts(shown(request_, sized(), tmp_path)[-1])["full"] == ""
    with_full = replace(request_, variants=(parse_variant("full"), parse_variant("lora")))
    assert facts(shown(with_full, sizes, tmp_path)[-1])["full"] == ""


def test_the_question_is_about_the_longest_batch_of_all_seeds(request_: SweepRequest) -> None:
    one = longest_of(request_)
    assert one.is_known
    assert (one.batch.rows, one.batch.length % 8) == (2, 0)
    every = [longest_of(replace(request_, seeds=(seed,))).batch for seed in range(4)]
    assert longest_of(replace(request_, seeds=(0, 1, 2, 3))).batch == max(
        every, key=lambda batch: (batch.length, batch.completion_tokens)
    )


def test_a_changed_file_is_read_again(request_: SweepRequest, task_file: Path) -> None:
    before = longest_of(request_).batch
    head, *lines = task_file.read_text().splitlines()
    longer = [
        "a much longer question than before, " * 2 + line.replace(",", "; ") for line in lines
    ]
    task_file.write_text("\n".join([head, *(f'"{line}",yes' for line in longer)]))
    assert longest_of(request_).batch.length > before.length


def test_a_model_that_is_not_here_is_predicted_at_the_maximum_length(
    request_: SweepRequest, tmp_path: Path
) -> None:
    elsewhere = replace(request_, model="meta-llama/Llama-3.1-8B")
    assert longest_of(elsewhere).batch == BatchSize(2, 128, 254)
    predictor = sized()
    said = shown(elsewhere, predictor, tmp_path)[-1]
    assert "is known once the model is on this machine" in said
    assert predictor.asked[0].step.length == 128
    assert predictor.asked[0].config["model_type"] == "llama"


def test_settings_of_the_sweep_are_those_of_the_question(request_: SweepRequest) -> None:
    settings = replace(
        request_.settings, accumulation=2, gradient_checkpointing=True, optimizer="adamw_8bit"
    )
    lora, qlora = costing(replace(request_, settings=settings, dtype_policy="mixed")).questions
    assert (lora.step.weights, lora.step.mixed, lora.step.device) == ("fp32", True, "cpu")
    assert (lora.step.accumulation, lora.step.checkpointing) == (2, True)
    assert lora.step.optimizer == "adamw_8bit"
    assert (lora.step.packing, qlora.step.packing) == (None, "nf4-double")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "owner/unknown-model"}, "No prediction: "),
        ({"model": "/no/such/folder"}, "No prediction: "),
        ({"task": parse_task("/no/such/file.jsonl")}, "No prediction: "),
        ({"settings": TrainingSettings(max_length=16)}, "No prediction: All"),
    ],
)
def test_an_error_that_prevents_a_prediction_is_a_sentence(
    request_: SweepRequest, tmp_path: Path, changes: dict[str, Any], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("ftlab.prediction.source._from_hub", unreachable)
    (said,) = shown(replace(request_, **changes), sized(), tmp_path)
    assert words in said
    assert facts(said) == {"methods": {}, "most": "", "full": ""}


def unreachable(name: str) -> dict[str, Any]:
    raise FtlabError(f"The config of '{name}' cannot be had.")


def test_each_row_says_the_time_of_a_run_and_the_launch_bar_that_of_the_sweep(
    request_: SweepRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sweep_costs, "kept_rates", lambda device: Rates(1e13, 1, 1, 1, overlaps=False)
    )
    said = facts(shown(request_, TimedPredictor(lambda question: 1), tmp_path)[-1])
    assert "s" in said["methods"]["lora"]["time"]
    assert said["methods"]["lora"]["how_long"].startswith("One run, from its start to its scores")
    assert said["time"] == format_seconds(said["seconds"])
    assert said["seconds"] > 4 * 7  # two runs and their two base runs


def test_a_method_that_is_not_applicable_takes_no_time_in_the_sweep(
    request_: SweepRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sweep_costs, "kept_rates", lambda device: Rates(1e13, 1, 1, 1, overlaps=False)
    )
    more = replace(request_, variants=(*request_.variants, parse_variant("bitfit")))
    both = [
        facts(shown(each, TimedPredictor(lambda question: 1), tmp_path)[-1])["seconds"]
        for each in (request_, more)
    ]
    assert both[0] == both[1]


def test_without_rates_the_rest_is_shown_and_they_are_measured_last(
    request_: SweepRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_costs, "kept_rates", lambda device: None)
    monkeypatch.setattr(costs, "rates_here", lambda device: None)  # a run has the device
    before_last, last = map(
        facts, shown(request_, TimedPredictor(lambda question: 1), tmp_path)[-2:]
    )
    assert last["methods"] == before_last["methods"]
    assert last["methods"]["lora"]["peak"] == "1.10–1.40 GB"
    assert "time" not in last["methods"]["lora"]
    assert "time" not in last


FAST = Rates(1e13, 1, 1, 1, overlaps=False, few_rows=1)


def test_while_a_run_has_the_device_the_missing_time_is_explained_and_its_end_gives_it(
    request_: SweepRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Rates] = []
    monkeypatch.setattr(sweep_costs, "kept_rates", lambda device: kept[0] if kept else None)
    monkeypatch.setattr(costs, "rates_here", lambda device: None)
    running = make_run(tmp_path, "lora", "running", device="cpu")
    predictor = TimedPredictor(lambda question: 1)
    said = facts(shown(request_, predictor, tmp_path)[-1])
    assert said["unknown"].startswith("A run has the CPU, whose speed was not measured yet")
    shutil.rmtree(running.path)
    kept.append(FAST)  # a run measures them at its end
    said = facts(shown(request_, predictor, tmp_path)[-1])
    assert said["time"]
    assert "unknown" not in said


def test_the_end_of_a_sweep_counts_what_its_device_has_to_do_before(
    request_: SweepRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_costs, "kept_rates", lambda device: FAST)
    predictor = TimedPredictor(lambda question: 1)
    said = facts(shown(request_, predictor, tmp_path)[-1])
    assert (said["ahead"], said["queue"]) == (0, "")
    for sweep_id in ("20260101-000000-aaaa", "20260102-000000-bbbb"):
        queued = make_run(tmp_path, "lora", "queued", device="cpu", sweep_id=sweep_id)
        write_expected(queued, Expected(train=40, evaluate=12, other=8, between=2))
    elsewhere = make_run(tmp_path, "full", "queued", device="cuda:0")
    write_expected(elsewhere, Expected(train=500))
    said = facts(shown(request_, predictor, tmp_path)[-1])
    assert (said["ahead"], said["queue"]) == (124, "2 min 04 s")
    make_run(tmp_path, "ia3", "queued", device="cpu", sweep_id="20260103-000000-cccc")
    assert facts(shown(request_, predictor, tmp_path)[-1])["ahead"] is None, "nobody knows it"


TWO_CARDS = [Device(f"cuda:{number}", "Card", 24 * GB) for number in (0, 1)]


@pytest.mark.parametrize(
    ("device", "devices", "count", "ahead"),
    [
        ("cuda:0", (), 4, 0),
        ("cuda:0", ("cuda:0", "cuda:1"), 1, 0),
        ("cuda:0", ("cuda:0", "cuda:1"), 2, 600),
        ("cuda:0", ("cuda:0", "cuda:1"), 3, 600),
        ("cpu", (), 3, 0),
    ],
)
def test_a_sweep_on_two_cards_begins_when_the_first_of_them_is_free(
    device: str, devices: tuple[str, ...], count: int, ahead: float, tmp_path: Path
) -> None:
    for number in range(count):
        queued = make_run(tmp_path, "lora", "queued", device=device, seed=number)
        queued.complete_spec(replace(queued.spec(), devices=devices))
        write_expected(queued, Expected(train=600))
    runs = RunStore(tmp_path).runs()
    assert costs.seconds_ahead(runs, TWO_CARDS, 1) == ahead


def test_of_another_person_no_more_runs_come_before_mine_than_mine_are(tmp_path: Path) -> None:
    for owner, number in (("ada", 5), ("bob", 2)):
        with asked_by(Person(owner)):
            for seed in range(number):
                queued = make_run(
                    tmp_path, "lora", "queued", seed=seed, sweep_id=f"20261125-120000-{owner}"
                )
                write_expected(queued, Expected(train=600))
    runs = RunStore(tmp_path).runs()
    for owner, count, ahead in (("ada", 1, 6), ("bob", 1, 3), ("bob", 4, 6), ("cyd", 3, 5)):
        with asked_by(Person(owner)):
            assert costs.seconds_ahead(runs, [CPU], count) == 600 * ahead, (owner, count)


def test_a_launch_keeps_what_was_predicted_of_each_run(
    request_: SweepRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_costs, "kept_rates", lambda device: FAST)
    context = page_context(tmp_path, TimedPredictor(lambda question: 1))
    said = facts(
        [str(each) for each in predict_costs(context, request_, context.predictor.ask)][-1]
    )
    specs = enqueue_sweep(checked(request_), tmp_path)
    keep_predicted(context, request_, specs)
    runs = context.store.runs()
    expected = [one for run in runs if (one := read_expected(run.directory)) is not None]
    assert len(expected) == len(specs) == 4
    assert sum(one.total + one.between for one in expected) == pytest.approx(said["seconds"], 0.01)
    assert costs.seconds_ahead(runs, [CPU], 1) == pytest.approx(said["seconds"], 0.01)


def test_what_was_not_predicted_yet_is_not_kept(request_: SweepRequest, tmp_path: Path) -> None:
    context = page_context(tmp_path, TimedPredictor(lambda question: 1))
    keep_predicted(context, request_, enqueue_sweep(checked(request_), tmp_path))
    assert [read_expected(run.directory) for run in context.store.runs()] == [None] * 4


def test_an_unforeseen_error_is_a_note_and_keeps_what_is_shown(
    request_: SweepRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(question: Question) -> float:
        if question.variant.method == "qlora":
            raise ZeroDivisionError("no rates")
        return 1

    said = shown(request_, SizedPredictor(breaks, beside=0), tmp_path)[-1]
    assert set(facts(said)["methods"]) == {"lora"}
    assert "No further prediction: ZeroDivisionError: no rates" in said
    assert "Traceback" in capsys.readouterr().err
