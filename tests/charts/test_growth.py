"""What is sent for a figure that a page already has: only what is new in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import pytest

from ftlab.charts.growth import Tagged, grown
from ftlab.charts.loss import LossCurve, curve_points, draw_losses, loss_figure

FULL = LossCurve("Full fine-tuning", "full", [(1, 3.0), (2, 2.0), (3, 1.5)])


def lora(*losses: float, seed: int = 0) -> LossCurve:
    return LossCurve("LoRA", "lora", list(enumerate(losses, 1)), seed=seed)


def growth(before: Sequence[LossCurve], now: Sequence[LossCurve]) -> dict[str, Any]:
    old, new = (Tagged.of(draw_losses(curves, steps=30)) for curves in (before, now))
    found = grown(old, new, lambda: "the whole")
    assert found.get("tag", new.tag) == new.tag
    json.dumps(found, allow_nan=False)
    return found


def test_a_new_step_is_sent_as_one_point_and_the_labels() -> None:
    found = growth([FULL, lora(3.0, 2.0)], [FULL, lora(3.0, 2.0, 1.8)])
    assert found["traces"] == [{"number": 1, "from": 2, "x": [3.0], "y": [1.8]}]
    assert list(found["layout"]) == ["annotations"]


def test_an_axis_that_has_to_be_longer_is_sent() -> None:
    assert "yaxis" in growth([lora(3.0, 2.0)], [lora(3.0, 2.0, 0.5)])["layout"]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([lora(3.0, 2.0)], [lora(3.0, 2.0, 1.8, 1.7)]),
        ([lora(3.0, 2.0), lora(3.1, 1.9, seed=1)], [lora(3.0, 2.0), lora(3.1, 1.9, 1.7, seed=1)]),
        ([lora(3.0, 2.0), lora(3.1, seed=1)], [lora(3.0, 2.0), lora(3.1, 1.9, seed=1)]),
        ([lora(3.0, 2.0, 1.0)], [lora(3.0, 2.1)]),
    ],
    ids=["one run", "seeds, ahead", "seeds, behind", "resumed from an earlier step"],
)
def test_a_figure_that_has_grown_is_the_figure_drawn_anew(
    before: list[LossCurve], now: list[LossCurve]
) -> None:
    old, new = draw_losses(before, steps=30), draw_losses(now, steps=30)
    assert old is not None
    assert new is not None
    found = growth(before, now)
    traces = copy.deepcopy(list(old.traces))
    for one in found["traces"]:
        for key in ("x", "y", "text"):
            if key in one:
                traces[one["number"]][key][one["from"] :] = one[key]
    assert traces == list(new.traces)
    assert {**old.layout, **found["layout"]} == new.layout


@pytest.mark.parametrize(
    "now",
    [
        [FULL, lora(3.0)],
        [FULL, lora(3.0, 2.0), lora(3.0, seed=1)],
        [FULL, LossCurve("LoRA", "lora", [(1, 3.0), (2, 2.0)], emphasised=False)],
        [],
    ],
    ids=["one point alone", "a second seed", "a run that failed", "no curve"],
)
def test_a_figure_with_other_lines_is_sent_as_a_whole(now: list[LossCurve]) -> None:
    assert growth([FULL, lora(3.0, 2.0)], now) == {"figure": "the whole"}


def test_a_figure_that_is_not_known_is_sent_as_a_whole() -> None:
    now = Tagged.of(draw_losses([FULL]))
    assert grown(None, now, lambda: "the whole") == {"figure": "the whole"}


def test_what_grows_is_what_a_whole_figure_shows() -> None:
    curves = [FULL, lora(3.0, 2.0), lora(3.1, 1.9, seed=1)]
    drawn = draw_losses(curves, steps=30)
    assert drawn is not None
    whole = json.loads(str(loss_figure(curve_points(curves), steps=30).to_json()))
    for trace, own in zip(whole["data"], drawn.traces, strict=True):
        assert [trace["x"], trace["y"]] == [own["x"], own["y"]]
    assert whole["layout"]["yaxis"]["range"] == drawn.layout["yaxis"]["range"]
    assert whole["layout"]["annotations"] == drawn.layout["annotations"]
