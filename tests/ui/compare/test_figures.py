from dataclasses import replace

import pytest

from ftlab.charts.loss_points import loss_points
from ftlab.charts.savings import BAR_NAMES
from ftlab.charts.serving import serving_figure
from ftlab.runs.metrics import HEADLINES
from ftlab.runs.result import ANATOMY
from ftlab.runs.store import RunStore
from ftlab.runs.sweep_data import sweep_data
from ftlab.ui.compare.figures import (
    anatomy_picture,
    bars_view,
    chosen_measures,
    image_buttons,
    loss_picture,
    measure_choices,
    pareto_picture,
    phases_picture,
    runs_fold,
    score_time_picture,
)
from ftlab.ui.compare.serving import notes_html
from tests.fakes import SWEEP, make_run, make_sweep


def data_of(folder, recorded=None):
    return sweep_data(RunStore(folder, recorded), SWEEP)


def test_there_is_one_titled_bar_figure_for_each_headline_measure(tmp_path):
    make_sweep(tmp_path)
    shown = bars_view(data_of(tmp_path))
    assert tuple(BAR_NAMES) == HEADLINES
    assert len(shown.figures) == len(shown.titles) == 4
    assert "Net peak memory, train phase: Prompt tuning least, 0.48x" in shown.titles[1]


def test_a_sweep_with_nothing_done_still_offers_the_measures_that_it_names(tmp_path):
    make_sweep(tmp_path, status="failed")
    table = data_of(tmp_path).table
    x, y = chosen_measures(table, None, None)
    assert {x, y} <= {key for _, key in measure_choices(table)}


def test_bars_say_once_what_all_of_them_leave_out(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", status="failed")
    assert bars_view(data_of(tmp_path)).note == '<p class="meta">1 run left out: failed.</p>'


def test_bars_say_which_of_them_leaves_out_more(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", measures={"adapter_bytes": None})
    note = bars_view(data_of(tmp_path)).note
    assert note == '<p class="meta">File to ship: 1 run left out: not measured.</p>'


def test_the_front_is_at_first_of_net_peak_and_score(tmp_path):
    make_sweep(tmp_path)
    table = data_of(tmp_path).table
    assert chosen_measures(table, None, None) == ("net_peak_memory_bytes", "score_after")


def test_without_a_score_the_front_is_of_the_loss(tmp_path):
    make_sweep(tmp_path, measures={"score_after": None})
    table = data_of(tmp_path).table
    assert chosen_measures(table, None, None)[1] == "eval_loss_after"
    assert "score_after" not in [key for _, key in measure_choices(table)]


def test_a_chosen_measure_stays_as_far_as_the_runs_have_it(tmp_path):
    make_sweep(tmp_path, measures={"adapter_bytes": None})
    table = data_of(tmp_path).table
    assert chosen_measures(table, "train_seconds", "tokens_per_second") == (
        "train_seconds",
        "tokens_per_second",
    )
    assert chosen_measures(table, "adapter_bytes", "no such")[0] == "net_peak_memory_bytes"


def test_with_nothing_measured_there_are_still_two_measures(tmp_path):
    make_sweep(tmp_path, status="failed")
    table = data_of(tmp_path).table
    assert chosen_measures(table, None, None) == ("net_peak_memory_bytes", "score_after")
    assert measure_choices(table) == [] or all(key for _, key in measure_choices(table))


def pictures_of(data):
    return {
        "pareto": pareto_picture(data, "net_peak_memory_bytes", "score_after"),
        "loss": loss_picture(data, loss_points(data), "step", 1),
        "score": score_time_picture(data),
        "phases": phases_picture(data),
        "anatomy": anatomy_picture(data),
    }


def test_every_picture_has_its_origin_beside_its_heading_and_buttons_for_an_image(tmp_path):
    make_sweep(tmp_path / "recorded" / "sample")
    for picture in pictures_of(data_of(tmp_path / "own", tmp_path / "recorded")).values():
        assert 'class="chip recorded"' in picture.heading
        assert picture.heading.count("data-image=") == 2


def test_every_drawn_figure_carries_its_origin(tmp_path):
    make_sweep(tmp_path / "recorded" / "sample")
    data = data_of(tmp_path / "own", tmp_path / "recorded")
    figures = [picture.figure for name, picture in pictures_of(data).items() if name != "anatomy"]
    for figure in [*figures, *bars_view(data).figures]:
        assert "recorded 25 Nov 2026" in [note.text for note in figure.layout.annotations]


@pytest.mark.parametrize("name", ["pareto", "score", "phases"])
def test_a_run_without_the_measures_is_counted_below_the_figure(tmp_path, name):
    make_sweep(tmp_path, methods=("full",))
    gone = {"score_after": None, "before_model_bytes": None}
    make_run(tmp_path, "lora", measures=gone)
    assert "1 run left out: not measured." in pictures_of(data_of(tmp_path))[name].note


def test_a_run_without_a_loss_is_counted_below_the_figure(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", status="queued")
    data = data_of(tmp_path)
    picture = loss_picture(data, loss_points(data), "step", 1)
    assert "1 run left out: no loss recorded." in picture.note
    assert pictures_of(data)["loss"].heading.count("mean and range") == 0


def test_the_file_of_an_image_is_named_by_its_figure_and_its_title_is_only_text():
    html = image_buttons("net_peak", 'a "title" <b>')
    assert 'data-file="ftlab-net-peak"' in html
    assert "<b>" not in html
    assert 'aria-label="PNG of: a &#34;title&#34; &lt;b&gt;"' in html


def test_every_run_can_be_opened_by_a_button(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"), seeds=(0, 1))
    data = data_of(tmp_path)
    html = runs_fold(data)
    for row in data.table.itertuples():
        assert f'data-open="{row.run_id}"' in html
        assert f'aria-label="Open {row.variant}, seed {row.seed}"' in html
    assert "Open one of the 4 runs" in html


def test_script_in_a_variant_is_only_text(tmp_path):
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", hyperparameters={"targets": "<script>alert(1)</script>"})
    data = data_of(tmp_path)
    html = runs_fold(data) + "".join(
        picture.heading + picture.note for picture in pictures_of(data).values()
    )
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def all_pictures(data):
    """(name, HTML below it, its figure) of every picture, the bars and the serving sheet."""
    bars = bars_view(data)
    pictures = pictures_of(data)
    yield from (("bars", bars.note, figure) for figure in bars.figures)
    yield from ((name, picture.note, picture.figure) for name, picture in pictures.items())
    yield "serving", notes_html(data.table, 10), serving_figure(data.table, 10)


def test_every_figure_of_unlike_runs_says_so_below_it_and_in_its_image(tmp_path):
    parts = {f"anatomy_{part}_bytes": 1e8 for part in ANATOMY}
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", steps=60)
    data = data_of(tmp_path)
    data = replace(data, table=data.table.assign(**parts))
    for name, note, figure in all_pictures(data):
        assert "Not like for like: steps (30, 60)." in note, name
        drawn = [note.text for note in figure.layout.annotations if note.name == "unlike"]
        assert drawn == ["Not like for like: steps"], name
    assert bars_view(data).note.count("Not like for like") == 1  # once for the four of them


def test_no_figure_of_a_fair_sweep_speaks_of_a_difference(tmp_path):
    make_sweep(tmp_path)
    for name, note, figure in all_pictures(data_of(tmp_path)):
        assert "like for like" not in note, name
        assert "unlike" not in [note.name for note in figure.layout.annotations], name


def test_only_the_runs_that_a_figure_draws_are_compared(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", steps=60, measures={"score_after": None})
    pictures = pictures_of(data_of(tmp_path))
    assert "like for like" not in pictures["pareto"].note
    assert "Not like for like: steps (30, 60)." in pictures["phases"].note
    assert "Not like for like: steps (30, 60)." in pictures["loss"].note
