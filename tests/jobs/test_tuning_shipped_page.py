"""The page on learning rates that comes with ftlab."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.basics.words import rate_name
from ftlab.methods.rates import BY_WIDTH
from ftlab.methods.registry import METHODS
from ftlab.share.learning_rates import sizes_section

PAGE = Path(__file__).parents[2] / "docs" / "learning-rates.md"


WITHOUT_LADDER = {"bitfit"}  # the bundled model has no biases


@pytest.mark.parametrize("method", [method for method in METHODS if method not in WITHOUT_LADDER])
def test_every_method_has_a_row_whose_default_is_the_registrys(method: str) -> None:
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    spec = METHODS[method]
    (row,) = [cells for cells in rows if cells[0] == f"| {spec.label}"]
    assert row[-1] == f"{rate_name(spec.learning_rate)} |"


def test_the_page_says_by_which_rules_rates_go_with_the_size_and_whose_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert sizes_section() in page
    for spec in METHODS.values():
        assert spec.rate_rule.url in page
        if spec.rate_rule is not BY_WIDTH:
            assert spec.label in sizes_section()
