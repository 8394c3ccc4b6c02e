import pytest

from ftlab.charts.pareto import measure_choices
from ftlab.charts.spec import charts
from ftlab.records.metrics import HEADLINES
from ftlab.records.store import RunStore, sweep_data
from ftlab.tabs.compare.serving import notes_html
from ftlab.tabs.compare.view import (
    bars_view,
    chart_rows,
    image_buttons,
    picture_of,
    read_picture,
    runs_fold,
)
from tests.charts.whole_sweep import whole_sweep
from tests.fakes import SWEEP, make_run, make_sweep


def data_of(folder, recorded=None):
    return sweep_data(RunStore(folder, recorded), SWEEP)


def chart_of(name):
    return next(chart for chart in charts() if chart.id == name)


def chosen_measures(table, x, y):
    """The measures of the front where those were asked for."""
    found = [
        choice.value(given, table)
        for choice, given in zip(chart_of("pareto").choices, (x, y), strict=True)
    ]
    return tuple(found)


def test_there_is_one_titled_bar_figure_for_each_headline_measure(tmp_path):
    make_sweep(tmp_path)
    shown = bars_view(data_of(tmp_path))
    assert len(shown.figures) == len(shown.titles) == len(HEADLINES)
    assert "Memory while training: Prompt tuning least, 52 % less" in shown.titles[1]


def test_bars_say_once_what_all_of_them_leave_out(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", status="failed")
    assert bars_view(data_of(tmp_path)).note == '<p class="meta">1 run left out: failed.</p>'


def test_bars_say_which_of_them_leaves_out_more(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", measures={"adapter_bytes": None})
    note = bars_view(data_of(tmp_path)).note
    assert note == '<p class="meta">File to deliver: 1 run left out: not measured.</p>'


@pytest.mark.parametrize("status", ["done", "failed"])
def test_the_front_is_at_first_of_net_peak_and_score_also_with_nothing_measured(tmp_path, status):
    make_sweep(tmp_path, status=status)
    table = data_of(tmp_path).table
    chosen = chosen_measures(table, None, None)
    assert chosen == ("net_peak_memory_bytes", "score_after")
    assert {*chosen} <= {key for _, key in measure_choices(table)}


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


def pictures_of(data):
    """Every chart of the tab but the bars that has something to show, by its id."""
    shown = {
        chart.id: read_picture(chart, data, {}) for row in chart_rows().values() for chart in row
    }
    return {name: picture for name, picture in shown.items() if picture is not None}


def test_every_picture_has_its_origin_beside_its_heading_and_buttons_for_an_image(tmp_path):
    pictures = pictures_of(whole_sweep(tmp_path))
    assert set(pictures) == {chart.id for row in chart_rows().values() for chart in row}
    for picture in pictures.values():
        assert 'class="chip measured"' in picture.heading
        assert picture.heading.count("data-image=") == 2


@pytest.mark.parametrize(
    ("name", "given", "file"),
    [
        ("loss", {"loss-x": "tokens"}, "ftlab-loss-by-tokens"),
        ("score-by-step", {"quality": "loss"}, "ftlab-loss-by-step"),
        ("memory-by-phase", {}, "ftlab-memory-by-phase"),
    ],
)
def test_the_file_of_an_image_says_what_is_drawn(tmp_path, name, given, file):
    picture = read_picture(chart_of(name), whole_sweep(tmp_path), given)
    assert f'data-file="{file}"' in picture.heading


def test_a_choice_that_is_none_of_a_chart_is_the_usual_one(tmp_path):
    data, loss = whole_sweep(tmp_path), chart_of("loss")
    wrong = {"loss-x": ["tokens"], "smoothing": "many"}
    assert picture_of(loss, data, loss.read(data), wrong).facts.chosen == {
        "loss-x": "step",
        "smoothing": 1,
    }


def test_a_sweep_of_an_older_version_hides_what_it_does_not_know(tmp_path):
    make_sweep(tmp_path)
    hidden = {"memory-anatomy", "forgetting", "score-by-step", "loss-by-learning-rate"}
    assert not hidden & set(pictures_of(data_of(tmp_path)))


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_runs_that_did_not_get_there_are_counted_below_the_figure(tmp_path, status):
    whole_sweep(tmp_path)
    make_run(tmp_path, "full", status)
    assert f"1 run left out: {status}." in pictures_of(data_of(tmp_path))["forgetting"].note


def test_the_curve_says_on_what_it_was_measured_and_who_is_left_out(tmp_path):
    whole_sweep(tmp_path)
    make_run(tmp_path, "full")
    picture = pictures_of(data_of(tmp_path))["score-by-step"]
    assert "32 at most; step 0 is the untouched model" in picture.heading
    assert "1 run left out: not evaluated between steps." in picture.note


@pytest.mark.parametrize("name", ["pareto", "score-by-time", "memory-by-phase"])
def test_a_run_without_the_measures_is_counted_below_the_figure(tmp_path, name):
    make_sweep(tmp_path, methods=("full",))
    gone = {"score_after": None, "before_model_bytes": None}
    make_run(tmp_path, "lora", measures=gone)
    assert "1 run left out: not measured." in pictures_of(data_of(tmp_path))[name].note


def test_a_run_without_a_loss_is_counted_below_the_figure(tmp_path):
    make_sweep(tmp_path, methods=("full",))
    make_run(tmp_path, "lora", status="queued")
    data = data_of(tmp_path)
    picture = pictures_of(data)["loss"]
    assert "1 run left out: no loss recorded." in picture.note
    assert picture.heading.count("mean and range") == 0


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


def test_every_figure_of_unlike_runs_says_so_below_it(tmp_path):
    data = whole_sweep(tmp_path, steps=60)
    bars = bars_view(data).note
    notes = [picture.note for picture in pictures_of(data).values()]
    for note in [*notes, bars, notes_html(data.table, 10)]:
        assert "Not a fair comparison: steps (30, 60)." in note
    assert bars.count("Not a fair comparison") == 1  # once for the four of them


def test_only_the_runs_that_a_figure_draws_are_compared(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", steps=60, measures={"score_after": None})
    pictures = pictures_of(data_of(tmp_path))
    assert "fair comparison" not in pictures["pareto"].note
    assert "Not a fair comparison: steps (30, 60)." in pictures["memory-by-phase"].note
    assert "Not a fair comparison: steps (30, 60)." in pictures["loss"].note
