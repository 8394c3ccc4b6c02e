"""Rows of a parametrised test that only `make test-all` runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow(rows: Iterable[Any]) -> list[Any]:
    """Each of the rows, of one argument, with the mark."""
    return [pytest.param(row, marks=pytest.mark.slow) for row in rows]
