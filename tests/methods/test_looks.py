"""Methods are told apart by how they look, on a light and on a dark ground."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from plotly.validator_cache import ValidatorCache

from ftlab.methods.by_hand import PEFT
from ftlab.methods.registry import BASE_LOOK, METHODS

LOOKS = {"base": BASE_LOOK, "peft": PEFT.look} | {m.id: m.look for m in METHODS.values()}
APART = 20  # CIE76; two colours beside each other are told apart from about 2.3 on


def lab(colour: str) -> np.ndarray:
    """CIE L*a*b* (D65) of "#rrggbb"."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_no_two_methods_share_colour_and_marker() -> None:
    assert len({(look.colour, look.marker) for look in LOOKS.values()}) == len(LOOKS)


def test_the_colours_of_any_two_methods_lie_far_apart() -> None:
    near = {
        (one, other): round(float(np.linalg.norm(lab(a.colour) - lab(b.colour))), 1)
        for (one, a), (other, b) in combinations(LOOKS.items(), 2)
        if "base" not in (one, other)  # never a point or a line of its own kind: hatched or dotted
    }
    assert {pair: distance for pair, distance in near.items() if distance < APART} == {}


@pytest.mark.parametrize("family", sorted({method.family for method in METHODS.values()}))
def test_methods_of_one_family_differ_in_their_marker_too(family: str) -> None:
    markers = [method.look.marker for method in METHODS.values() if method.family == family]
    assert len(set(markers)) == len(markers)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_plotly_knows_marker_and_dash(look) -> None:  # type: ignore[no-untyped-def]
    ValidatorCache.get_validator("scatter.marker", "symbol").validate_coerce(look.marker)
    ValidatorCache.get_validator("scatter.line", "dash").validate_coerce(look.dash)
