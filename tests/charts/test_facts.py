import math

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
from tests.fakes import make_run, make_sweep


def rows_of(folder, recorded=None):
    return RunStore(folder, recorded).table()


def test_the_hover_names_the_settings_of_a_run(tmp_path):
    make_run(tmp_path, "lora", hyperparameters={"r": 4}, learning_rate=2e-3, seed=7)
    text = settings_text(rows_of(tmp_path).to_dict("records"))
    assert text.startswith("r 4, ")
    assert "learning rate 2e-3, 30 steps, batch 4<br>bf16, cpu (AMD EPYC 7B13)<br>seed 7" in text


def test_the_hover_of_several_seeds_names_them_all(tmp_path):
    make_sweep(tmp_path, methods=("lora",), seeds=(0, 1, 5))
    assert "<br>3 seeds: 0, 1, 5" in settings_text(rows_of(tmp_path).to_dict("records"))


def test_settings_in_which_the_runs_differ_are_all_named(tmp_path):
    make_run(tmp_path, "lora", device="cpu")
    make_run(tmp_path, "lora", device="cuda")
    assert "cpu or cuda" in settings_text(rows_of(tmp_path).to_dict("records"))


def test_what_an_import_does_not_say_is_not_in_the_hover(tmp_path):
    make_run(tmp_path, "lora")
    rows = rows_of(tmp_path).to_dict("records")
    unknown = dict.fromkeys(("learning_rate", "batch_size", "device", "machine", "dtype_policy"))
    text = settings_text([{**rows[0], **unknown, "steps": float("nan")}])
    assert "nan" not in text
    assert "None" not in text
    assert "learning rate" not in text


def test_settings_from_a_record_are_no_markup(tmp_path):
    make_run(tmp_path, "lora", hyperparameters={"targets": "<b>%{x}"})
    text = settings_text(rows_of(tmp_path).to_dict("records"))
    assert "<b>" not in text
    assert "%{" not in text


def test_the_hint_says_which_of_the_seeds_a_click_opens(tmp_path):
    make_sweep(tmp_path, methods=("lora",), seeds=(3, 4))
    rows = rows_of(tmp_path).to_dict("records")
    assert "open seed 3" in click_hint(rows)
    assert "open this run" in click_hint(rows[:1])


def test_where_numbers_come_from_is_said_with_their_date(tmp_path):
    make_run(tmp_path / "own", "lora")
    make_run(tmp_path / "recorded" / "sample", "full", sweep_id="20261124-120000-cd34")
    table = rows_of(tmp_path / "own", tmp_path / "recorded")
    assert origin_words(table[table["origin"] == "measured"]) == "measured 25 Nov 2026"
    assert origin_words(table[table["origin"] == "recorded"]) == "recorded 25 Nov 2026"
    assert origin_words(table) == "measured 25 Nov 2026, recorded 25 Nov 2026"


def test_an_import_has_no_date_of_measuring(tmp_path):
    make_run(tmp_path, "lora")
    table = rows_of(tmp_path).assign(origin="imported")
    assert origin_words(table) == "imported"


def test_the_origin_is_drawn_into_the_figure_and_takes_no_room_from_the_plot(tmp_path):
    make_run(tmp_path, "lora")
    fig = add_origin(figure(200, margin={"t": 0}), rows_of(tmp_path))
    assert [note.text for note in fig.layout.annotations] == ["measured 25 Nov 2026"]
    assert fig.layout.height - fig.layout.margin.t == 200


def test_without_runs_there_is_no_origin(tmp_path):
    table = rows_of(tmp_path)
    assert add_origin(figure(200), table).layout.annotations == ()


def test_what_differs_is_drawn_above_the_origin_from_the_figures_left_edge(tmp_path):
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", steps=60, device="cuda:0")
    fig = add_facts(figure(200, margin={"t": 0, "l": 90}), rows_of(tmp_path))
    origin, unlike = fig.layout.annotations
    assert unlike.text == "Not like for like: steps and device"
    assert unlike.hovertext == "Not like for like: steps (30, 60), device (cpu, cuda)."
    assert (unlike.x, unlike.xanchor, unlike.xshift) == (0, "left", -90)
    assert unlike.yshift > origin.font.size  # a line of its own: a narrow figure has no room beside
    assert fig.layout.height - fig.layout.margin.t == 200


def test_many_differences_take_more_lines_and_no_more_width_and_are_no_markup(tmp_path):
    packages = [{"<b>%{x}-a-package": n, "another-package": n, "one-more-package": n} for n in "12"]
    make_run(tmp_path, "full", environment={"packages": packages[0]})
    make_run(tmp_path, "lora", environment={"packages": packages[1]})
    text = add_facts(figure(200), rows_of(tmp_path)).layout.annotations[1].text
    first, second = text.split("<br>")
    assert first == "Not like for like: &lt;b&gt;%&#123;x}-a-package,"
    assert second == "another-package and one-more-package"


def test_runs_that_are_like_for_like_get_no_line(tmp_path):
    make_sweep(tmp_path)
    notes = add_facts(figure(200), rows_of(tmp_path)).layout.annotations
    assert [note.name for note in notes] == ["origin"]


def groups_of(folder):
    return {group.variant: group for group in by_variant(rows_of(folder))}


def test_runs_that_lack_a_measure_are_left_out_and_counted(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", measures={"score_after": None})
    make_run(tmp_path, "prompt_tuning", status="failed")
    rows, count = left_out(rows_of(tmp_path), "score_after")
    assert (rows["method"].tolist(), count) == (["full", "lora"], 2)


def test_a_measure_that_is_not_finite_is_not_measured(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    table = rows_of(tmp_path)
    table.loc[0, "eval_loss_after"] = math.inf
    assert left_out(table, "eval_loss_after")[1] == 1


def test_a_line_says_how_many_are_left_out_and_why(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", measures={"score_after": None})
    assert left_out_line(rows_of(tmp_path), "score_after") == "1 run left out: not measured."
    make_run(tmp_path, "qlora", status="failed")
    make_run(tmp_path, "qlora", status="out_of_memory")
    assert left_out_line(rows_of(tmp_path), "score_after") == (
        "3 runs left out: 1 failed, 1 out of memory, 1 not measured."
    )
    assert left_out_line(rows_of(tmp_path), "train_seconds") == (
        "2 runs left out: 1 failed, 1 out of memory."
    )


def test_one_reason_for_all_is_said_once(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", status="queued")
    make_run(tmp_path, "qlora", status="queued")
    assert left_out_line(rows_of(tmp_path), "score_after") == "2 runs left out: queued."


def test_nothing_is_said_where_nothing_is_left_out(tmp_path):
    make_sweep(tmp_path)
    assert left_out_line(rows_of(tmp_path), "score_after") == ""
    assert left_out_line(rows_of(tmp_path).iloc[:0], "score_after") == ""


def test_the_runs_of_a_variant_are_one_group_with_their_mean_and_range(tmp_path):
    for seed, seconds in enumerate((40.0, 60.0, 80.0)):
        make_run(tmp_path, "lora", seed=seed, measures={"train_seconds": seconds})
    (group,) = by_variant(rows_of(tmp_path))
    found = group.mean("train_seconds"), group.low("train_seconds"), group.high("train_seconds")
    assert found == (60, 40, 80)
    assert len(group.run_ids.split()) == 3


def test_a_variant_without_the_measure_has_no_mean(tmp_path):
    make_run(tmp_path, "lora", measures={"score_after": None})
    (group,) = by_variant(rows_of(tmp_path))
    assert math.isnan(group.mean("score_after"))
