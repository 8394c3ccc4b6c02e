"""Which rows are shown, in which order, with which columns; and that exports hold the same."""

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ftlab.basics.words import rate_name
from ftlab.records.result import status_label
from ftlab.records.run import Annotations, write_annotations
from ftlab.records.store import RunStore
from ftlab.tabs.results.columns import (
    COLUMNS,
    FACETS,
    Query,
    Shown,
    apply_filters,
    export_keys,
    facet_values,
    filtered,
    known_facets,
    records,
    run_name,
    show,
    shown_records,
    sweep_choices,
    sweep_name,
    to_csv,
    to_json,
    usual_columns,
    write_export,
)
from tests.fakes import SWEEP, make_run, make_sweep

OTHER = "20261101-093000-cd34"


def table_of(folder: Path) -> pd.DataFrame:
    return RunStore(folder).table()


def shown(folder: Path, **query: Any) -> Shown:
    return show(table_of(folder), Query(**query))


def read_csv(answer: Shown) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(shown_records(answer), export_keys(answer)))))


# ---------------------------------------------------------------- filters


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A full fine-tuning, a failed LoRA, and a QLoRA without memory that has tags and a note."""
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder, "full")
    make_run(folder, "lora", status="failed")
    run = make_run(folder, "qlora", status="out_of_memory")
    write_annotations(run, Annotations(tags=("demo", "for Ada"), note="Too slow by half."))
    return table_of(folder)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", 3), ("lora", 2), ("lora failed", 1), ("OUT of memory", 1), ("full", 1),
        ("nonsense", 0), ("lo.a", 0), ("ada slow", 1), ("ab12-00", 1), ("25 nov", 3),
        ("smollm2", 3),
    ],
)  # fmt: skip
def test_a_search_keeps_rows_that_hold_every_word(
    three: pd.DataFrame, text: str, found: int
) -> None:
    assert len(filtered(three, text=text)) == found


@pytest.mark.parametrize(
    ("key", "values", "found"),
    [
        ("method", ("lora", "qlora"), 2),
        ("status", ("failed",), 1),
        ("task", ("SQL",), 3),
        ("origin", ("recorded",), 0),
        ("model", ("SmolLM2-135M-Instruct (bundled)",), 3),
        ("tags", ("demo",), 1),
        ("tags", ("demo", "b"), 1),
        ("method", (), 3),
    ],
)
def test_ticked_values_filter_their_column(
    three: pd.DataFrame, key: str, values: tuple[str, ...], found: int
) -> None:
    assert len(apply_filters(three, Query(facets={key: values}))) == found


def test_archived_runs_are_shown_only_when_asked_for(tmp_path: Path) -> None:
    write_annotations(make_run(tmp_path), Annotations(archived=True))
    assert shown(tmp_path).rows.empty
    assert len(shown(tmp_path, archived=True).rows) == 1
    assert len(filtered(table_of(tmp_path))) == 1  # programs see all


def test_wrong_conditions_are_said_and_the_other_filters_hold(three: pd.DataFrame) -> None:
    answer = show(three, Query(text="qlora", conditions="pikk < 1"))
    assert "There is no number 'pikk'" in answer.error
    assert list(answer.rows["method"]) == ["qlora"]


def test_facets_count_their_rows_and_unknown_ones_from_a_browser_are_ignored(
    three: pd.DataFrame,
) -> None:
    assert facet_values(three, "status")[0] == ("done", "done", 1)
    assert facet_values(three, "tags") == [("demo", "demo", 1), ("for Ada", "for Ada", 1)]
    given = {"method": ["lora"], "status": "done", "nonsense": ["x"], "task": [], "tags": [3]}
    assert known_facets(given) == {"method": ("lora",), "tags": ("3",)}
    assert known_facets(None) == known_facets(["method"]) == {}


def test_a_sweep_can_be_chosen_by_its_name(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("lora",))
    make_sweep(tmp_path, methods=("full", "lora"), sweep_id=OTHER)
    table = table_of(tmp_path)
    (all_label, _), (newest, _), (oldest, value) = sweep_choices(table)
    assert all_label == "All sweeps"
    assert newest.startswith("25 Nov 12:00 ab12")
    assert (value, oldest.endswith("2 runs")) == (OTHER, True)
    assert len(filtered(table, SWEEP)) == 1


# ---------------------------------------------------------------- columns and order


def test_tags_are_a_column_only_where_a_run_has_one(three: pd.DataFrame) -> None:
    assert "tags" in usual_columns(three)
    assert "tags" not in usual_columns(three[three["tags"] == ""])


def test_every_column_can_be_shown_in_its_order_but_sorts_only_if_shown(
    three: pd.DataFrame,
) -> None:
    answer = show(three, Query(columns=tuple(reversed(COLUMNS))))
    assert [column.key for column in answer.columns] == list(COLUMNS)
    unsorted = show(three, Query(sort="note", descending=True))
    assert list(unsorted.rows["run_id"]) == list(three["run_id"])


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("group", ["runs", "seeds"])
def test_rows_without_a_value_come_last_either_way_and_text_sorts_without_case(
    tmp_path: Path, descending: bool, group: Any
) -> None:
    methods = (("qlora", "failed", ()), ("full", "done", ("b",)), ("lora", "done", ("A",)))
    for method, status, tags in methods:
        run = make_run(tmp_path, method, status)  # type: ignore[arg-type]
        write_annotations(run, Annotations(tags=tags))
    for key in ("train_seconds", "tags"):
        answer = shown(tmp_path, sort=key, descending=descending, group=group)
        order = ["full", "lora"] if descending else ["lora", "full"]
        assert list(answer.rows["method"]) == [*order, "qlora"]


def test_sweeps_stay_together_and_are_sorted_within(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("full", "lora"), sweep_id=OTHER)
    make_sweep(tmp_path, ("full", "lora"))
    answer = shown(tmp_path, group="sweeps", sort="train_seconds")
    assert list(answer.rows["sweep_id"]) == [SWEEP, SWEEP, OTHER, OTHER]
    assert list(answer.rows["method"]) == ["lora", "full"] * 2


# ---------------------------------------------------------------- means over seeds


def test_the_seeds_of_a_variant_in_a_sweep_become_a_mean_with_the_standard_deviation(
    tmp_path: Path,
) -> None:
    scores = [0.5, 0.6, 0.9]
    for seed, score in enumerate(scores):
        make_run(tmp_path, "lora", seed=seed, measures={"score_after": score})
    make_run(tmp_path, "lora", hyperparameters={"r": 4})
    make_sweep(tmp_path, ("lora",), sweep_id=OTHER)
    lora, other, old = shown(tmp_path, group="seeds").rows.to_dict(orient="records")
    assert lora["score_after"] == pytest.approx(statistics.mean(scores))
    assert lora["score_after_sd"] == pytest.approx(statistics.stdev(scores))
    assert (lora["score_after_n"], lora["seed"], len(lora["run_ids"])) == (3, "0, 1, 2", 3)
    assert (other["variant"], other["score_after_n"]) == ("LoRA r=4", 1)
    assert pd.isna(other["score_after_sd"])
    assert old["sweep_id"] == OTHER


def test_a_seed_without_the_number_is_not_counted_and_a_disturbed_one_marks_its_group(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, "lora", seed=0, measures={"disturbed": True})
    make_run(tmp_path, "lora", seed=1, measures={"disturbed": False})
    make_run(tmp_path, "lora", "failed", seed=2)
    make_run(tmp_path, "qlora", measures={"disturbed": False})
    row, other = shown(tmp_path, group="seeds").rows.to_dict(orient="records")
    assert other["disturbed"] is False
    assert row["score_after_n"] == 2
    assert row["status"] == "done, failed"
    assert row["disturbed"] is True


# ---------------------------------------------------------------- exports


def test_exports_hold_exactly_the_rows_and_columns_shown_with_raw_numbers(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    columns = ("variant", "train_seconds", "adapter_bytes", "run_id")
    answer = shown(tmp_path, text="lora", columns=columns, sort="train_seconds",
                   descending=True)  # fmt: skip
    as_csv, as_json = read_csv(answer), json.loads(to_json(shown_records(answer)))
    assert list(as_csv[0]) == list(as_json[0]) == list(columns)
    assert [row["variant"] for row in as_csv] == ["QLoRA", "LoRA"]
    assert [row["run_id"] for row in as_json] == list(answer.rows["run_id"])
    assert as_json[1]["adapter_bytes"] == 9_794_952
    assert as_csv[1]["train_seconds"] == "60.4"
    assert len(read_csv(shown(tmp_path, limit=1))) == 4, "also those that are not drawn yet"


def test_a_grouped_export_has_mean_spread_and_count(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), seeds=(0, 1))
    answer = shown(tmp_path, group="seeds", columns=("variant", "seed", "score_after"))
    (row,) = read_csv(answer)
    assert list(row) == ["variant", "seed", "score_after", "score_after_sd", "score_after_n"]
    assert (row["seed"], row["score_after"], row["score_after_n"]) == ("0, 1", "0.71", "2")
    assert json.loads(to_json(shown_records(answer)))[0]["score_after_sd"] == 0


def test_no_run_is_no_error_and_an_export_of_no_rows_still_has_its_columns(
    tmp_path: Path,
) -> None:
    facets = dict.fromkeys(FACETS, ("z",))
    for group in ("runs", "sweeps", "seeds"):
        answer = shown(tmp_path, sweep="y", text="x", facets=facets, conditions="seed = 0",
                       group=group)  # fmt: skip
        assert to_csv(shown_records(answer), export_keys(answer)).startswith("status,variant,task")
        assert json.loads(to_json(shown_records(answer))) == []


def test_a_missing_number_is_null_or_empty_and_a_negative_one_stays_a_number(
    tmp_path: Path,
) -> None:
    make_run(tmp_path, status="failed", measures={"net_peak_memory_bytes": -5, "score_after": None})
    answer = shown(tmp_path)
    assert shown_records(answer)[0]["score_after"] is None
    assert read_csv(answer)[0]["score_after"] == ""
    assert read_csv(answer)[0]["net_peak_memory_bytes"] == "-5"


def test_a_text_that_a_spreadsheet_would_run_is_inert_in_csv_and_untouched_in_json(
    tmp_path: Path,
) -> None:
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1"]
    for text in texts:
        make_run(tmp_path, status="failed", reason=text)
    answer = shown(tmp_path, columns=("reason",))
    assert [row["reason"] for row in read_csv(answer)] == [f"'{text}" for text in texts]
    assert [row["reason"] for row in shown_records(answer)] == texts


def test_each_export_is_a_file_of_its_own_without_the_servers_paths(tmp_path: Path) -> None:
    make_run(tmp_path / "runs", model=f"{tmp_path}/models/mine")
    answer = shown(tmp_path / "runs", columns=tuple(COLUMNS))
    kinds = ("csv", "csv", "json")
    first, second, third = (Path(write_export(answer, kind, tmp_path / "out")) for kind in kinds)
    assert first != second
    assert third.name == "ftlab-results.json"
    assert first.read_text().startswith("status,")
    text = first.read_text() + third.read_text() + str(records(answer.matched))
    assert str(tmp_path) not in text
    assert read_csv(answer)[0]["model"] == "mine"


def test_names_are_short_and_strange_ids_stay_as_they_are() -> None:
    assert sweep_name("20261125-120304-ab12") == "25 Nov 12:03 ab12"
    assert sweep_name("20269999-120304-ab12") == "20269999-120304-ab12"
    assert run_name("20261125-120304-ab12-03-lora") == "ab12-03"
    assert (run_name("mine"), sweep_name("mine"), status_label("odd")) == ("mine", "mine", "odd")
    rates = [rate_name(rate) for rate in (1e-4, 2.5e-5, 0.03, None)]
    assert rates == ["1e-4", "2.5e-5", "0.03", "–"]


def test_an_export_of_a_gain_holds_the_ends_of_its_interval(tmp_path: Path) -> None:
    ends = {"score_gain": 0.4, "score_gain_low": 0.25, "score_gain_high": 0.5}
    make_run(tmp_path, "lora", measures=ends)
    answer = shown(tmp_path, columns=("variant", "score_gain"))
    assert shown_records(answer) == [{"variant": "LoRA", **ends}]
