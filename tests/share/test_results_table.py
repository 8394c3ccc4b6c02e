"""The table of a report: every measure, its spread, and the runs one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.records.metrics import METRICS
from ftlab.records.run import Annotations, write_annotations
from ftlab.share.report_sections import results_section, value_text
from tests.fakes import make_run, make_sweep
from tests.share.fakes import HOSTILE, data_of


def test_every_measure_has_a_row_with_its_unit_and_direction(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    section = results_section(data_of(tmp_path).table)
    for metric in (metric for metric in METRICS.values() if not metric.is_optional):
        unit = f"{metric.unit}, {metric.direction} is better"
        row = f"<tr><th>{metric.label} <small>{unit}</small></th>"
        assert row in section
    assert "Each was run once: how far repeats differ is not known" in section


def test_seeds_are_a_mean_with_their_standard_deviation() -> None:
    metric = METRICS["score_after"]
    assert value_text(metric, [0.5, 0.7]) == "0.60 ± 0.14"
    assert value_text(metric, [0.5]) == "0.50"
    assert value_text(metric, [0.5, 0.5]) == "0.50"
    assert value_text(metric, []) == "–"


def test_a_gain_has_its_interval_for_one_seed_and_the_spread_for_several(tmp_path: Path) -> None:
    ends = {"score_gain_low": 0.25, "score_gain_high": 0.5}
    make_run(tmp_path, "lora", measures=ends | {"score_gain": 0.4})
    for seed, gain in enumerate((0.2, 0.4)):
        make_run(tmp_path, "full", seed=seed, measures=ends | {"score_gain": gain})
    html = results_section(data_of(tmp_path).table)
    assert "+0.40 (+0.25 to +0.50)" in html
    assert "+0.30 ± 0.14" in html


def test_what_was_not_measured_is_a_dash(tmp_path: Path) -> None:
    make_run(tmp_path, "full", measures={"score_after": None})
    section = results_section(data_of(tmp_path).table)
    after = section[section.index("<th>Score <small>") :]
    assert ">–</td>" in after[: after.index("</tr>")]


def test_a_run_that_is_not_done_gives_no_number_but_its_reason(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", seed=0)
    make_run(tmp_path, "lora", "failed", seed=1, reason="The loss was no number.")
    section = results_section(data_of(tmp_path).table)
    assert "1 of 2" in section
    assert "The loss was no number." in section
    assert "±" not in section[section.index("<table") :]


def test_many_variants_are_several_tables_that_fit_on_paper(tmp_path: Path) -> None:
    for rank in range(1, 14):
        make_run(tmp_path, "lora", hyperparameters={"r": rank})
    section = results_section(data_of(tmp_path).table)
    assert section.count('<table class="results') == 3
    assert section.count("<b>LoRA r=13</b>") == 2  # in its table and in the list of runs


@pytest.mark.parametrize("words", ["tags", "note", "reason", "variant"])
def test_what_people_and_records_say_is_escaped(tmp_path: Path, words: str) -> None:
    make_run(
        tmp_path, "lora", "failed", reason=HOSTILE if words == "reason" else "",
        hyperparameters={"targets": HOSTILE} if words == "variant" else None,
    )  # fmt: skip
    run = data_of(tmp_path).runs[0]
    write_annotations(
        run.directory,
        Annotations(
            tags=(HOSTILE[:39],) if words == "tags" else (),
            note=HOSTILE if words == "note" else "",
        ),
    )
    section = results_section(data_of(tmp_path).table)
    assert "&lt;/script&gt;" in section
    assert "<script" not in section
    assert "<img" not in section
