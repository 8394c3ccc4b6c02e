import math
from itertools import pairwise

import pytest

from ftlab.charts.loss import LossCurve, loss_figure, spread
from ftlab.methods.registry import look_of

DOWN = [(step, 3.0 - 0.1 * step) for step in range(1, 11)]


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


def test_seeds_of_one_variant_look_alike_and_share_one_label_with_their_mean():
    figure = loss_figure(
        [
            LossCurve("LoRA", "lora", [(1, 3.0), (2, 1.0)]),
            LossCurve("LoRA", "lora", [(1, 3.0), (2, 2.0)]),
        ]
    )
    assert figure.data[0].line.dash == figure.data[1].line.dash
    assert labels(figure) == ['<span style="color:#2777e0">■</span> LoRA 1.50']


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


def test_a_label_from_a_record_is_no_markup():
    figure = loss_figure([LossCurve("LoRA <script>", "lora", DOWN)])
    assert "<script>" not in figure.to_json().replace("\\u003c", "<")
