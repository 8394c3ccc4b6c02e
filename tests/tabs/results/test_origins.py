"""Own runs first; recorded and imported ones in groups of their own, folded by default."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
import pytest

from ftlab.playground.client import PlaygroundClient
from ftlab.records.store import RunStore
from ftlab.tabs.context import AppContext, Asked, Links
from ftlab.tabs.results import tab as results
from ftlab.tabs.results.columns import Query, Shown, show, shown_records
from ftlab.tabs.results.html import caption, table_html
from ftlab.tabs.results.tab import arranged
from tests.fakes import SWEEP, make_run, make_sweep

RECORDED = "20260101-120000-0001"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Two own runs, two recorded ones that score best, and two imported ones."""
    make_sweep(tmp_path / "runs", ("full", "lora"))
    shipped = tmp_path / "recorded" / "one"
    make_sweep(shipped, ("full", "lora"), sweep_id=RECORDED, measures={"score_after": 0.99})
    return RunStore(tmp_path / "runs", tmp_path / "recorded")


def shown(store: RunStore, **query: Any) -> Shown:
    table = store.table()
    others = table[table["origin"] == "recorded"].assign(
        origin="imported", sweep_id="theirs", run_id=["theirs-1", "theirs-2"]
    )
    return show(pd.concat([table, others], ignore_index=True), Query(**query))


def lines(found: Shown) -> list[str]:
    """The rows that are drawn: the origin of each run, and the words of each heading."""
    html = table_html(found)
    body = html[html.index("<tbody") :]
    origins = dict(zip(found.rows["run_id"], found.rows["origin"], strict=True))
    return [
        origins[run] if run else re.sub("<[^>]+>", "", words)
        for run, words in re.findall(
            r'<tr role="row"(?: data-run="([^"]+)")?[^>]*>(.*?)</tr>', body
        )
    ]


def test_runs_of_others_are_folded_below_ones_own_until_their_heading_is_pressed(
    store: RunStore,
) -> None:
    recorded, imported = "Recorded with ftlab 2 runs", "Imported 2 runs"
    own = ["measured", "measured"]
    found = shown(store)
    assert lines(found) == [*own, recorded, imported]
    assert table_html(found).count('aria-expanded="false"') == 2
    assert [row["score_after"] for row in shown_records(found)] == [0.73, 0.71]
    assert "2 of 6 runs." in caption(found)

    view = arranged(Query(), {"fold": "recorded"})
    found = shown(store, unfolded=view.unfolded)
    assert lines(found) == [*own, recorded, "recorded", "recorded", imported]
    assert table_html(found).count('aria-expanded="true"') == 1
    assert len(shown_records(found)) == 4
    assert arranged(view, {"fold": "recorded"}) == Query()


@pytest.mark.parametrize("group", ["runs", "sweeps"])
def test_whatever_they_are_sorted_by_own_runs_come_first(store: RunStore, group: Any) -> None:
    unfolded = ("recorded", "imported")
    found = shown(store, sort="score_after", descending=True, unfolded=unfolded, group=group)
    assert found.rows["origin"].tolist() == ["measured"] * 2 + ["recorded"] * 2 + ["imported"] * 2


def test_the_limit_of_rows_hides_no_heading(store: RunStore) -> None:
    found = shown(store, limit=1, unfolded=("imported",))
    assert lines(found) == [
        "measured", "Recorded with ftlab 2 runs", "Imported 2 runs", "imported",
    ]  # fmt: skip
    assert "2 further rows match" in table_html(found)


@pytest.mark.parametrize(
    "query",
    [
        {"text": "theirs"},
        {"text": "lora"},  # of which there is one's own as well
        {"sweep": RECORDED},
        {"facets": {"origin": ("recorded",)}},
        {"conditions": "score > 0.9"},
    ],
)
def test_a_search_that_leads_to_runs_of_others_shows_them(store: RunStore, query: Any) -> None:
    found = shown(store, **query)
    assert found.rows["score_after"].tolist()[-1] == 0.99
    assert "data-fold" not in table_html(found)


def test_without_own_runs_nothing_is_folded_and_one_origin_needs_no_heading(
    store: RunStore, tmp_path: Path
) -> None:
    nobody = RunStore(tmp_path / "empty", tmp_path / "recorded")
    assert lines(show(nobody.table(), Query())) == ["recorded", "recorded"]
    assert lines(shown(nobody))[0] == "Recorded with ftlab 2 runs"
    assert "data-fold" not in table_html(shown(nobody))
    own = RunStore(tmp_path / "runs")
    assert lines(show(own.table(), Query())) == ["measured", "measured"]


@pytest.mark.parametrize("fold", ["measured", "x", None, 3, ["recorded"], {}])
def test_nonsense_from_a_browser_folds_nothing(fold: Any) -> None:
    assert arranged(Query(sort="seed"), {"fold": fold}) == Query(sort="seed")


def test_a_sweep_that_is_own_and_imported_is_still_shown(store: RunStore) -> None:
    table = store.table()
    twin = table[table["sweep_id"] == SWEEP].assign(origin="imported", run_id=["a", "b"])
    found = show(
        pd.concat([table, twin], ignore_index=True), Query(group="seeds", unfolded=("imported",))
    )
    assert "LoRA" in table_html(found)


def test_a_link_to_a_recorded_run_unfolds_its_rows(store: RunStore, tmp_path: Path) -> None:
    follow = handlers(store)["follow"]
    make_run(store.folder)
    (run, *_) = store.shipped()
    assert follow(Asked(run.run_id), Query())[-1] == Query(unfolded=("opened", "recorded"))
    assert follow(Asked(store.runs()[0].run_id), Query(limit=7))[-1] == Query(limit=7)
    assert follow(Asked("gone"), Query())[-1] == Query()


def handlers(store: RunStore) -> dict[str, Callable[..., Any]]:
    context = AppContext(store.folder, store, PlaygroundClient(store.folder))
    with gr.Blocks() as page, gr.Tabs() as tabs, gr.Tab("Results"):
        results.build(context, Links.between(tabs))
    return {fn.fn.__name__: fn.fn for fn in page.fns.values() if hasattr(fn.fn, "__name__")}
