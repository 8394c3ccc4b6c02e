"""The report of a sweep, as one document."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records.published import import_files
from ftlab.records.recording import record_sweep
from ftlab.records.store import RunStore, sweep_data
from ftlab.settings.training import TrainingSettings
from ftlab.share.report import sweep_report, unreadable_notes
from tests.fakes import SWEEP, make_run, make_sweep, make_unreadable
from tests.share.fakes import HOSTILE, data_of

DATA = Path(__file__).parents[1] / "data"
MOST_BYTES = 6_000_000


def words_of(report: str) -> str:
    """The report without its scripts and its stylesheet."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", report, flags=re.DOTALL)


def test_it_has_its_finding_and_all_its_parts_in_order_and_loads_nothing(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    whole = sweep_report(data_of(tmp_path), "QLoRA")
    assert len(whole.encode()) < MOST_BYTES
    without_scripts = re.sub(r"<script>.*?</script>", "", whole, flags=re.DOTALL)
    loads = r'(src|href)="?(https?:)?//|@import|<link|url\((?!"data:)'
    assert not re.search(loads, without_scripts)
    report = words_of(whole)
    for tag in ("title", "h1"):
        assert f"<{tag}>QLoRA trained this model with 41 % less memory" in report
    heads = re.findall(r"<h2>(.*?)</h2>", report)
    assert heads == [
        "Which one to use: none is recommended", "What was held equal", "Results", "Figures",
        "The same prompts, answered side by side", "How each number was measured", "Environment",
        "Run it again",
    ]  # fmt: skip
    assert report.count("<svg") == 2  # the card, for light and for dark
    assert "fair comparison" in report
    assert "SQL score" in report
    assert "torch 2.13.0" in report
    assert "python -m ftlab sweep" in report
    assert "CPU resident" in report


@pytest.mark.slow
def test_many_long_runs_stay_below_the_limit(tmp_path: Path) -> None:
    long = TrainingSettings(steps=1000)
    for number in range(60):
        make_run(
            tmp_path, "lora", seed=number // 30,
            hyperparameters={"r": number % 30 + 1, "targets": "x" * 300},
            settings=long, samples=[
                {"prompt": "p" * 5000 + str(i), "reference": "r", "answer_after": "a" * 9000}
                for i in range(20)
            ],
        )  # fmt: skip
    assert len(sweep_report(data_of(tmp_path)).encode()) < MOST_BYTES


def test_runs_without_numbers_are_listed_with_their_reason(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", "out_of_memory")
    report = words_of(sweep_report(data_of(tmp_path)))
    assert "1 run without numbers" in report
    assert "QLoRA, seed 0: out of memory. Out of memory in the train phase" in report


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_is_reported(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    make_unreadable(tmp_path, f"{SWEEP}-07-lora")
    make_unreadable(tmp_path)  # of another sweep
    store = RunStore(tmp_path)
    data = sweep_data(store, SWEEP)
    (note,) = unreadable_notes(store, SWEEP)
    assert note.startswith(f"{SWEEP}-07-lora cannot be read and is left out: ")
    report = words_of(sweep_report(data, notes=[note]))
    assert "Could not be read" in report
    assert "07-lora cannot be read" in report


def test_nothing_done_is_nothing_to_report(tmp_path: Path) -> None:
    make_sweep(tmp_path, status="failed")
    with pytest.raises(FtlabError, match=r"No run of the sweep .* is done \(4 failed\)"):
        sweep_report(data_of(tmp_path))


def test_without_full_fine_tuning_the_rest_is_reported(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("lora", "qlora"))
    report = words_of(sweep_report(data_of(tmp_path)))
    assert "A full fine-tuning run is needed" in report
    assert "Absolute values" in report


def test_the_note_of_all_runs_stands_once_and_that_of_one_run_names_it(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"), notes=["Something to know."])
    make_run(tmp_path, "qlora", notes=["Something to know.", "The score fell by 0.10."])
    report = words_of(sweep_report(data_of(tmp_path)))
    assert report.count("Something to know.") == 1
    assert "QLoRA: The score fell by 0.10." in report


def test_a_recorded_sweep_carries_its_provenance(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs")
    folder = record_sweep(tmp_path / "runs", SWEEP, tmp_path / "recorded", "the command", "abc123")
    store = RunStore(tmp_path / "none", recorded=folder.parent)
    report = words_of(sweep_report(sweep_data(store, SWEEP)))
    assert "It is not measured on this machine." in report
    assert "the command" in report
    assert "abc123" in report
    assert 'class="chip recorded"' in report


def test_a_recording_without_provenance_says_so(tmp_path: Path) -> None:
    make_sweep(tmp_path / "recorded" / SWEEP)
    store = RunStore(tmp_path / "none", recorded=tmp_path / "recorded")
    report = words_of(sweep_report(sweep_data(store, SWEEP)))
    assert "is no recording: its provenance.json cannot be read" in report


def test_imported_results_are_reported_as_those_of_others(tmp_path: Path) -> None:
    import_files(sorted(DATA.glob("*llama*.json")), tmp_path)
    store = RunStore(tmp_path)
    data = sweep_data(store, store.published()[0].sweep_id)
    report = words_of(sweep_report(data))
    assert "Imported results of others: not measured here" in report
    assert "What the publisher says" in report
    assert "fair comparison" not in report
    assert "Run it again" not in report


def test_nothing_that_anybody_said_is_markup(tmp_path: Path) -> None:
    make_run(tmp_path, "full", model=HOSTILE)
    make_run(
        tmp_path, "lora", hyperparameters={"targets": HOSTILE}, notes=[HOSTILE],
        samples=[{"prompt": HOSTILE, "reference": HOSTILE, "answer_after": HOSTILE,
                  "verdict_after": HOSTILE}],
    )  # fmt: skip
    make_run(tmp_path, "qlora", "failed", reason=HOSTILE)
    report = words_of(sweep_report(data_of(tmp_path), notes=[HOSTILE]))
    assert "<script" not in report
    assert "<img" not in report
    assert not re.search(r"<a\b", report)
    assert report.count("&lt;script&gt;") > 10


def test_an_environment_that_differs_is_said_to_differ(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    result = next(tmp_path.glob("*-lora")) / "result.json"
    result.write_text(result.read_text().replace("AMD EPYC 7B13", "another machine"))
    assert "AMD EPYC 7B13; another machine" in words_of(sweep_report(data_of(tmp_path)))


def test_a_method_that_is_no_longer_known_makes_no_report_fail(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    data = data_of(tmp_path)
    table = data.table.replace({"method": {"lora": "gone"}})
    assert "LoRA" in sweep_report(dataclasses.replace(data, table=table))
