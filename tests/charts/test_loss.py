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
from tests.fakes import SWEEP, make_run, make_sweep

DOWN = [(step, 3.0 - 0.1 * step) for step in range(1, 11)]


def loss_figure(curves, **options):
    return figure_of_points(curve_points(curves), **options)


def data_of(folder):
    return sweep_data(RunStore(folder), SWEEP)


def labels(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def test_each_method_has_its_own_colour():
    figure = loss_figure(
        [LossCurve("Full fine-tuning", "full", DOWN), LossCurve("LoRA", "lora", DOWN)]
    )
    assert [line.line.color for line in figure.data] == [
        look_of("full").colour,
        look_of("lora").colour,
    ]


def test_variants_of_one_method_differ_in_dash_and_marker_but_not_in_colour():
    figure = loss_figure([LossCurve("LoRA", "lora", DOWN), LossCurve("LoRA r=4", "lora", DOWN)])
    first, second = figure.data
    assert first.line.color == second.line.color
    assert first.line.dash != second.line.dash
    assert (first.mode, second.mode) == ("lines", "lines+markers")


def seed(number, *losses, label="LoRA", **curve):
    return LossCurve(label, "lora", list(enumerate(losses, 1)), seed=number, **curve)


def test_seeds_of_one_variant_are_their_mean_in_their_range_under_one_label():
    figure = loss_figure([seed(0, 3.0, 1.0), seed(1, 4.0, 2.0), seed(2, 2.0, 1.5)])
    band, line = figure.data
    assert list(line.y) == [3.0, 1.5]
    assert line.line.color == look_of("lora").colour
    assert list(band.x) == [1, 2, 2, 1, None]
    assert list(band.y) == [4.0, 2.0, 1.0, 2.0, None]
    assert band.fill == "toself"
    assert band.opacity < 0.2
    assert labels(figure) == ['<span style="color:#2777e0">■</span> LoRA 1.50']


def test_a_variant_with_one_seed_has_no_range():
    (line,) = loss_figure([seed(0, 3.0, 1.0)]).data
    assert (list(line.y), line.text) == ([3.0, 1.0], None)


def test_the_mean_names_each_seed_and_its_loss():
    _, line = loss_figure([seed(3, 3.0, 1.0), seed(7, 4.0)]).data
    assert list(line.text) == ["seed 3 3.000, seed 7 4.000", "seed 3 1.000"]
    assert "%{text}" in line.hovertemplate


def test_a_step_that_not_every_seed_has_is_the_mean_of_those_that_have_it():
    band, line = loss_figure([seed(0, 3.0, 2.0, 1.0), seed(1, 5.0), seed(2, 4.0, 4.0)]).data
    assert list(line.x) == [1, 2, 3]
    assert list(line.y) == [4.0, 3.0, 1.0]
    assert list(band.y) == [5.0, 4.0, 1.0, 1.0, 2.0, 3.0, None]


def test_a_loss_that_is_no_number_is_no_part_of_a_mean_and_a_gap_where_there_is_no_other():
    nan = math.nan
    band, line = loss_figure([seed(0, 3.0, nan, nan, 1.0), seed(1, 5.0, 4.0, nan, 2.0)]).data
    assert list(line.y) == [4.0, 4.0, None, 1.5]
    assert list(band.x) == [1, 2, 2, 1, None, 4, 4, None]
    assert list(band.y) == [5.0, 4.0, 4.0, 3.0, None, 2.0, 1.0, None]


def test_a_seed_that_failed_is_a_pale_line_of_its_own():
    figure = loss_figure(
        [seed(0, 3.0, 1.0), seed(1, 4.0, 2.0), seed(2, 9.0, 9.0, emphasised=False)]
    )
    _, failed, mean = figure.data
    assert list(failed.y) == [9.0, 9.0]
    assert failed.opacity < mean.opacity
    assert list(mean.y) == [3.5, 1.5]
    assert failed.line.dash == mean.line.dash
    assert labels(figure) == ['<span style="color:#2777e0">■</span> LoRA 1.50']


def test_variants_with_several_seeds_are_told_apart_as_single_ones_are():
    figure = loss_figure(
        [seed(n, 3.0, 1.0, label=name) for name in ("LoRA", "r=4") for n in (0, 1)]
    )
    *_, first, second = figure.data
    assert len(figure.data) == 4
    assert first.line.dash != second.line.dash
    assert (first.mode, second.mode) == ("lines", "lines+markers")


@pytest.mark.parametrize(
    ("status", "emphasised"), [("done", True), ("running", True), ("failed", False)]
)
def test_the_curve_of_a_run_knows_its_seed_and_whether_the_run_counts(tmp_path, status, emphasised):
    run = read_run(make_run(tmp_path, "lora", status, seed=5))
    curve = curve_of(run, [(1, 3.0)])
    assert curve == LossCurve("LoRA", "lora", ((1, 3.0),), emphasised, seed=5)


def test_the_end_of_a_curve_is_labelled_in_ink_with_a_square_in_its_colour():
    figure = loss_figure([LossCurve("Full fine-tuning", "full", DOWN)])
    assert labels(figure) == ['<span style="color:#707b8c">■</span> Full 2.00']


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
    assert len(labels(figure)) == (228 - 52) // 15


def test_a_loss_that_is_no_number_leaves_a_gap():
    figure = loss_figure([LossCurve("LoRA", "lora", [(1, 3.0), (2, math.nan), (3, 2.0)])])
    assert list(figure.data[0].y) == [3.0, None, 2.0]


def test_a_curve_that_diverged_does_not_flatten_the_others():
    figure = loss_figure(
        [LossCurve("LoRA", "lora", DOWN), LossCurve("QLoRA", "qlora", [(1, 3.0), (2, 900.0)])]
    )
    assert figure.layout.yaxis.range[1] < 6
    assert max(annotation.y for annotation in figure.layout.annotations) < 6
    assert any("900.00" in text for text in labels(figure))


def test_a_single_step_is_visible_as_a_marker():
    assert loss_figure([LossCurve("LoRA", "lora", [(1, 3.0)])]).data[0].mode == "lines+markers"


@pytest.mark.parametrize("curves", [[], [LossCurve("LoRA", "lora", [])]])
def test_without_a_step_the_figure_says_so(curves):
    figure = loss_figure(curves)
    assert len(figure.data) == 0
    assert labels(figure) == ["no step yet"]


def test_a_curve_that_is_not_emphasised_is_pale_and_behind():
    figure = loss_figure(
        [LossCurve("LoRA", "lora", DOWN, emphasised=False), LossCurve("QLoRA", "qlora", DOWN)]
    )
    assert [line.name for line in figure.data] == ["LoRA", "QLoRA"]
    assert figure.data[0].opacity < figure.data[1].opacity


def test_steps_of_a_run_that_goes_on_set_the_length_of_the_axis():
    assert loss_figure([LossCurve("LoRA", "lora", DOWN)], steps=30).layout.xaxis.range[1] > 30


def test_many_seeds_are_told_as_their_range():
    _, line = loss_figure([seed(n, 3.0 + n / 10) for n in range(8)]).data
    assert list(line.text) == ["8 seeds, 3.000 to 3.700"]


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
    assert (len(figure.data), labels(figure)) == (0, ["no tokens recorded"])
    assert "imported" in labels(figure_of_points(points))
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


def test_smoothing_is_a_running_mean_of_each_run_and_named_on_the_axis():
    figure = loss_figure([seed(0, 4.0, 2.0, 6.0, 1.0)], smoothing=3)
    assert list(figure.data[0].y) == pytest.approx([4.0, 3.0, 4.0, 3.0])
    assert "mean of 3 steps" in figure.layout.yaxis.title.text
    assert "mean of" not in loss_figure([seed(0, 4.0)]).layout.yaxis.title.text


def test_smoothing_passes_over_a_loss_that_is_no_number():
    figure = loss_figure([seed(0, 4.0, math.nan, 2.0)], smoothing=2)
    assert list(figure.data[0].y) == [4.0, None, 3.0]


def test_losses_that_seeds_do_not_tell_apart_are_said_to_be_no_difference(tmp_path):
    for method, losses in (("full", (1.0, 1.3)), ("lora", (1.1, 1.25)), ("qlora", (2.0, 2.1))):
        for number, loss in enumerate(losses):
            make_run(tmp_path, method, seed=number, measures={"eval_loss_after": loss})
    assert loss_finding(Facts(data_of(tmp_path).table)) == (
        "Held-out loss after training: Full fine-tuning 1.150, LoRA 1.175, QLoRA 2.050; "
        "no difference is shown between Full fine-tuning and LoRA: their seeds overlap"
    )


def test_of_one_seed_no_spread_is_known(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    assert loss_finding(Facts(data_of(tmp_path).table)) == (
        "Held-out loss after training: Full fine-tuning 1.220, LoRA 1.310 "
        "(one seed: no spread is known)"
    )


def test_without_a_held_out_loss_the_finding_says_so(tmp_path):
    make_run(tmp_path, "lora", status="failed")
    assert "no held-out loss" in loss_finding(Facts(data_of(tmp_path).table))


def test_many_lines_wear_the_markers_of_their_methods_and_few_do_not():
    methods = ["lora", "dora", "vera", "oft", "ia3", "hra", "loha", "full"]
    curves = [LossCurve(method, method, DOWN) for method in methods]
    many, few = loss_figure(curves), loss_figure(curves[:-1])
    found = {line.name: line.marker.symbol for line in many.data if "markers" in line.mode}
    assert found == {method: look_of(method).marker for method in methods}
    assert not any("markers" in line.mode for line in few.data)
    assert any("★" in label for label in labels(many))


def test_a_figure_of_many_lines_is_as_high_as_its_labels():
    curves = [LossCurve(method, method, DOWN) for method in METHODS]
    assert height_for(curve_points(curves[:4]), 330) == 330
    high = height_for(curve_points(curves), 330)
    assert high > 330
    assert len(labels(loss_figure(curves, height=high))) >= len(METHODS)


def test_a_long_run_is_drawn_with_a_bounded_number_of_points_and_every_spike() -> None:
    spikes = {1: 9.0, 4_321: 25.0, 70_000: 0.1, 100_000: 1.5}
    losses = {step: 2.0 + step % 5 / 100 for step in range(1, 100_001)} | spikes
    fig = loss_figure([LossCurve("LoRA", "lora", tuple(losses.items()))])
    (line,) = fig.data
    assert len(line.x) <= 700
    drawn = dict(zip(line.x, line.y, strict=True))
    assert {step: drawn.get(step) for step in spikes} == spikes
    assert all(losses[step] == loss for step, loss in drawn.items())


def test_of_long_runs_of_several_seeds_the_band_keeps_the_spike_of_each() -> None:
    curves = []
    for seed, spike in ((0, 30.0), (1, -2.0)):
        losses = dict.fromkeys(range(1 + seed, 20001, 2), 2.0 + seed) | {9_000 + seed: spike}
        curves.append(LossCurve("LoRA", "lora", tuple(sorted(losses.items())), seed=seed))
    band, line = loss_figure(curves).data
    assert len(line.x) <= 700
    assert max(y for y in band.y if y is not None) == 30.0
    assert min(y for y in band.y if y is not None) == -2.0
    assert line.y[5] == pytest.approx(2.5), (
        "both seeds count at every point, though they share no step"
    )
