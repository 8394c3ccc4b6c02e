"""Files stay readable. Who may import whom: the contracts in pyproject.toml (`lint-imports`)."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
