"""The bar of a predicted peak: its parts to scale, against the card."""

from __future__ import annotations

import re

from ftlab.basics.cards import Card
from ftlab.charts.gauge import gauge_html
from ftlab.prediction.question import Prediction

GB = 1_000_000_000
FOUND = Prediction("lora", "LoRA", anatomy={"weights": 6 * GB, "activations": 2 * GB})
CARD = Card("x", "X", 21 * GB, context_bytes=GB)


def widths(html: str) -> list[float]:
    return [float(width) for width in re.findall(r'<span style="width:([0-9.]+)%', html)]


def test_each_part_is_as_wide_as_its_share_of_the_card_and_the_rest_is_reserved() -> None:
    html = gauge_html(FOUND, 9 * GB, CARD)
    assert widths(html) == [30, 10, 5]
    assert "--limit:100.00%" in html
    assert "Predicted: weights 6.00 GB, activations 2.00 GB, reserved, not in use 1.00 GB" in html
    assert "<u>20.00 GB</u>" in html
    assert "<s style" not in html
    assert widths(gauge_html(FOUND, 8 * GB, CARD)) == [30, 10], "nothing else is reserved"


def test_what_exceeds_the_card_begins_at_its_limit() -> None:
    html = gauge_html(FOUND, 8 * GB, Card("x", "X", 6 * GB, context_bytes=GB))
    assert widths(html) == [75, 25]
    assert "--limit:62.50%" in html
    assert '<s style="right:0.00%">' in html


def test_bars_of_one_scale_are_as_wide_as_the_whole_of_it() -> None:
    html = gauge_html(FOUND, 8 * GB, Card("x", "X", 6 * GB, context_bytes=GB), whole=40 * GB)
    assert widths(html) == [15, 5]
    assert "--limit:12.50%" in html
    assert '<s style="right:80.00%">' in html
