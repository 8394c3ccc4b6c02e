"""A grid as a section of a report."""

from __future__ import annotations

from pathlib import Path

from ftlab.playground.grid import Cell
from ftlab.share.report_sections import grid_section, settings_line
from tests.playground.grid.fakes import SQL, make_grid, make_request, scored_grid

HOSTILE = '<img src=x onerror="alert(1)">'


def test_the_section_begins_with_the_headline(tmp_path: Path) -> None:
    section = grid_section(scored_grid(tmp_path, [[0.0] * 12, [1.0] * 12]))
    assert section.startswith("<h2>LoRA answers 12 of 12 test questions; Base 0.</h2>")


def test_scores_stand_with_their_intervals_and_gains(tmp_path: Path) -> None:
    section = grid_section(scored_grid(tmp_path, [[0.0, 1.0] * 10, [1.0] * 20]))
    assert "SQL score, 95 %" in section
    assert "10 of 20 = 0.50 [0." in section
    assert "Over Base, 95 %" in section
    assert "+0.50 [+0." in section


def test_everything_that_was_said_is_escaped(tmp_path: Path) -> None:
    request = make_request(
        [HOSTILE], labels=(HOSTILE, "LoRA"), methods=(HOSTILE, "lora"), system=HOSTILE
    )
    cells = [
        Cell(0, 0, HOSTILE, note=HOSTILE, score=0.5, metric=HOSTILE, verdict=HOSTILE),
        Cell(0, 1, HOSTILE, error=HOSTILE),
    ]
    section = grid_section(make_grid(tmp_path, request, cells, "done"))
    assert "<img" not in section
    assert section.count("&lt;img") >= 9


def test_the_settings_that_make_grids_comparable_are_said(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, make_request(task=SQL), status="done")
    line = settings_line(grid)
    assert line.startswith("SmolLM2-135M-Instruct (bundled) · base in 16 bits · greedy, seed 0 · ")
    assert "at most 96 tokens" in line
    assert "test examples of SQL" in line
    assert "AMD EPYC" in line
    assert "system prompt" not in line
    drawn = make_request(
        temperature=0.7, top_p=0.9, repetition_penalty=1.2, seed=3, system="Be brief.",
        mode="completion", precision="nf4", model="/home/someone/models/own",
    )  # fmt: skip
    line = settings_line(make_grid(tmp_path, drawn))
    assert line.startswith("own · base in 4 bits (NF4) · completion · temperature 0.7, top-p 0.9, ")
    assert "seed 3 · repetition penalty 1.2" in line
    assert "system prompt “Be brief.”" in line
    assert "someone" not in line, "a folder of the machine is nobody's business"


def test_a_grid_that_has_not_ended_says_so_and_shows_what_it_has(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, cells=[Cell(0, 0, "the one answer"), Cell(1, 0, "")])
    section = grid_section(grid)
    assert "queued" in section
    assert "the one answer" in section
    assert "empty answer" in section
    assert section.count("not answered") == 2
    assert "95 %" not in section


def test_a_grid_that_failed_gives_its_reason(tmp_path: Path) -> None:
    assert settings_line(make_grid(tmp_path, status="failed")).endswith("failed: Why.")


def test_verdicts_are_words_and_a_score_without_words_is_a_number(tmp_path: Path) -> None:
    cells = [
        Cell(0, 0, "a", score=1.0, verdict="runs, equal"),
        Cell(0, 1, "b", score=0.0, verdict="no SQL"),
        Cell(1, 0, "c", score=0.314, metric="chrF"),
    ]
    section = grid_section(make_grid(tmp_path, cells=cells))
    assert '<span class="chip ok">runs, equal</span>' in section
    assert '<span class="chip bad">no SQL</span>' in section
    assert '<span class="chip ">chrF 0.31</span>' in section
