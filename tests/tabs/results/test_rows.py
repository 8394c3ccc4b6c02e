"""Which rows are shown, in which order, with which columns; and that exports hold the same."""

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ftlab.records.run import Annotations, write_annotations
from ftlab.records.store import RunStore
from ftlab.tabs.results.columns import (
    COLUMNS,
    FACETS,
    Filters,
    Query,
    Shown,
    apply_filters,
    export_keys,
    facet_values,
    filtered,
    known_facets,
    records,
    show,
    shown_records,
    sweep_choices,
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


@pytest.mark.parametrize(
    ("text", "found"),
    [("", 3), ("lora", 2), ("lora done", 1), ("OUT of memory", 1), ("full", 1), ("nonsense", 0)],
)
def test_a_search_keeps_rows_that_hold_every_word(tmp_path: Path, text: str, found: int) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora")
    make_run(tmp_path, "qlora", status="out_of_memory")
    assert len(filtered(table_of(tmp_path), text=text)) == found


def test_a_search_is_text_not_a_pattern(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert filtered(table_of(tmp_path), text="lo.a").empty


def test_tags_notes_and_what_the_table_calls_a_run_are_searched(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_annotations(run, Annotations(tags=("for Ada",), note="Too slow by half."))
    for text in ("ada slow", "ab12-00", "25 nov", "smollm2"):
        assert len(filtered(table_of(tmp_path), text=text)) == 1


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
    tmp_path: Path, key: str, values: tuple[str, ...], found: int
) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", status="failed")
    write_annotations(make_run(tmp_path, "qlora"), Annotations(tags=("demo", "more")))
    assert len(apply_filters(table_of(tmp_path), Filters(facets={key: values}))) == found


def test_archived_runs_are_shown_only_when_asked_for(tmp_path: Path) -> None:
    write_annotations(make_run(tmp_path), Annotations(archived=True))
    assert shown(tmp_path).rows.empty
    assert len(shown(tmp_path, filters=Filters(archived=True)).rows) == 1
    assert len(filtered(table_of(tmp_path))) == 1  # programs see all


def test_wrong_conditions_are_said_and_left_out_and_the_other_filters_hold(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    answer = shown(tmp_path, filters=Filters(text="qlora", conditions="pikk < 1"))
    assert "There is no number 'pikk'" in answer.error
    assert list(answer.rows["method"]) == ["qlora"]


def test_filters_in_the_fold_are_counted() -> None:
    facets: dict[str, tuple[str, ...]] = {"method": ("lora",), "status": ()}
    assert Filters(text="x", sweep="y").folded == 0
    assert Filters(facets=facets, conditions="seed = 0", archived=True).folded == 3


def test_no_run_at_all_is_no_error(tmp_path: Path) -> None:
    for group in ("runs", "sweeps", "seeds"):
        query = Query(Filters("x", "y", dict.fromkeys(FACETS, ("z",)), "seed = 0"), group=group)  # type: ignore[arg-type]
        assert show(table_of(tmp_path), query).rows.empty


def test_what_a_browser_sends_is_checked() -> None:
    given = {"method": ["lora"], "status": "done", "nonsense": ["x"], "task": [], "tags": [3]}
    assert known_facets(given) == {"method": ("lora",), "tags": ("3",)}
    assert known_facets(None) == known_facets(["method"]) == {}


def test_facets_count_their_rows(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("full", "lora"), seeds=(0, 1))
    table = table_of(tmp_path)
    assert facet_values(table, "method") == [("full", "Full fine-tuning", 2), ("lora", "LoRA", 2)]
    assert facet_values(table, "tags") == []


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


def test_tags_are_a_column_only_where_a_run_has_one(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert "tags" not in usual_columns(table_of(tmp_path))
    write_annotations(run, Annotations(tags=("demo",)))
    assert "tags" in usual_columns(table_of(tmp_path))


def test_every_column_can_be_shown_and_stands_in_its_order(tmp_path: Path) -> None:
    make_run(tmp_path)
    answer = shown(tmp_path, columns=tuple(reversed(COLUMNS)))
    assert [column.key for column in answer.columns] == list(COLUMNS)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("group", ["runs", "seeds"])
def test_rows_without_the_number_come_last_either_way(
    tmp_path: Path, descending: bool, group: Any
) -> None:
    make_run(tmp_path, "qlora", status="failed")
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora")
    answer = shown(tmp_path, sort="train_seconds", descending=descending, group=group)
    methods = list(answer.rows["method"])
    assert methods[-1] == "qlora"
    assert methods[:2] == (["full", "lora"] if descending else ["lora", "full"])


def test_text_sorts_without_regard_to_case_and_empty_text_last(tmp_path: Path) -> None:
    for tags in ((), ("b",), ("A",)):
        write_annotations(make_run(tmp_path), Annotations(tags=tags))
    for descending, order in ((False, ["A", "b", ""]), (True, ["b", "A", ""])):
        answer = shown(tmp_path, sort="tags", descending=descending)
        assert list(answer.rows["tags"]) == order


def test_a_column_that_is_not_shown_does_not_sort(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    answer = shown(tmp_path, sort="machine", descending=True)
    assert list(answer.rows["run_id"]) == list(table_of(tmp_path)["run_id"])


def test_sweeps_stay_together_and_are_sorted_within(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("full", "lora"), sweep_id=OTHER)
    make_sweep(tmp_path, ("full", "lora"))
    answer = shown(tmp_path, group="sweeps", sort="train_seconds")
    assert list(answer.rows["sweep_id"]) == [SWEEP, SWEEP, OTHER, OTHER]
    assert list(answer.rows["method"]) == ["lora", "full"] * 2


# ---------------------------------------------------------------- means over seeds


def test_seeds_become_a_mean_with_the_sample_standard_deviation(tmp_path: Path) -> None:
    scores = [0.5, 0.6, 0.9]
    for seed, score in enumerate(scores):
        make_run(tmp_path, "lora", seed=seed, measures={"score_after": score})
    make_run(tmp_path, "full")
    lora, full = shown(tmp_path, group="seeds").rows.to_dict(orient="records")
    assert lora["score_after"] == pytest.approx(statistics.mean(scores))
    assert lora["score_after_sd"] == pytest.approx(statistics.stdev(scores))
    assert (lora["score_after_n"], lora["seed"], len(lora["run_ids"])) == (3, "0, 1, 2", 3)
    assert (full["score_after_n"], pd.isna(full["score_after_sd"])) == (1, True)


def test_a_seed_without_the_number_is_not_counted(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", seed=0)
    make_run(tmp_path, "lora", "failed", seed=1)
    (row,) = shown(tmp_path, group="seeds").rows.to_dict(orient="records")
    assert row["score_after_n"] == 1
    assert row["status"] == "done, failed"


def test_variants_and_sweeps_are_not_mixed(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), seeds=(0, 1))
    make_run(tmp_path, "lora", hyperparameters={"r": 4})
    make_sweep(tmp_path, ("lora",), sweep_id=OTHER)
    assert len(shown(tmp_path, group="seeds").rows) == 3


def test_a_group_with_one_disturbed_run_is_marked(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", seed=0, measures={"disturbed": True})
    make_run(tmp_path, "lora", seed=1)
    assert shown(tmp_path, group="seeds").rows["disturbed"].tolist() == [True]


# ---------------------------------------------------------------- exports


def test_exports_hold_exactly_the_rows_and_columns_shown_with_raw_numbers(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    columns = ("variant", "train_seconds", "adapter_bytes", "run_id")
    filters = Filters(text="lora")
    answer = shown(tmp_path, filters=filters, columns=columns, sort="train_seconds",
                   descending=True)  # fmt: skip
    as_csv, as_json = read_csv(answer), json.loads(to_json(shown_records(answer)))
    assert list(as_csv[0]) == list(as_json[0]) == list(columns)
    assert [row["variant"] for row in as_csv] == ["QLoRA", "LoRA"]
    assert [row["run_id"] for row in as_json] == list(answer.rows["run_id"])
    assert as_json[1]["adapter_bytes"] == 9_794_952
    assert as_csv[1]["train_seconds"] == "60.4"


def test_rows_that_are_not_drawn_yet_are_exported_too(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    assert len(read_csv(shown(tmp_path, limit=1))) == 4


def test_a_grouped_export_has_mean_spread_and_count(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), seeds=(0, 1))
    answer = shown(tmp_path, group="seeds", columns=("variant", "seed", "score_after"))
    (row,) = read_csv(answer)
    assert list(row) == ["variant", "seed", "score_after", "score_after_sd", "score_after_n"]
    assert (row["seed"], row["score_after"], row["score_after_n"]) == ("0, 1", "0.71", "2")
    assert json.loads(to_json(shown_records(answer)))[0]["score_after_sd"] == 0


def test_an_export_of_no_rows_still_has_its_columns(tmp_path: Path) -> None:
    make_run(tmp_path)
    answer = shown(tmp_path, filters=Filters(text="nonsense"))
    assert to_csv(shown_records(answer), export_keys(answer)).startswith("status,variant,task")
    assert json.loads(to_json(shown_records(answer))) == []


def test_what_is_missing_is_null_in_json_and_empty_in_csv(tmp_path: Path) -> None:
    make_run(tmp_path, status="queued")
    answer = shown(tmp_path)
    assert shown_records(answer)[0]["score_after"] is None
    assert read_csv(answer)[0]["score_after"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1"])
def test_a_text_that_a_spreadsheet_would_run_is_inert_in_csv_and_untouched_in_json(
    tmp_path: Path, text: str
) -> None:
    make_run(tmp_path, status="failed", reason=text)
    answer = shown(tmp_path, columns=("reason",))
    assert read_csv(answer)[0]["reason"] == f"'{text}"
    assert shown_records(answer)[0]["reason"] == text


def test_a_negative_number_stays_a_number_in_csv(tmp_path: Path) -> None:
    make_run(tmp_path, measures={"net_peak_memory_bytes": -5})
    assert read_csv(shown(tmp_path))[0]["net_peak_memory_bytes"] == "-5"


def test_the_servers_paths_are_not_exported(tmp_path: Path) -> None:
    make_run(tmp_path, model=f"{tmp_path}/models/mine")
    answer = shown(tmp_path, columns=tuple(COLUMNS))
    text = to_json(shown_records(answer)) + str(read_csv(answer)) + str(records(answer.matched))
    assert str(tmp_path) not in text
    assert read_csv(answer)[0]["model"] == "mine"


def test_each_export_is_a_file_of_its_own(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    answer = shown(tmp_path / "runs")
    first, second = (Path(write_export(answer, "csv", tmp_path / "out")) for _ in range(2))
    assert first != second
    assert first.read_text().startswith("status,")
    assert write_export(answer, "json", tmp_path / "out").endswith("ftlab-results.json")


def test_an_export_of_a_gain_holds_the_ends_of_its_interval(tmp_path: Path) -> None:
    ends = {"score_gain": 0.4, "score_gain_low": 0.25, "score_gain_high": 0.5}
    make_run(tmp_path, "lora", measures=ends)
    answer = shown(tmp_path, columns=("variant", "score_gain"))
    assert shown_records(answer) == [{"variant": "LoRA", **ends}]
