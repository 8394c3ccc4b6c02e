import math
from itertools import pairwise

import pytest

from ftlab.charts.curves import POINT_COLUMNS, height_for, spread
from ftlab.charts.loss import CHARTS, LossCurve, curve_of, curve_points, loss_finding, loss_points
from ftlab.charts.loss import loss_figure as figure_of_points
from ftlab.charts.spec import Facts
from ftlab.methods.registry import METHODS, look_of
from ftlab.records.published import PublishedRun
from ftlab.records.store import RunStore, SweepData, read_run, sweep_data
from tests.charts.whole_sweep import table_of, texts
from tests.fakes import SWEEP, make_run, make_sweep

DOWN = [(step, 3.0 - 0.1 * step) for step in range(1, 11)]


def loss_figure(curves, **options):
    return figure_of_points(curve_points(curves), **options)


def data_of(folder):
    return sweep_data(RunStore(folder), SWEEP)


def seed(number, *losses, label="LoRA", **curve):
    return LossCurve(label, "lora", list(enumerate(losses, 1)), seed=number, **curve)


def label_of(text, colour="#2777e0"):
    return f'<span style="color:{colour}">■</span> {text}'


def test_each_method_has_its_own_colour_and_a_label_in_ink_with_a_square_in_it():
    curves = [LossCurve("Full fine-tuning", "full", DOWN), LossCurve("LoRA", "lora", DOWN)]
    figure = loss_figure(curves)
    colours = [look_of("full").colour, look_of("lora").colour]
    assert [line.line.color for line in figure.data] == colours
    assert texts(loss_figure(curves[:1])) == [label_of("Full 2.00", colours[0])]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["one seed", "two seeds"])
def test_variants_of_one_method_differ_in_dash_and_marker_but_not_in_colour(seeds):
    figure = loss_figure([seed(n, 3.0, 1.0, label=v) for v in ("LoRA", "r=4") for n in seeds])
    *bands, first, second = figure.data
    assert len(bands) == (2 if len(seeds) > 1 else 0)
    assert first.line.color == second.line.color
    assert first.line.dash != second.line.dash
    assert (first.mode, second.mode) == ("lines", "lines+markers")


NAN = math.nan


@pytest.mark.parametrize(
    ("seeds", "mean", "band_x", "band_y"),
    [
        (
            [(3.0, 1.0), (4.0, 2.0), (2.0, 1.5)],
            [3.0, 1.5], [1, 2, 2, 1, None], [4.0, 2.0, 1.0, 2.0, None],
        ),
        (
            [(3.0, 2.0, 1.0), (5.0,), (4.0, 4.0)],
            [4.0, 3.0, 1.0], [1, 2, 3, 3, 2, 1, None], [5.0, 4.0, 1.0, 1.0, 2.0, 3.0, None],
        ),
        (
            [(3.0, NAN, NAN, 1.0), (5.0, 4.0, NAN, 2.0)],
            [4.0, 4.0, None, 1.5],
            [1, 2, 2, 1, None, 4, 4, None], [5.0, 4.0, 4.0, 3.0, None, 2.0, 1.0, None],
        ),
    ],
    ids=["all steps", "steps that not every seed has", "losses that are no number"],
)  # fmt: skip
def test_seeds_of_one_variant_are_their_mean_in_their_range(seeds, mean, band_x, band_y):
    band, line = loss_figure([seed(n, *losses) for n, losses in enumerate(seeds)]).data
    assert list(line.y) == mean
    assert (list(band.x), list(band.y)) == (band_x, band_y)
    assert line.line.color == look_of("lora").colour
    assert band.fill == "toself"
    assert band.opacity < 0.2


def test_a_variant_with_one_seed_has_no_range():
    (line,) = loss_figure([seed(0, 3.0, 1.0)]).data
    assert (list(line.y), line.text) == ([3.0, 1.0], None)


def test_the_mean_names_each_seed_and_its_loss_or_the_range_of_many():
    _, line = loss_figure([seed(3, 3.0, 1.0), seed(7, 4.0)]).data
    assert list(line.text) == ["seed 3 3.000, seed 7 4.000", "seed 3 1.000"]
    assert "%{text}" in line.hovertemplate
    _, line = loss_figure([seed(n, 3.0 + n / 10) for n in range(8)]).data
    assert list(line.text) == ["8 seeds, 3.000 to 3.700"]


def test_a_seed_that_failed_is_a_pale_line_of_its_own_behind_the_others():
    figure = loss_figure(
        [seed(0, 3.0, 1.0), seed(1, 4.0, 2.0), seed(2, 9.0, 9.0, emphasised=False)]
    )
    _, failed, mean = figure.data
    assert list(failed.y) == [9.0, 9.0]
    assert failed.opacity < mean.opacity
    assert list(mean.y) == [3.5, 1.5]
    assert failed.line.dash == mean.line.dash
    assert texts(figure) == [label_of("LoRA 1.50")]


@pytest.mark.parametrize(
    ("status", "emphasised"), [("done", True), ("running", True), ("failed", False)]
)
def test_the_curve_of_a_run_knows_its_seed_and_whether_the_run_counts(tmp_path, status, emphasised):
    run = read_run(make_run(tmp_path, "lora", status, seed=5))
    curve = curve_of(run, [(1, 3.0)])
    assert curve == LossCurve("LoRA", "lora", ((1, 3.0),), emphasised, seed=5)


def test_labels_of_curves_that_end_together_are_pushed_apart():
    figure = loss_figure([LossCurve(f"LoRA r={r}", "lora", DOWN) for r in (2, 4, 8)])
    heights = sorted(annotation.y for annotation in figure.layout.annotations)
    low, high = figure.layout.yaxis.range
    assert min(b - a for a, b in pairwise(heights)) > 0.05 * (high - low)


def test_spread_moves_values_only_as_far_as_needed_and_never_above_the_top():
    assert spread([1.0, 1.1, 5.0], gap=1.0, top=5.5) == [1.0, 2.0, 5.0]
    assert spread([5.0, 5.1], gap=1.0, top=5.2) == pytest.approx([4.2, 5.2])
    assert spread([], gap=1.0, top=1.0) == []


def test_more_curves_than_labels_fit_leaves_labels_out_not_curves():
    curves = [LossCurve(f"LoRA r={r}", "lora", DOWN) for r in range(1, 40)]
    figure = loss_figure(curves, height=228)
    assert len(figure.data) == 39
    assert len(texts(figure)) == (228 - 52) // 15


def test_a_curve_that_diverged_does_not_flatten_the_others():
    figure = loss_figure(
        [LossCurve("LoRA", "lora", DOWN), LossCurve("QLoRA", "qlora", [(1, 3.0), (2, 900.0)])]
    )
    assert figure.layout.yaxis.range[1] < 6
    assert max(annotation.y for annotation in figure.layout.annotations) < 6
    assert any("900.00" in text for text in texts(figure))


def test_a_single_step_is_visible_as_a_marker():
    assert loss_figure([LossCurve("LoRA", "lora", [(1, 3.0)])]).data[0].mode == "lines+markers"


@pytest.mark.parametrize("curves", [[], [LossCurve("LoRA", "lora", [])]])
def test_without_a_step_the_figure_says_so(curves):
    figure = loss_figure(curves)
    assert len(figure.data) == 0
    assert texts(figure) == ["no step yet"]


def test_steps_of_a_run_that_goes_on_set_the_length_of_the_axis():
    assert loss_figure([LossCurve("LoRA", "lora", DOWN)], steps=30).layout.xaxis.range[1] > 30


def test_points_of_a_sweep_sum_up_tokens_and_seconds(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    points = loss_points(data_of(tmp_path))
    assert list(points.columns) == POINT_COLUMNS
    assert points["step"].tolist() == list(range(1, 31))
    assert points["tokens"].tolist()[:3] == [700, 1400, 2100]
    assert points["seconds"].tolist()[-1] == pytest.approx(60.0)
    assert set(points["label"]) == {"LoRA"}
    assert points["emphasised"].all()


def test_a_failed_run_has_pale_points_and_a_queued_one_none(tmp_path):
    make_run(tmp_path, "lora", status="failed")
    make_run(tmp_path, "qlora", status="queued")
    points = loss_points(data_of(tmp_path))
    assert set(points["label"]) == {"LoRA"}
    assert not points["emphasised"].any()


def test_imported_runs_have_a_loss_over_steps_alone(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    data = data_of(tmp_path)
    row = data.table.iloc[0].to_dict() | {"run_id": "theirs", "origin": "imported"}
    published = PublishedRun("theirs", "s", row, losses=((250, 1.0), (500, 0.7)))
    table = data.table.assign(run_id="theirs", origin="imported")
    points = loss_points(SweepData("s", "imported", table, published=(published,)))
    assert points["loss"].tolist() == [1.0, 0.7]
    assert points["tokens"].isna().all()
    figure = figure_of_points(points, "tokens")
    assert (len(figure.data), texts(figure)) == (0, ["no tokens recorded"])
    assert "imported" in texts(figure_of_points(points))
    (chart,) = CHARTS
    left_out = [
        chart.drawn(Facts(table, points, {"loss-x": x})).left_out for x in ("step", "tokens")
    ]
    assert left_out == ["", "1 run left out: no tokens recorded."]


def test_the_axis_may_be_steps_tokens_or_seconds(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    points = loss_points(data_of(tmp_path))
    ends = {x: figure_of_points(points, x).data[0].x[-1] for x in ("step", "tokens", "seconds")}
    assert ends == {"step": 30, "tokens": 21_000, "seconds": pytest.approx(60.0)}


def test_seeds_lie_at_their_mean_place_on_an_axis_of_seconds(tmp_path):
    make_sweep(tmp_path, methods=("lora",), seeds=(0, 1))
    points = loss_points(data_of(tmp_path))
    slow = points["seed"] == 1
    points.loc[slow, "seconds"] = 2 * points.loc[slow, "seconds"]
    _, line = figure_of_points(points, "seconds").data
    assert list(line.x)[:2] == pytest.approx([3.0, 6.0])


@pytest.mark.parametrize(
    ("losses", "over", "smooth"),
    [
        ((4.0, 2.0, 6.0, 1.0), 3, [4.0, 3.0, 4.0, 3.0]),
        ((4.0, NAN, 2.0), 2, [4.0, None, 3.0]),
        ((3.0, NAN, 2.0), 1, [3.0, None, 2.0]),
    ],
    ids=["running mean", "a loss that is no number", "no smoothing"],
)
def test_smoothing_is_a_running_mean_of_each_run_and_named_on_the_axis(losses, over, smooth):
    figure = loss_figure([seed(0, *losses)], smoothing=over)
    assert list(figure.data[0].y) == smooth
    assert (f"mean of {over} steps" in figure.layout.yaxis.title.text) == (over > 1)


@pytest.mark.parametrize(
    ("runs", "finding"),
    [
        (
            {"full": [1.0, 1.3], "lora": [1.1, 1.25], "qlora": [2.0, 2.1]},
            "Test loss after training: Full fine-tuning 1.150, LoRA 1.175, QLoRA 2.050; "
            "no difference is shown between Full fine-tuning and LoRA: their repeats overlap",
        ),
        (
            {"full": 1.22, "lora": 1.31},
            "Test loss after training: Full fine-tuning 1.220, LoRA 1.310 (each was run once: "
            "how far repeats differ is not known)",
        ),
        ({"lora": None}, "Training loss; no test loss was measured"),
    ],
    ids=["overlapping seeds", "one seed", "no test loss"],
)
def test_the_finding_is_the_held_out_loss_and_what_the_seeds_show(tmp_path, runs, finding):
    assert loss_finding(Facts(table_of(tmp_path, "eval_loss_after", **runs))) == finding


def test_many_lines_have_the_markers_of_their_methods_and_few_do_not():
    methods = ["lora", "dora", "vera", "oft", "ia3", "hra", "loha", "full"]
    curves = [LossCurve(method, method, DOWN) for method in methods]
    many, few = loss_figure(curves), loss_figure(curves[:-1])
    found = {line.name: line.marker.symbol for line in many.data if "markers" in line.mode}
    assert found == {method: look_of(method).marker for method in methods}
    assert not any("markers" in line.mode for line in few.data)
    assert any("★" in label for label in texts(many))


def test_a_figure_of_many_lines_has_room_for_all_labels():
    curves = [LossCurve(method, method, DOWN) for method in METHODS]
    assert height_for(curve_points(curves[:4]), 330) == 330
    high = height_for(curve_points(curves), 330)
    assert high > 330
    assert len(texts(loss_figure(curves, height=high))) >= len(METHODS)


def test_a_long_run_is_drawn_with_a_bounded_number_of_points_and_every_spike() -> None:
    spikes = {1: 9.0, 4_321: 25.0, 17_000: 0.1, 20_000: 1.5}
    losses = {step: 2.0 + step % 5 / 100 for step in range(1, 20_001)} | spikes
    fig = loss_figure([LossCurve("LoRA", "lora", tuple(losses.items()))])
    (line,) = fig.data
    assert len(line.x) <= 700
    drawn = dict(zip(line.x, line.y, strict=True))
    assert {step: drawn.get(step) for step in spikes} == spikes
    assert all(losses[step] == loss for step, loss in drawn.items())


def test_of_long_runs_of_several_seeds_the_band_keeps_the_spike_of_each() -> None:
    curves = []
    for number, spike in ((0, 30.0), (1, -2.0)):
        losses = dict.fromkeys(range(1 + number, 20001, 2), 2.0 + number) | {9_000 + number: spike}
        curves.append(LossCurve("LoRA", "lora", tuple(sorted(losses.items())), seed=number))
    band, line = loss_figure(curves).data
    assert len(line.x) <= 700
    assert max(y for y in band.y if y is not None) == 30.0
    assert min(y for y in band.y if y is not None) == -2.0
    assert line.y[5] == pytest.approx(2.5), (
        "both seeds count at every point, though they share no step"
    )
