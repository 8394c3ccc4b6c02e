import math

from ftlab.charts.peak_length import PeakLine, is_above, leaves_at, peak_length_figure

GB = 1_000_000_000
LORA = PeakLine("lora", "LoRA", {256: 10 * GB, 1024: 20 * GB, 512: 12 * GB})
FULL = PeakLine("full", "Full <b>", {256: 130 * GB, 512: 131 * GB})


def test_each_line_has_its_peaks_in_order_of_length_in_the_colour_of_its_method():
    figure = peak_length_figure([LORA])
    (trace,) = figure.data
    assert list(trace.x) == [256, 512, 1024]
    assert list(trace.y) == [10 * GB, 12 * GB, 20 * GB]
    assert trace.hovertext[0] == "10.00 GB at 256 tokens"
    (label,) = figure.layout.annotations
    assert (label.text, label.x, label.y) == ("LoRA", math.log10(1024), 20 * GB)


def test_the_card_is_a_line_within_the_axis_with_its_name():
    figure = peak_length_figure([LORA], 15 * GB, "RTX")
    assert "RTX: 15.00 GB" in [note.text for note in figure.layout.annotations]
    low, high = figure.layout.yaxis.range
    assert (low, high > 20 * GB) == (0, True)
    assert len(figure.layout.shapes) == 2


def test_a_line_far_above_the_card_is_left_out():
    figure = peak_length_figure([LORA, FULL], 24 * GB, "RTX")
    assert [trace.name for trace in figure.data] == ["LoRA"]
    assert is_above(FULL, 24 * GB)
    assert not is_above(FULL, None)


def test_a_label_is_no_markup():
    figure = peak_length_figure([FULL])
    assert figure.data[0].name == "Full &lt;b&gt;"


def test_the_length_at_the_limit_is_interpolated_between_two_predictions():
    assert leaves_at(LORA, 16 * GB) == 768
    assert leaves_at(LORA, 30 * GB) is None
    assert leaves_at(LORA, 5 * GB) is None


def test_lengths_are_ticks_on_a_log_axis():
    figure = peak_length_figure([LORA])
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["256", "512", "1,024"]
    assert figure.layout.xaxis.range[0] < math.log10(256)


def test_without_a_prediction_the_figure_says_so():
    figure = peak_length_figure([])
    assert [note.text for note in figure.layout.annotations] == ["no prediction yet"]
