"""The Results tab: what is sent when, and what a press in the browser changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.words import rate_name
from ftlab.playground.client import PlaygroundClient
from ftlab.records.result import status_label
from ftlab.records.store import RunStore
from ftlab.tabs.context import AppContext, Links
from ftlab.tabs.results import tab as results
from ftlab.tabs.results.columns import Filters, Query, run_name, sweep_name
from ftlab.tabs.results.tab import View, answer, arranged, refreshed, with_columns, with_facets
from tests.fakes import make_run, make_sweep, make_unreadable


def test_names_are_short_and_strange_ids_stay_as_they_are() -> None:
    assert sweep_name("20261125-120304-ab12") == "25 Nov 12:03 ab12"
    assert sweep_name("20269999-120304-ab12") == "20269999-120304-ab12"
    assert run_name("20261125-120304-ab12-03-lora") == "ab12-03"
    assert (run_name("mine"), sweep_name("mine"), status_label("odd")) == ("mine", "mine", "odd")
    rates = [rate_name(rate) for rate in (1e-4, 2.5e-5, 0.03, None)]
    assert rates == ["1e-4", "2.5e-5", "0.03", "–"]


def test_a_refresh_that_changes_nothing_sends_nothing(tmp_path: Path) -> None:
    make_run(tmp_path)
    store = RunStore(tmp_path)
    *_, digest = refreshed(store, Query(), 0, "")
    assert all(update == gr.skip() for update in refreshed(store, Query(), 0, digest))
    make_run(tmp_path)
    assert refreshed(store, Query(), 0, digest)[-1] != digest


def test_a_change_of_the_question_is_always_sent(tmp_path: Path) -> None:
    make_run(tmp_path)
    store = RunStore(tmp_path)
    *_, digest = refreshed(store, Query(), 0, "")
    for query, version in (
        (Query(sort="seed"), 0),
        (Query(group="seeds"), 0),
        (Query(columns=("seed",)), 0),
        (Query(Filters(conditions="seed = x")), 0),
        (Query(), 1),
    ):
        assert refreshed(store, query, version, digest)[-1] not in (digest, gr.skip())


def test_the_table_is_refreshed_by_timer_only_while_something_is_open(tmp_path: Path) -> None:
    make_run(tmp_path)
    store = RunStore(tmp_path)
    assert refreshed(store, Query(), 0, "")[-2]["active"] is False
    make_run(tmp_path, status="running")
    assert refreshed(store, Query(), 0, "")[-2]["active"] is True


def test_without_a_run_the_tab_says_what_to_do(tmp_path: Path) -> None:
    assert "press Launch" in answer(RunStore(tmp_path), Query()).empty
    make_run(tmp_path)
    store = RunStore(tmp_path)
    assert answer(store, Query()).empty == ""
    assert "press Clear" in answer(store, Query(Filters(text="nonsense"))).empty


def test_unreadable_runs_are_listed_even_where_there_is_no_other(tmp_path: Path) -> None:
    make_unreadable(tmp_path)
    assert "dead-00-lora" in answer(RunStore(tmp_path), Query()).below


def test_a_sweep_that_is_gone_filters_nothing(tmp_path: Path) -> None:
    make_run(tmp_path)
    now = answer(RunStore(tmp_path), Query(Filters(sweep="gone")))
    assert (now.sweep, now.empty) == ("", "")


def test_filters_at_work_are_counted_in_the_folds_label(tmp_path: Path) -> None:
    make_run(tmp_path)
    store = RunStore(tmp_path)
    filters = Filters(facets={"method": ("lora",)}, conditions="seed = 0")
    assert answer(store, Query(filters)).fold == "Filters (2 at work)"
    assert answer(store, Query()).fold == "Filters"


def test_a_head_sorts_the_best_first_then_turns_round_then_lets_go() -> None:
    view = View()
    seen = []
    for _ in range(3):
        view = arranged(view, {"sort": "score_after"})
        seen.append((view.sort, view.descending))
    assert seen == [("score_after", True), ("score_after", False), ("", False)]
    assert arranged(View(), {"sort": "train_seconds"}).descending is False
    assert arranged(View(sort="seed"), {"sort": "status"}).sort == "status"


def test_more_rows_are_drawn_a_page_at_a_time() -> None:
    assert arranged(arranged(View(), {"more": True}), {"more": True}).limit == 300


@pytest.mark.parametrize("data", [None, {}, {"sort": "run_dir"}, {"sort": 3}, {"on": "x"}, []])
def test_nonsense_from_a_browser_changes_nothing(data: Any) -> None:
    assert arranged(View(), data) == View()
    assert with_facets(View(), data) == View()
    assert with_columns(View(), data) == View()


def test_ticked_columns_stand_in_the_tables_order() -> None:
    view = with_columns(View(), {"on": {"columns": ["run_id", "nonsense", "seed"]}})
    assert view.columns == ("seed", "run_id")


def test_what_is_asked_is_made_of_fields_and_view() -> None:
    view = with_facets(View(conditions="seed = 0"), {"on": {"method": ["lora"]}})
    query = view.query("done", None, "sweeps", True)
    assert query.filters == Filters("", "done", {"method": ("lora",)}, "seed = 0", True)
    assert query.group == "sweeps"


def test_an_import_says_what_came_of_each_file(tmp_path: Path) -> None:
    wrong = tmp_path / "<b>.json"
    wrong.write_text("{}")
    said = results.imported_html(RunStore(tmp_path / "runs"), [str(wrong)])
    assert "1 refused" in said
    assert "&lt;b&gt;.json" in said
    assert "<b>" not in said


def test_the_tab_is_built(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    context = AppContext(tmp_path, RunStore(tmp_path), PlaygroundClient(tmp_path))
    with gr.Blocks(), gr.Tabs() as tabs, gr.Tab("Results"):
        results.build(context, Links.between(tabs))
