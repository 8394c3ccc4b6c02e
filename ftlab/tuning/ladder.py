"""A ladder of learning rates: where to look, and where to look next."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ftlab.errors import FtlabError
from ftlab.methods.rates import two_digits
from ftlab.settings.training import HIGHEST_RATE

SPACING = 3.0
"""How many times the rate below it a rate is, unless both ends are given."""

MOST_POINTS = 20


def around(rate: float, points: int = 3, spacing: float = SPACING) -> tuple[float, ...]:
    """So many rates with `rate` in the middle, or just below it where they are even in number."""
    below = (points - 1) // 2
    rates = [rate * spacing ** (i - below) for i in range(_checked(points))]
    return tuple(two_digits(rate) for rate in rates if two_digits(rate) <= HIGHEST_RATE)


def between(low: float, high: float, points: int) -> tuple[float, ...]:
    """So many rates from `low` to `high`, each the same multiple of the one below it."""
    if not 0 < low < high <= HIGHEST_RATE:
        raise FtlabError(
            f"A ladder from {low:g} to {high:g} cannot be made; the first rate must lie above 0 "
            f"and below the last, the last at {HIGHEST_RATE:g} at most."
        )
    if _checked(points) == 1:
        raise FtlabError("A ladder with two ends has 2 rates or more; give --points 2 or more.")
    factor = (high / low) ** (1 / (points - 1))
    inner = [two_digits(low * factor**i) for i in range(1, points - 1)]
    return tuple(dict.fromkeys([low, *inner, high]))


def parse_rates(text: str) -> tuple[float, ...]:
    """Reads "1e-4,1e-3"; sorted, each once. Raises `FtlabError` for what is no learning rate."""
    try:
        rates = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise FtlabError(f"Rates '{text}' must be numbers by commas, as in 1e-4,1e-3.") from None
    if not rates or not all(math.isfinite(rate) and 0 < rate <= HIGHEST_RATE for rate in rates):
        raise FtlabError(f"Rates '{text}' must lie above 0 and at {HIGHEST_RATE:g} at most.")
    _checked(len(rates))
    return tuple(rates)


def beyond(rates: Sequence[float], up: bool) -> float | None:
    """The next rate beyond an end of the sorted ladder, as far as its neighbour is from that end.

    `None` where it would be higher than any may be. A ladder of one rate goes on by `SPACING`.
    """
    end, neighbour = (rates[-1], rates[-2:][0]) if up else (rates[0], rates[:2][-1])
    factor = end / neighbour
    if factor == 1:
        factor = SPACING if up else 1 / SPACING
    rate = two_digits(end * factor)
    return rate if rate <= HIGHEST_RATE and rate not in rates else None


def _checked(points: int) -> int:
    if not 1 <= points <= MOST_POINTS:
        raise FtlabError(f"A ladder of {points} rates cannot be made; give 1 to {MOST_POINTS}.")
    return points
