import math

import pytest

from ftlab.charts.learning_rate import CHARTS, RateCurve, learning_rates_figure
from ftlab.charts.spec import Facts
from ftlab.records.store import RunStore, sweep_data
from ftlab.settings.training import TrainingSettings
from tests.charts.whole_sweep import table_of, texts, trace_of
from tests.fakes import SWEEP, make_run


def ladder(folder):
    make_run(folder, "base")
    for rate, losses in ((1e-3, (1.4, 1.2)), (3e-3, (0.9, 1.1)), (9e-3, (1.6, 1.6))):
        for seed, loss in enumerate(losses):
            measures = {"eval_loss_after": loss, "eval_loss_before": 3.08}
            make_run(folder, "lora", seed=seed, learning_rate=rate, measures=measures)
    return table_of(folder)


def learning_rate_figure(table, name="", suggested=None):
    return learning_rates_figure([RateCurve("mean of the seeds", table, suggested)], name)


def test_the_curve_is_the_mean_of_the_seeds_over_the_rate_lowest_rate_first(tmp_path):
    curve = trace_of(learning_rate_figure(ladder(tmp_path)), "mean of the seeds")
    assert list(curve.x) == [1e-3, 3e-3, 9e-3]
    assert [round(loss, 6) for loss in curve.y] == [1.3, 1.0, 1.6]
    assert [round(reach, 6) for reach in curve.error_y.array] == [0.1, 0.1, 0.0]


def facts_of(folder):
    data = sweep_data(RunStore(folder), SWEEP)
    return Facts(data.table, CHARTS[0].read(data))


def test_the_finding_is_the_rate_with_the_lowest_loss_and_where_to_choose_one(tmp_path):
    ladder(tmp_path)
    (chart,), facts = CHARTS, facts_of(tmp_path)
    assert chart.finding(facts) == "LoRA: lowest test loss at 3e-3"
    assert chart.reading(facts).startswith("Choose a rate on the tuning split")
    assert "suggested" not in texts(chart.figure(facts))
    assert len(chart.drawn(facts).rows) == 6
    make_run(tmp_path, "ia3", learning_rate=2e-3)
    assert chart.drawn(facts_of(tmp_path)).rows.empty, "one variant has one rate alone"
    make_run(tmp_path, "ia3", learning_rate=5e-3, measures={"eval_loss_after": 0.2})
    facts = facts_of(tmp_path)
    assert chart.finding(facts) == "Lowest test loss"
    rates = [part.split()[-1] for part in chart.reading(facts).split(". ")[0].split(", ")]
    assert rates == ["3e-3", "5e-3"]


def test_on_the_tuning_split_the_finding_is_the_suggested_rate_and_its_reason(tmp_path):
    """The lowest rate, as the losses by example are the same at each."""
    for rate, loss in ((1e-3, 1.4), (3e-3, 1.0), (9e-3, 1.6)):
        settings = TrainingSettings(eval_split="tuning")
        measures = {"eval_loss_after": loss}
        make_run(tmp_path, "lora", learning_rate=rate, settings=settings, measures=measures)
    (chart,), facts = CHARTS, facts_of(tmp_path)
    (found,) = facts.read
    assert found.suggestion.rate == 1e-3
    assert chart.finding(facts) == "LoRA: suggested learning rate 1e-3"
    assert chart.reading(facts) == found.suggestion.reason
    assert "suggested" in texts(chart.figure(facts))
    assert chart.figure(facts).layout.yaxis.title.text.startswith("tuning loss")


def test_the_axes_name_every_rate_and_the_loss_as_it_is_called(tmp_path):
    figure = learning_rate_figure(ladder(tmp_path), "tuning loss")
    assert list(figure.layout.xaxis.ticktext) == ["1e-3", "3e-3", "9e-3"]
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.yaxis.title.text == "tuning loss (lower is better)"


def test_the_untouched_model_is_a_line_within_the_axis(tmp_path):
    figure = learning_rate_figure(ladder(tmp_path))
    assert set(trace_of(figure, "untouched model").y) == {3.08}
    low, high = figure.layout.yaxis.range
    assert low < 3.08 < high


@pytest.mark.parametrize(("loss", "where"), [(9.0, "above"), (0.01, "below")])
def test_a_distant_loss_of_the_untouched_model_is_a_note_outside_the_axis(tmp_path, loss, where):
    for rate, own in ((1e-3, 1.1), (3e-3, 1.0), (9e-3, 1.2)):
        measures = {"eval_loss_after": own, "eval_loss_before": loss}
        make_run(tmp_path, "lora", learning_rate=rate, measures=measures)
    figure = learning_rate_figure(table_of(tmp_path))
    assert trace_of(figure, "untouched model") is None
    assert f"untouched model {loss:.3f}, far {where}" in texts(figure)
    low, high = figure.layout.yaxis.range
    assert 0.9 < low < 1.0 < 1.2 < high < 1.3


def test_the_suggested_rate_is_marked_where_there_is_one(tmp_path):
    table = ladder(tmp_path)
    marks = [
        [note.x for note in figure.layout.annotations if note.text == "suggested"]
        for figure in (learning_rate_figure(table, suggested=3e-3), learning_rate_figure(table))
    ]
    assert marks == [[math.log10(3e-3)], []]


def test_a_diverged_run_is_drawn_at_its_rate_with_status_and_reason(tmp_path):
    make_run(tmp_path, "lora", "diverged", learning_rate=2.7e-2, reason="The <b>loss</b> rose.")
    figure = learning_rate_figure(ladder(tmp_path))
    undone = trace_of(figure, "not done")
    assert (list(undone.x), list(undone.text)) == ([2.7e-2], ["diverged"])
    assert "&lt;b&gt;loss&lt;/b&gt; rose." in undone.hovertext[0]
    assert list(figure.layout.xaxis.ticktext)[-1] == "0.027"


def test_without_any_loss_the_figure_says_why(tmp_path):
    make_run(tmp_path, "lora", "diverged", learning_rate=1e-3)
    figure = learning_rate_figure(table_of(tmp_path))
    assert texts(figure) == ["no run has a loss"]


def test_of_many_rates_only_as_many_are_named_as_the_axis_has_room_for(tmp_path):
    for place in range(30):
        make_run(tmp_path, "lora", learning_rate=1e-5 * 1.3**place)
    axis = learning_rate_figure(table_of(tmp_path)).layout.xaxis
    assert 2 <= len(axis.tickvals) <= 10
    assert axis.tickvals[0] == 1e-5
