"""Formats numbers with units for display. A missing number is shown as a dash."""

from __future__ import annotations

import math

DASH = "–"


def _missing(value: float | None) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def format_count(value: float | None) -> str:
    """134515008 -> "134.5 M"; 11520 -> "11.5 k"."""
    if value is None or _missing(value):
        return DASH
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.1f} {suffix}"
    return f"{value:.0f}"


_SIZES = ((1e9, 1e9, "GB", 2), (1e8, 1e6, "MB", 0), (1e6, 1e6, "MB", 1), (1e3, 1e3, "kB", 0))
"""(minimum bytes, divisor, unit, decimal places)."""


def format_bytes(value: float | None) -> str:
    """Decimal units, as for disks and in papers: 269030000 -> "269 MB"."""
    if value is None or _missing(value):
        return DASH
    for limit, scale, suffix, digits in _SIZES:
        if abs(value) >= limit:
            return f"{value / scale:.{digits}f} {suffix}"
    return f"{value:.0f} B"


def format_part(done: float, total: float) -> str:
    """Bytes of a total, in the unit of the total: "1.2 of 3.1 GB"."""
    for limit, scale, suffix, digits in _SIZES:
        if total >= limit:
            digits = min(digits, 1)
            return f"{done / scale:.{digits}f} of {total / scale:.{digits}f} {suffix}"
    return f"{done:.0f} of {total:.0f} B"


def format_range(low: float, high: float) -> str:
    """A range of sizes, with the unit once if both have the same: "640–702 MB"."""
    least, most = format_bytes(low), format_bytes(high)
    if least == most:
        return most
    number, _, unit = least.partition(" ")
    return f"{number if most.endswith(unit) else least}–{most}"


def format_seconds(value: float | None) -> str:
    """72.4 -> "1 min 12 s"; 4.31 -> "4.3 s"."""
    if value is None or _missing(value):
        return DASH
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_share(value: float | None) -> str:
    """A fraction in per cent: 0.0182 -> "1.82 %"; 1.0 -> "100 %"."""
    if value is None or _missing(value):
        return DASH
    percent = 100 * value
    if 0 < percent < 0.0005:
        return "under 0.001 %"  # else it would be rounded to zero
    digits = 0 if percent >= 99.95 else 1 if percent >= 10 else 2 if percent >= 0.1 else 3
    return f"{percent:.{digits}f} %"


def format_signed(value: float | None, digits: int = 2) -> str:
    """A difference with its sign: 0.1 -> "+0.10"; no sign if it is rounded to "0.00"."""
    if value is None or _missing(value):
        return DASH
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def format_number(value: float | None, digits: int = 2) -> str:
    return DASH if value is None or _missing(value) else f"{value:.{digits}f}"
