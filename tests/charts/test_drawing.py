import pytest

from ftlab.charts.drawing import (
    DARK_INK,
    INK,
    axis_of,
    axis_title,
    figure,
    glyph,
    needs_log,
    plain,
    short_name,
    template,
    tick_text,
)
from ftlab.records.metrics import METRICS

PARAMETERS = METRICS["trainable_params"]
MEMORY = METRICS["net_peak_memory_bytes"]
SECONDS = METRICS["train_seconds"]
SCORE = METRICS["score_after"]


@pytest.mark.parametrize(
    ("values", "log"),
    [([1.0, 30.0], False), ([1.0, 31.0], True), ([0.0, 100.0], False), ([-1.0, 100.0], False)],
)
def test_an_axis_is_logarithmic_where_positive_values_span_more_than_thirty_times(values, log):
    assert needs_log(values) is log
    assert needs_log([]) is False
    assert axis_of(PARAMETERS, values).layout()["type"] == ("log" if log else "linear")


@pytest.mark.parametrize("values", [[5.0, 9.0], [11_520.0, 134_515_008.0], [3.0, 3.0], [0.0, 0.0]])
def test_every_value_lies_within_the_axis(values):
    axis = axis_of(PARAMETERS, values)
    assert all(0 < axis.share(value) < 1 for value in values)
    low, high = axis.layout()["range"]
    assert low < high


@pytest.mark.parametrize(
    ("metric", "values"),
    [
        (MEMORY, [593e6, 1.51e9]),
        (PARAMETERS, [11_520.0, 134_515_008.0]),
        (SECONDS, [10.0, 40.0]),
        (SECONDS, [3.0, 4000.0]),
        (SCORE, [0.1, 0.46]),
        (SCORE, [0.0, 0.6]),
        (METRICS["trainable_share"], [0.00009, 1.0]),
    ],
)
def test_a_few_ticks_lie_within_the_axis(metric, values):
    axis = axis_of(metric, values)
    assert 2 <= len(axis.ticks) <= 8
    assert len(set(axis.texts)) == len(axis.ticks)
    assert all(max(0, axis.low) <= tick <= axis.high for tick in axis.ticks)


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (MEMORY, 500e6, "500 MB"),
        (MEMORY, 1.25e9, "1.25 GB"),
        (MEMORY, 0.0, "0 B"),
        (PARAMETERS, 1e6, "1 M"),
        (SECONDS, 90.0, "90 s"),
        (SECONDS, 120.0, "2 min"),
        (SECONDS, 7200.0, "2 h"),
        (METRICS["trainable_share"], 0.001, "0.1 %"),
        (SCORE, 0.30000000000000004, "0.3"),
    ],
)
def test_a_tick_has_its_unit(metric, value, text):
    assert tick_text(metric, value) == text


def test_the_title_names_measure_unit_and_the_direction_of_better():
    assert axis_title(MEMORY) == "memory while training (lower is better)"
    assert axis_title(SCORE, "SQL score") == "SQL score (0 to 1, higher is better)"
    for metric in METRICS.values():
        assert f"{metric.direction} is better" in axis_title(metric)


def test_a_figure_is_transparent_in_the_one_ink_that_the_page_recolours_or_dark_for_a_file():
    layout = figure(200).layout.template.layout
    assert (layout.paper_bgcolor, layout.plot_bgcolor) == ("rgba(0,0,0,0)", "rgba(0,0,0,0)")
    assert layout.font.color == INK
    assert template(dark=True).layout.font.color == DARK_INK


def test_text_from_a_record_reaches_plotly_without_tags_or_placeholders():
    assert plain("<b>%{x}") == "&lt;b&gt;%&#123;x}"


@pytest.mark.parametrize(
    ("variant", "method", "short"),
    [
        ("Full fine-tuning", "full", "Full"),
        ("LoRA r=4", "lora", "LoRA r=4"),
        ("LoRA targets=query and value", "lora", "LoRA targets=qu…"),
        ("Old method", "old", "Old method"),
    ],
    ids=["short label", "variant", "cut with an ellipsis", "unknown method"],
)
def test_a_name_on_an_axis_is_short(variant, method, short):
    assert short_name(variant, method) == short


def test_a_label_has_the_colour_of_its_method_as_a_square():
    assert glyph("lora") == '<span style="color:#2777e0">■</span>'
