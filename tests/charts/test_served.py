"""The chart of measured serving: a line for adapters, one for full models."""

from __future__ import annotations

from dataclasses import replace

from ftlab.charts.served import served_figure
from ftlab.methods.registry import look_of
from ftlab.records.serving import ServingPoint
from tests.records.test_serving import RECORD


def test_both_ways_are_lines_in_their_methods_colours_with_what_was_measurable() -> None:
    figure = served_figure(RECORD)
    adapters, full = figure.data
    assert list(adapters.x) == [1, 64]
    assert list(adapters.y) == [280_000_000, 420_000_000]
    assert adapters.line.color == look_of("lora").colour
    assert adapters.hovertext[1] == "64 x LoRA: 420 MB<br>8 answers a second"
    assert list(full.x) == [1], "a count without a memory reading is left out"
    assert full.line.color == look_of("full").colour
    assert list(figure.layout.xaxis.tickvals) == [1, 64]


def test_many_times_the_memory_is_drawn_on_a_logarithmic_axis() -> None:
    large = replace(RECORD, full_models=(ServingPoint(64, 17_000_000_000, 1, 0, 1),))
    assert served_figure(RECORD).layout.yaxis.type == "linear"
    assert served_figure(large).layout.yaxis.type == "log"


def test_without_any_reading_the_figure_says_so() -> None:
    unknown = replace(RECORD, adapters=(ServingPoint(1, None, 1, 0, 1),), full_models=())
    assert served_figure(unknown).layout.annotations[0].text == "memory was not measurable"
