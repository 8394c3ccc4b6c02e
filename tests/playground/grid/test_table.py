"""The results of a grid: a table, a summary per pane, and a headline without unproven claims."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ftlab.playground.grid import Cell, GridDirectory
from ftlab.playground.grid_table import headline, pane_labels, summary, to_table
from ftlab.share.report_sections import grid_section
from tests.playground.grid.fakes import make_grid, make_request, scored_grid


def ones(count: int, of: int = 20) -> list[float]:
    return [1.0] * count + [0.0] * (of - count)


def test_the_table_has_a_row_a_prompt_and_columns_a_pane(tmp_path: Path) -> None:
    cells = [
        Cell(0, 0, "yes", score=1.0, verdict="runs, equal"),
        Cell(0, 1, "half", error="out of memory"),
    ]
    table = to_table(make_grid(tmp_path, cells=cells))
    assert list(table.columns) == [
        "prompt", "Base answer", "Base score", "Base verdict", "LoRA answer", "LoRA score",
        "LoRA verdict",
    ]  # fmt: skip
    assert table["prompt"].tolist() == ["one", "two"]
    assert table.loc[0, ["Base answer", "Base score", "Base verdict"]].tolist() == [
        "yes", 1.0, "runs, equal",
    ]  # fmt: skip
    assert table.loc[0, "LoRA answer"] == "[out of memory]"
    assert table.loc[1].drop("prompt").isna().all()


def test_without_scores_the_table_has_answers_alone(tmp_path: Path) -> None:
    table = to_table(make_grid(tmp_path, cells=[Cell(0, 0, "yes")]))
    assert list(table.columns) == ["prompt", "Base answer", "LoRA answer"]


def test_panes_of_one_label_are_numbered() -> None:
    request = make_request(panes=("a", "b", "c"), labels=("LoRA", "LoRA", "LoRA"))
    assert pane_labels(request) == ["LoRA", "LoRA (2)", "LoRA (3)"]
    assert pane_labels(make_request(panes=("a", "b"), labels=())) == ["a", "b"]


def test_a_summary_counts_and_averages_and_pairs_with_the_base(tmp_path: Path) -> None:
    grid = scored_grid(
        tmp_path, [ones(14), ones(6)], panes=("run", "base"), labels=("LoRA", "Base")
    )
    lora, base = summary(grid)
    assert (lora.answered, lora.errors, lora.scored, lora.right) == (20, 0, 20, 14)
    assert lora.score == pytest.approx(0.7)
    assert lora.interval is not None
    assert lora.interval == pytest.approx((0.481, 0.855), abs=1e-3), "Wilson's, of 14 of 20"
    assert base.interval == pytest.approx((0.145, 0.519), abs=1e-3), "Wilson's, of 6 of 20"
    assert lora.gain is not None
    assert (lora.gain.over, lora.gain.prompts) == ("Base", 20)
    assert lora.gain.mean == pytest.approx(0.4)
    assert 0.15 < lora.gain.low < 0.4 < lora.gain.high < 0.65
    assert base.gain is None
    assert lora.tokens_per_second == 10.0


def test_a_share_of_none_is_not_taken_for_certain(tmp_path: Path) -> None:
    base, lora = summary(scored_grid(tmp_path, [ones(0), [0.5] * 20]))
    assert base.interval == (0.0, 0.0), "graded scores are averaged as they are"
    assert lora.interval == (0.5, 0.5)
    base, lora = summary(scored_grid(tmp_path, [ones(0), ones(20)]))
    assert base.interval is not None
    assert lora.interval is not None
    assert base.interval[1] > 0.1
    assert lora.interval[0] < 0.9


def test_a_gain_pairs_only_prompts_that_both_answered(tmp_path: Path) -> None:
    cells = [Cell(0, 0, score=0.0), Cell(1, 0, score=0.5), Cell(2, 0, error="no")]
    cells += [
        Cell(prompt, 1, score=1.0, tokens_per_second=speed)
        for prompt, speed in enumerate((2.0, 9.0, 3.0))
    ]
    base, lora = summary(make_grid(tmp_path, make_request("abc"), cells))
    assert (base.answered, base.errors, base.right) == (2, 1, None)
    assert lora.gain is not None
    assert (lora.gain.prompts, lora.gain.mean) == (2, 0.75)
    assert lora.tokens_per_second == 3.0, "the median"
    assert base.tokens_per_second is None


HEADLINES: dict[str, tuple[list[list[float]], dict[str, Any], str]] = {
    "gain": ([ones(6), ones(14)], {}, "LoRA answers 14 of 20 test questions; Base 6."),
    "a loss": ([ones(14), ones(2)], {}, "Base answers 14 of 20 test questions; LoRA 2."),
    "graded": (
        [[0.3, 0.32] * 10, [0.7, 0.72] * 10], {"metric": "ROUGE-L"},
        "LoRA scores 0.71 (ROUGE-L); Base 0.31.",
    ),
    "not shown by the interval": (
        [ones(6), ones(7)], {},
        "LoRA answers 7 of 20 test questions, Base 6: no difference shown.",
    ),
    "too few prompts": (
        [ones(0, 3), ones(3, 3)], {},
        "LoRA answers 3 of 3 test questions, Base 0: no difference shown.",
    ),
    "one of several not shown": (
        [ones(6), ones(14), ones(7)],
        {"panes": ("base", "a", "b"), "labels": ("Base", "LoRA", "QLoRA"), "methods": ()},
        "LoRA answers 14 of 20 test questions; QLoRA 7 (no difference from Base shown); "
        "Base 6.",
    ),
    "one pane": (
        [ones(1, 1)], {"panes": ("base",), "labels": ("Base",)},
        "Base answers 1 of 1 test question.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("scores", "request_", "said"), HEADLINES.values(), ids=HEADLINES)
def test_the_headline_claims_only_differences_that_are_shown(
    scores: list[list[float]], request_: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert headline(scored_grid(tmp_path, scores, **request_)) == said


def many(folder: Path, best: int) -> GridDirectory:
    """The base and 20 adapters; number `best` is right on all of 20 prompts, the others on 10."""
    names = [f"a{number}" for number in range(20)]
    scores = [ones(2), *(ones(20 if number == best else 10) for number in range(20))]
    return scored_grid(folder, scores, panes=("base", *names), labels=("Base", *names), methods=())


def test_of_many_panes_the_headline_names_the_best_and_the_base(tmp_path: Path) -> None:
    said = headline(many(tmp_path, best=17))
    assert said.startswith("a17 answers 20 of 20 test questions; a0 10; ")
    assert said.endswith("; a4 10; Base 2; 14 more.")


def test_of_many_panes_the_page_has_all_scores_but_only_the_first_answers(tmp_path: Path) -> None:
    html = grid_section(many(tmp_path, best=17))
    table, answers = html.split('class="answers', 1)
    rows = re.findall(r"<b>(\w+)</b>", table)
    assert rows[0] == "a17"
    assert len(rows) == 21
    assert "of 20, 5 % miss the true difference by chance" in table
    assert "The answers of 7 of 21 panes follow; the CSV has all." in table
    assert re.findall(r"<b>(\w+)</b>", answers) == ["a17", "a0", "a1", "a2", "a3", "a4", "Base"]


def test_without_the_base_the_others_are_compared_with_the_first_pane(tmp_path: Path) -> None:
    grid = scored_grid(tmp_path, [ones(6), ones(14)], panes=("a", "b"), labels=("QLoRA", "LoRA"))
    qlora, lora = summary(grid)
    assert qlora.gain is None
    assert lora.gain is not None
    assert lora.gain.over == "QLoRA"


def test_a_pane_with_fewer_answers_shows_their_number(tmp_path: Path) -> None:
    cells = [Cell(prompt, 0, score=1.0) for prompt in range(3)]
    cells += [Cell(0, 1, score=1.0), Cell(1, 1, score=0.0), Cell(2, 1, error="no")]
    assert headline(make_grid(tmp_path, make_request("abc"), cells, "done")) == (
        "Base answers 3 of 3 test questions, LoRA 1 of 2: no difference shown."
    )


def test_without_scores_the_headline_counts_the_answers(tmp_path: Path) -> None:
    cells = [Cell(0, 0, "yes"), Cell(0, 1, error="no")]
    assert headline(make_grid(tmp_path, cells=cells)) == (
        "2 prompts in 2 panes: 1 of 4 answered, 1 error."
    )
    assert headline(make_grid(tmp_path)) == "2 prompts in 2 panes: 0 of 4 answered."
