"""The table as HTML, read back as a browser would."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ftlab.basics import units
from ftlab.records.store import RunStore
from ftlab.tabs.results.columns import COLUMNS, Query, Shown, column_label, memory_kinds, show
from ftlab.tabs.results.html import (
    WORSE,
    caption,
    columns_html,
    facets_html,
    how_measured,
    table_html,
)
from tests.fakes import make_run, make_sweep


class Reader(HTMLParser):
    """Texts of the cells by row, and the attributes of every element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, Any]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    def having(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def answer(folder: Path, **query: Any) -> Shown:
    return show(RunStore(folder).table(), Query(**query))


def read(folder: Path, **query: Any) -> tuple[list[dict[str, str]], Reader]:
    """The rows as the page shows them, by column head."""
    reader = Reader(table_html(answer(folder, **query)))
    head, *rows = [row for row in reader.rows if len(row) > 1]
    names = [name.strip("↑↓") for name in head]
    return [dict(zip(names, row, strict=True)) for row in rows], reader


def test_a_row_has_formatted_numbers_a_button_that_opens_its_run_and_a_tick_box(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, "lora", seed=3)
    (row,), reader = read(tmp_path, sort="score_after", descending=True)
    assert (row["Trainable"], row["File"], row["Train"]) == ("2.4 M", "9.8 MB", "1 min 00 s")
    assert (row["Status"], row["Variant"], row["Run"]) == ("done", "LoRA", "ab12-00")
    assert reader.having("data-open") == reader.having("data-run") == [run.run_id]
    (box,) = [a for t, a in reader.tags if t == "input" and a.get("value")]
    assert (box["value"], box["aria-label"]) == (run.run_id, "Tick LoRA, ab12-00")
    assert reader.having("aria-sort") == ["descending"]
    assert {"status", "score_after", "run_id"} <= set(reader.having("data-sort"))


def test_a_number_that_is_missing_is_a_dash(tmp_path: Path) -> None:
    make_run(tmp_path, status="queued")
    (row,), _ = read(tmp_path, columns=tuple(COLUMNS))
    missing = [c.label for c in COLUMNS.values() if c.kind == "measure" and "eak" not in c.label]
    assert {row[label] for label in missing} == {"–"}
    assert (row["Tags"], row["Note"]) == ("–", "–")


def test_memory_of_two_kinds_is_said_not_to_compare(tmp_path: Path) -> None:
    make_run(tmp_path)
    (row,), _ = read(tmp_path)
    assert {"Peak, CPU", "Memory, CPU"} <= set(row)
    assert "VRAM" not in how_measured(answer(tmp_path))
    make_run(tmp_path, device="cuda:0")
    rows, _ = read(tmp_path)
    assert "Peak" in rows[0]
    assert "Compare memory only between rows of one device" in how_measured(answer(tmp_path))


def test_a_disturbed_run_is_marked_in_its_times_and_below_the_table(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", measures={"disturbed": True})
    make_run(tmp_path, "qlora")
    rows, _ = read(tmp_path)
    assert [row["Train"] for row in rows] == ["▲ 1 min 00 s", "1 min 23 s"]
    assert rows[0]["tok/s"].startswith("▲")
    assert "the computer was busy" in caption(answer(tmp_path))
    assert "▲" not in rows[1]["tok/s"]


def test_a_hundred_rows_are_drawn_at_a_time(tmp_path: Path) -> None:
    table = pd.concat([RunStore(make_sweep(tmp_path)[0].path.parent).table()] * 30)
    shown = show(table.reset_index(drop=True), Query())
    html = table_html(shown)
    assert html.count("<tr") == 101
    assert "Show 20 more" in html
    assert "120 of 120 runs. 100 drawn; exports hold all 120." in caption(shown)
    assert "data-more" not in table_html(show(table.reset_index(drop=True), Query(limit=200)))


def test_a_row_of_seeds_shows_mean_spread_and_n_and_names_its_runs(tmp_path: Path) -> None:
    for seed, score in enumerate((0.5, 0.7)):
        make_run(tmp_path, "lora", seed=seed, measures={"score_after": score})
    make_run(tmp_path, "full")
    rows, reader = read(tmp_path, group="seeds")
    assert [row["Score"] for row in rows] == ["0.60 ± 0.14, n 2", "0.73 n 1"]
    assert rows[0]["Run"] == "ab12-00 ab12-01"
    assert len(reader.having("data-open")) == 3
    assert reader.having("data-run") == []
    boxes = [a["value"] for t, a in reader.tags if t == "input" and a.get("value")]
    assert len(boxes[0].split()) == 2


@pytest.mark.parametrize("status", ["done", "failed"])
def test_recorded_runs_have_a_chip_in_heading_and_row(tmp_path: Path, status: Any) -> None:
    make_sweep(tmp_path / "recorded" / "x", ("lora",), status=status)
    shown = show(RunStore(tmp_path / "runs", tmp_path / "recorded").table(), Query(group="sweeps"))
    html = table_html(shown)
    assert html.count("chip recorded") == 2  # in the heading and in the row
    assert ("failed</span>" in html) == (status == "failed")


def test_runs_that_ended_early_keep_a_row_with_their_numbers_and_are_counted_below(
    tmp_path: Path,
) -> None:
    make_run(tmp_path)
    make_run(tmp_path, status="failed")
    make_run(tmp_path, "lora", "diverged", measures={"peak_memory_bytes": 1_500_000_000})
    shown = answer(tmp_path, columns=("status", "peak_memory_bytes"))
    assert 'class="chip diverged">diverged' in table_html(shown)
    assert "1.50 GB" in table_html(shown)
    said = "3 of 3 runs. 1 failed, 1 diverged: left out of every comparison."
    assert said in caption(shown)


def test_a_kind_of_memory_from_a_file_cannot_leave_the_style_of_the_cards(tmp_path: Path) -> None:
    make_run(tmp_path)
    table = RunStore(tmp_path).table()
    table["peak_memory_kind"] = '</style><img/onerror=alert(1)>"}'
    html = table_html(show(table, Query()))
    style = html[: html.index("</style>")]
    assert "img" not in style or "\\3c" in style
    assert "<img" not in html
    assert column_label(COLUMNS["peak_memory_bytes"], memory_kinds(table)).startswith("Peak, <")


def test_filters_and_columns_are_labelled_boxes_with_their_ticks(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    facets = facets_html(RunStore(tmp_path).table(), {"method": ["lora"], "status": ["gone"]}, 3)
    assert re.findall(r'value="(\w+)" checked', facets) == ["gone", "lora"]
    assert 'data-set="3"' in facets
    assert "<legend>Method</legend>" in facets
    assert "<legend>Task</legend>" not in facets  # all runs have the same
    assert columns_html(["seed"], "1").count(" checked") == 1
    assert columns_html(["seed"], "1").count("<label>") == len(COLUMNS)


def test_a_gain_stands_with_its_interval_and_a_mark_where_the_score_fell(tmp_path: Path) -> None:
    gain = {"score_gain": -0.1, "score_gain_low": -0.17, "score_gain_high": -0.03}
    columns = ("variant", "score_gain")
    make_run(tmp_path, "lora")  # of an older version, without a gain
    html = table_html(answer(tmp_path, columns=columns))
    assert f'role="cell">{units.DASH}</td>' in html
    assert WORSE not in html + caption(answer(tmp_path))
    for seed, value in enumerate((0.2, 0.4)):
        make_run(tmp_path, "qlora", seed=seed, measures=gain | {"score_gain": value})
    html = table_html(answer(tmp_path, columns=columns, group="seeds"))
    assert "+0.30 <small>± 0.14, n 2</small>" in html, "of several seeds the spread, no interval"
    make_run(tmp_path, "dora", measures=gain)
    make_run(tmp_path, "full", measures=gain | {"score_gain_high": 0.02})
    html = table_html(answer(tmp_path, columns=columns, text="dora"))
    assert f"{WORSE} -0.10 <small>-0.17 to -0.03</small>" in html
    html = table_html(answer(tmp_path, columns=columns, text="full"))
    assert "-0.10 <small>-0.17 to +0.02</small>" in html
    assert WORSE not in html
    assert "the opened run says what was seen" in caption(answer(tmp_path))
