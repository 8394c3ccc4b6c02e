"""The steps above the comparison."""

from __future__ import annotations

import re

from ftlab.tabs.compare.tour import tour_html


def test_every_button_of_the_tour_leads_to_a_step_to_experiment_or_closes_it() -> None:
    html = tour_html(True)
    steps = set(re.findall(r'data-step="(\d)"', html))
    assert steps == {"1", "2", "3"}
    assert set(re.findall(r'data-tour-to="(\w+)"', html)) == steps | {"experiment", "closed"}


def test_the_tour_of_a_demo_does_not_offer_to_train() -> None:
    assert "Launch" in tour_html(True)
    assert "trains nothing" in tour_html(False)
    assert "Launch" not in tour_html(False)
