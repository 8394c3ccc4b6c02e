import math

import pytest

from ftlab.charts.drawing import figure
from ftlab.charts.facts import (
    add_facts,
    add_origin,
    by_variant,
    click_hint,
    left_out,
    left_out_line,
    origin_words,
    settings_text,
)
from ftlab.records.store import RunStore
from tests.charts.whole_sweep import table_of, texts
from tests.fakes import make_run, make_sweep


def settings_of(folder):
    return settings_text(table_of(folder).to_dict("records"))


def test_the_hover_has_the_settings_of_a_run_without_markup(tmp_path):
    hyperparameters = {"r": 4, "targets": "<b>%{x}"}
    make_run(tmp_path, "lora", hyperparameters=hyperparameters, learning_rate=2e-3, seed=7)
    text = settings_of(tmp_path)
    assert text.startswith("r 4, ")
    assert "learning rate 2e-3, 30 steps, batch 4<br>bf16, cpu (AMD EPYC 7B13)<br>seed 7" in text
    assert "<b>" not in text
    assert "%{" not in text


def test_the_hover_of_several_runs_has_all_seeds_and_the_settings_in_which_they_differ(tmp_path):
    for seed, device in ((0, "cpu"), (1, "cpu"), (5, "cuda")):
        make_run(tmp_path, "lora", seed=seed, device=device)
    assert "cpu or cuda" in settings_of(tmp_path)
    assert "<br>3 seeds: 0, 1, 5" in settings_of(tmp_path)


def test_what_an_import_does_not_say_is_not_in_the_hover(tmp_path):
    make_run(tmp_path, "lora")
    rows = table_of(tmp_path).to_dict("records")
    unknown = dict.fromkeys(("learning_rate", "batch_size", "device", "machine", "dtype_policy"))
    text = settings_text([{**rows[0], **unknown, "steps": float("nan")}])
    assert "nan" not in text
    assert "None" not in text
    assert "learning rate" not in text


def test_the_hint_says_which_of_the_seeds_a_click_opens(tmp_path):
    make_sweep(tmp_path, methods=("lora",), seeds=(3, 4))
    rows = table_of(tmp_path).to_dict("records")
    assert "open seed 3" in click_hint(rows)
    assert "open this run" in click_hint(rows[:1])


def test_the_origin_has_the_date_of_measuring_which_an_import_lacks(tmp_path):
    make_run(tmp_path / "own", "lora")
    make_run(tmp_path / "recorded" / "sample", "full", sweep_id="20261124-120000-cd34")
    table = RunStore(tmp_path / "own", tmp_path / "recorded").table()
    assert origin_words(table[table["origin"] == "measured"]) == "measured 25 Nov 2026"
    assert origin_words(table[table["origin"] == "recorded"]) == "recorded 25 Nov 2026"
    assert origin_words(table) == "measured 25 Nov 2026, recorded 25 Nov 2026"
    assert origin_words(table.assign(origin="imported")) == "imported"


def test_the_origin_is_drawn_into_the_figure_and_takes_no_room_from_the_plot(tmp_path):
    make_run(tmp_path, "lora")
    fig = add_origin(figure(200, margin={"t": 0}), table_of(tmp_path))
    assert texts(fig) == ["measured 25 Nov 2026"]
    assert fig.layout.height - fig.layout.margin.t == 200


def test_without_runs_there_is_no_origin(tmp_path):
    table = table_of(tmp_path)
    assert add_origin(figure(200), table).layout.annotations == ()


def test_what_differs_is_drawn_above_the_origin_from_the_figures_left_edge(tmp_path):
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", steps=60, device="cuda:0")
    fig = add_facts(figure(200, margin={"t": 0, "l": 90}), table_of(tmp_path))
    origin, unlike = fig.layout.annotations
    assert unlike.text == "Not a fair comparison: steps and device"
    assert unlike.hovertext == "Not a fair comparison: steps (30, 60), device (cpu, cuda)."
    assert (unlike.x, unlike.xanchor, unlike.xshift) == (0, "left", -90)
    assert unlike.yshift > origin.font.size  # a line of its own: a narrow figure has no room beside
    assert fig.layout.height - fig.layout.margin.t == 200


def test_many_differences_take_more_lines_and_no_more_width_and_are_no_markup(tmp_path):
    packages = [{"<b>%{x}-a-package": n, "another-package": n, "one-more-package": n} for n in "12"]
    make_run(tmp_path, "full", environment={"packages": packages[0]})
    make_run(tmp_path, "lora", environment={"packages": packages[1]})
    text = add_facts(figure(200), table_of(tmp_path)).layout.annotations[1].text
    first, second = text.split("<br>")
    assert first == "Not a fair comparison: &lt;b&gt;%&#123;x}-a-package,"
    assert second == "another-package and one-more-package"


def test_runs_that_are_like_for_like_get_no_line(tmp_path):
    make_sweep(tmp_path)
    notes = add_facts(figure(200), table_of(tmp_path)).layout.annotations
    assert [note.name for note in notes] == ["origin"]


def test_runs_that_lack_a_measure_are_left_out_and_counted(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", measures={"score_after": None})
    make_run(tmp_path, "prompt_tuning", status="failed")
    rows, count = left_out(table_of(tmp_path), "score_after")
    assert (rows["method"].tolist(), count) == (["full", "lora"], 2)
    infinite = table_of(tmp_path).assign(score_after=math.inf)
    assert left_out(infinite, "score_after")[1] == 4


@pytest.mark.parametrize(
    ("runs", "key", "line"),
    [
        ({"lora": "no score"}, "score_after", "1 run left out: not measured."),
        (
            {"lora": "no score", "qlora": "failed", "prompt_tuning": "out_of_memory"},
            "score_after", "3 runs left out: 1 failed, 1 out of memory, 1 not measured.",
        ),
        (
            {"lora": "no score", "qlora": "failed", "prompt_tuning": "out_of_memory"},
            "train_seconds", "2 runs left out: 1 failed, 1 out of memory.",
        ),
        ({"lora": "queued", "qlora": "queued"}, "score_after", "2 runs left out: queued."),
        ({}, "score_after", ""),
    ],
)  # fmt: skip
def test_a_line_says_how_many_are_left_out_and_why(tmp_path, runs, key, line):
    make_run(tmp_path, "full")
    for method, status in runs.items():
        if status == "no score":
            make_run(tmp_path, method, measures={"score_after": None})
        else:
            make_run(tmp_path, method, status)
    assert left_out_line(table_of(tmp_path), key) == line
    assert left_out_line(table_of(tmp_path).iloc[:0], key) == ""


def test_the_runs_of_a_variant_are_one_group_with_their_mean_and_range(tmp_path):
    table = table_of(tmp_path, "train_seconds", lora=[40.0, 60.0, 80.0])
    (group,) = by_variant(table.assign(score_after=math.nan))
    found = group.mean("train_seconds"), group.low("train_seconds"), group.high("train_seconds")
    assert found == (60, 40, 80)
    assert len(group.run_ids.split()) == 3
    assert math.isnan(group.mean("score_after"))
