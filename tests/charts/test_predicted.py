import pytest

from ftlab.charts.predicted import TIME, predicted_figure, predicted_finding
from ftlab.methods.registry import look_of
from ftlab.prediction.remedies import Band, Seen

MB = 1_000_000
BAND = Band(0.5, 1.6)


def seen(method, predicted, measured):
    return Seen(method, f"<{method}>", predicted * MB, measured * MB)


def test_each_method_has_its_points_in_its_own_look():
    runs = [seen("lora", 500, 600), seen("full", 1000, 1200), seen("lora", 510, 650)]
    *lines, lora, full = predicted_figure(runs, BAND).data
    assert [line.mode for line in lines] == ["lines"] * 3
    assert list(lora.x) == [500 * MB, 510 * MB]
    assert list(lora.y) == [600 * MB, 650 * MB]
    assert full.marker.color == look_of("full").colour
    assert "&lt;lora&gt;" in lora.hovertext[0]
    assert "1.20 times" in lora.hovertext[0]


def test_training_times_are_written_in_seconds():
    run = Seen("lora", "LoRA", 40.0, 90.0)
    figure = predicted_figure([run], BAND, quantity=TIME)
    assert "predicted ≈ 40 s, measured 1 min 30 s" in figure.data[-1].hovertext[0]
    assert figure.layout.xaxis.title.text == "predicted training time"


def test_both_axes_go_equally_far_and_hold_every_line():
    figure = predicted_figure([seen("lora", 500, 600)], BAND)
    assert figure.layout.xaxis.range == figure.layout.yaxis.range
    end = figure.layout.xaxis.range[1]
    assert 600 * MB < end < 700 * MB
    corners = [(end, end), (end, 0.5 * end), (end / 1.6, end)]
    for line, corner in zip(figure.data[:3], corners, strict=True):
        assert (line.x[0], line.y[0]) == (0, 0)
        assert (line.x[1], line.y[1]) == pytest.approx(corner)
    assert [line.name for line in figure.data[:3]] == ["as predicted", "least", "most"]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "No run here has both a predicted and a measured peak yet"),
        ([seen("lora", 500, 600)], "The one run here took 1.20 times what was predicted"),
        (
            [seen("lora", 500, 600), seen("full", 1000, 1000)],
            "2 runs here took 1.00 to 1.20 times what was predicted",
        ),
    ],
)
def test_the_finding_says_how_far_off_predictions_were(runs, words):
    assert predicted_finding(runs) == words
    assert bool(predicted_figure(runs, BAND).data) == bool(runs)
