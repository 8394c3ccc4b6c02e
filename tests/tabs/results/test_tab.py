"""The Results tab: what is sent when, and what a press in the browser changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.playground.client import PlaygroundClient
from ftlab.records.store import RunStore
from ftlab.tabs.context import EXPERIMENT, AppContext, Asked, Links, taken
from ftlab.tabs.results import tab as results
from ftlab.tabs.results.columns import Query
from ftlab.tabs.results.tab import (
    answer,
    arranged,
    unless_shown,
    with_columns,
    with_facets,
    with_fields,
    with_usual_columns,
    without_filters,
)
from tests.fakes import make_run, make_unreadable

NAMES = ("table", "below", "how", "facets", "columns", "wrong", "fold", "empty", "sweep", "timer",
         "digest")  # fmt: skip


def shown(folder: Path, **query: Any) -> dict[str, Any]:
    return dict(zip(NAMES, answer(RunStore(folder), Query(**query)), strict=True))


def test_only_a_change_of_the_runs_or_of_the_query_is_sent(tmp_path: Path) -> None:
    make_run(tmp_path)
    now = answer(RunStore(tmp_path), Query())
    assert unless_shown(now, "") == now
    again = unless_shown(answer(RunStore(tmp_path), Query()), now[-1])
    assert again == [gr.skip()] * len(now)
    for query in (
        {"sort": "seed"}, {"group": "seeds"}, {"columns": ("seed",)}, {"conditions": "seed = x"},
        {"version": 1},
    ):  # fmt: skip
        assert shown(tmp_path, **query)["digest"] != now[-1]
    make_run(tmp_path)
    assert shown(tmp_path)["digest"] != now[-1]


def test_the_table_is_refreshed_by_timer_only_while_something_is_open(tmp_path: Path) -> None:
    make_run(tmp_path)
    assert shown(tmp_path)["timer"]["active"] is False
    make_run(tmp_path, status="running")
    assert shown(tmp_path)["timer"]["active"] is True


def test_polling_pages_share_an_answer_that_gradio_may_change(tmp_path: Path) -> None:
    make_run(tmp_path)
    drawn = results.Drawn(RunStore(tmp_path))
    first = drawn.answer(Query())
    first[6].clear()
    assert drawn.answer(Query())[6] == gr.update(label="Filters")


def test_without_a_run_the_tab_says_what_to_do(tmp_path: Path) -> None:
    assert "press Launch" in shown(tmp_path)["empty"]["value"]
    make_run(tmp_path)
    assert shown(tmp_path)["empty"]["visible"] is False
    assert "press Clear" in shown(tmp_path, text="nonsense")["empty"]["value"]


def test_unreadable_runs_are_listed_even_where_there_is_no_other(tmp_path: Path) -> None:
    make_unreadable(tmp_path)
    below = shown(tmp_path)["below"]
    assert "1 of the folders and files cannot be read" in below
    assert "dead-00-lora" in below
    assert "Invalid JSON" in below


def test_a_sweep_that_is_gone_filters_nothing(tmp_path: Path) -> None:
    make_run(tmp_path)
    now = shown(tmp_path, sweep="gone")
    assert (now["sweep"]["value"], now["empty"]["value"]) == ("", "")


def test_active_filters_are_counted_in_the_label_of_their_accordion(tmp_path: Path) -> None:
    make_run(tmp_path)
    facets = {"method": ("lora",), "status": ()}
    for query, label in (
        ({"text": "x"}, "Filters"),
        ({"facets": facets, "conditions": "seed = 0"}, "Filters (2 active)"),
        ({"facets": facets, "conditions": "seed = 0", "archived": True}, "Filters (3 active)"),
    ):
        assert shown(tmp_path, **query)["fold"]["label"] == label  # type: ignore[arg-type]


def test_a_head_sorts_the_best_first_then_turns_round_then_lets_go() -> None:
    view = Query()
    seen = []
    for _ in range(3):
        view = arranged(view, {"sort": "score_after"})
        seen.append((view.sort, view.descending))
    assert seen == [("score_after", True), ("score_after", False), ("", False)]
    assert arranged(Query(), {"sort": "train_seconds"}).descending is False
    assert arranged(Query(sort="seed"), {"sort": "status"}).sort == "status"


def test_the_browser_adds_a_page_of_rows_and_chooses_columns_and_filters() -> None:
    assert arranged(arranged(Query(), {"more": True}), {"more": True}).limit == 300
    view = with_columns(Query(), {"on": {"columns": ["run_id", "nonsense", "seed"]}})
    assert view.columns == ("seed", "run_id"), "in the order of the table"
    view = with_facets(Query(conditions="seed = 0"), {"on": {"method": ["lora"]}})
    query = Query("", "done", {"method": ("lora",)}, "seed = 0", True, group="sweeps")
    assert with_fields(view, "done", None, "sweeps", True) == query


def test_filters_are_cleared_and_the_usual_columns_restored_with_their_tick_boxes() -> None:
    view = Query(facets={"method": ("lora",)}, conditions="seed = 0", columns=("seed",), limit=300)
    assert without_filters(view) == Query(columns=("seed",), version=1)
    assert with_usual_columns(without_filters(view)) == Query(version=2)


@pytest.mark.parametrize("data", [None, {}, {"sort": "run_dir"}, {"sort": 3}, {"on": "x"}, []])
def test_nonsense_from_a_browser_changes_nothing(data: Any) -> None:
    assert arranged(Query(), data) == Query()
    assert with_facets(Query(), data) == Query()
    assert with_columns(Query(), data) == Query()


def test_an_import_says_what_came_of_each_file(tmp_path: Path) -> None:
    wrong = tmp_path / "<b>.json"
    wrong.write_text("{}")
    said = results.imported_html(RunStore(tmp_path / "runs"), [str(wrong)])
    assert "1 refused" in said
    assert "&lt;b&gt;.json" in said
    assert "<b>" not in said


@pytest.fixture
def page(tmp_path: Path) -> gr.Blocks:
    context = AppContext(tmp_path, RunStore(tmp_path), PlaygroundClient(tmp_path))
    with gr.Blocks() as page, gr.Tabs() as tabs, gr.Tab("Results"):
        results.build(context, Links.between(tabs))
    return page


def test_the_table_and_the_opened_run_are_both_drawn_again_as_time_goes_on(
    page: gr.Blocks,
) -> None:
    ticks = [fn for fn in page.fns.values() if "tick" in [name for _, name in fn.targets]]
    drawn = {part.elem_id for fn in ticks for part in fn.outputs}
    assert {"runs", "run-top"} <= drawn


@pytest.fixture
def handlers(page: gr.Blocks) -> dict[str, Callable[..., Any]]:
    """The functions that the events of the tab call, by name."""
    named = [fn.fn for fn in page.fns.values() if hasattr(fn.fn, "__name__")]
    return {function.__name__: function for function in named}


def test_a_ticked_run_is_cloned_and_after_a_question_deleted_from_the_open_panel(
    tmp_path: Path, handlers: dict[str, Callable[..., Any]]
) -> None:
    run = make_run(tmp_path).run_id
    said, asked_for, tabs = handlers["clone"]((run,))
    assert (said, taken(asked_for), tabs.selected) == ("", (run,), EXPERIMENT)
    assert "There is no run" in handlers["clone"](("nope",))[0]
    assert "There is no run" in handlers["ask"](("nope",))[0]
    said, asked, box, question = handlers["ask"](run)
    assert (said, asked, box.visible) == ("", (run,), True)
    assert "Delete 1 run" in question
    _, asked, box, opened, *_ = handlers["keep"](run)
    assert (asked, box.visible, opened) == ((), False, run)
    said, *_, opened, panel = handlers["really"](run, (run,))[:5]
    assert "1 run deleted" in said
    assert (opened, panel.visible) == ("", False)
    assert RunStore(tmp_path).runs() == []


def test_another_tab_opens_a_run_once(
    tmp_path: Path, handlers: dict[str, Callable[..., Any]]
) -> None:
    run = make_run(tmp_path).run_id
    asked = Asked(run)
    opened, panel, *_ = handlers["follow"](asked, Query())
    assert (opened, panel.visible) == (run, True)
    assert all(update == gr.skip() for update in handlers["follow"](asked, Query()))
    opened, panel, *_ = handlers["follow"](Asked(""), Query())
    assert (opened, panel.visible) == ("", False)
    assert all(update == gr.skip() for update in handlers["follow"](None, Query()))
