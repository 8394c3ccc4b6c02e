"""The environment in which this package's own processes start."""

from __future__ import annotations

import os
from pathlib import Path


def python_environment() -> dict[str, str]:
    """This process's environment, in which `python -m ftlab…` finds this very package."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
