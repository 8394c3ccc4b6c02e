"""What the table of runs says of runs that stand beside each other."""

import re
from pathlib import Path

from ftlab.records.store import RunStore
from ftlab.tabs.results.columns import Query, show
from ftlab.tabs.results.html import like_chip, table_html, ticked_chip
from ftlab.tabs.results.tab import ticked_words
from tests.fakes import SWEEP, make_run, make_sweep

OLD = "20261101-093000-cd34"
LIKE = "a fair comparison: same data, model and settings (25 checked)"


def html_of(folder: Path, **query: object) -> str:
    return table_html(show(RunStore(folder).table(), Query(**query)))  # type: ignore[arg-type]


def two_sweeps(folder: Path) -> None:
    """A fair one, and one whose LoRA run had other steps and was disturbed."""
    make_sweep(folder, ("full", "lora"), sweep_id=OLD)
    make_run(folder, "full")
    make_run(folder, "lora", steps=60, measures={"disturbed": True})


def headings(html: str) -> list[str]:
    return [re.sub("<[^>]+>", "", row) for row in re.findall(r'class="group">(.*?)</tr>', html)]


def test_each_sweeps_heading_says_whether_its_runs_compare_also_above_means(tmp_path: Path) -> None:
    two_sweeps(tmp_path)
    for group in ("sweeps", "seeds"):
        html = html_of(tmp_path, group=group)
        assert headings(html) == [
            "25 Nov 12:00 ab12, SQL, 2 runs not a fair comparison: steps and other work on the "
            "machine",
            f"1 Nov 09:30 cd34, SQL, 2 runs {LIKE}",
        ]
        assert (
            'title="Not a fair comparison: steps (30, 60), other work on the machine '
            '(LoRA seed 0)."' in html
        )
        assert "like-line" not in html


def test_the_rows_of_a_chosen_sweep_have_one_line_above_them_with_the_values(
    tmp_path: Path,
) -> None:
    two_sweeps(tmp_path)
    for query in ({}, {"group": "seeds", "sort": "score_after"}):
        html = html_of(tmp_path, sweep=SWEEP, **query)
        assert headings(html) == []
        line = html[html.index("like-line") : html.index("run-rows")]
        assert ">not a fair comparison</span>" in line
        assert "steps (30, 60), other work on the machine (LoRA seed 0)" in line
    assert LIKE in html_of(tmp_path, sweep=OLD)


def test_runs_of_several_sweeps_are_not_warned_of_since_nobody_asked_to_compare_them(
    tmp_path: Path,
) -> None:
    two_sweeps(tmp_path)
    for query in ({}, {"text": "lora"}, {"group": "seeds", "sort": "score_after"}):
        assert "a fair comparison" not in html_of(tmp_path, **query)


def test_only_runs_that_are_done_are_compared_and_not_one_variant_with_itself(
    tmp_path: Path,
) -> None:
    make_sweep(tmp_path, ("lora",), seeds=(0, 1))
    assert "like-line" not in html_of(tmp_path, sweep=SWEEP)
    assert like_chip(RunStore(tmp_path).table().iloc[:0]) == ""
    make_run(tmp_path, "full", seed=0)
    make_run(tmp_path, "qlora", "failed", steps=60)
    assert "a fair comparison" in html_of(tmp_path, sweep=SWEEP)


def test_seeds_of_one_variant_that_are_unlike_are_said_to_be(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", seed=0)
    make_run(tmp_path, "lora", seed=1, steps=60)
    assert "not a fair comparison: steps" in headings(html_of(tmp_path, group="seeds"))[0]


def test_results_of_others_are_not_compared(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("full", "lora"))
    table = RunStore(tmp_path).table().assign(origin="imported")
    assert ">not compared<" in like_chip(table)


def test_runs_that_are_ticked_are_compared(tmp_path: Path) -> None:
    two_sweeps(tmp_path)
    store = RunStore(tmp_path)
    new_full, new_lora, old_full, old_lora = store.table()["run_id"]
    assert LIKE in ticked_words(("a", "b"), ticked_chip(store, (old_full, old_lora)))
    assert "steps and other work on the machine" in ticked_chip(store, (new_full, new_lora))
    assert ticked_chip(store, (new_lora,)) == ""


def test_script_in_what_differs_is_only_text(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", environment={"device": "<script>alert(1)</script>"})
    for group in ("runs", "sweeps"):
        html = html_of(tmp_path, group=group, sweep=SWEEP)
        assert "&lt;script&gt;" in html
        assert "<script" not in html
