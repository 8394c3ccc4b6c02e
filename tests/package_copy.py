"""A copy of ftlab in a folder of its own, to see what one more file in it changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def copy_package(folder: Path) -> Path:
    """Copies the package into the folder; returns where it lies."""
    package = folder / "ftlab"
    shutil.copytree(ROOT / "ftlab", package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "assets").symlink_to(ROOT / "assets")
    return package


def ask(folder: Path, program: str, *arguments: str) -> Any:
    """What a program prints as JSON that imports the copy in the folder, and the tests' helpers."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
