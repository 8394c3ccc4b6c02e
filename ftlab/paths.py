"""Where things lie on disk: the cache folder, the default folder of runs, what ftlab ships."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder for the converted bundled model and the device locks (`FTLAB_HOME`)."""
    return Path(os.environ.get("FTLAB_HOME", "~/.cache/ftlab")).expanduser()


def locks_folder() -> Path:
    """Folder of the machine-wide device locks (`FTLAB_LOCKS`, else in the cache folder)."""
    named = os.environ.get("FTLAB_LOCKS")
    return Path(named).expanduser() if named else cache_folder() / "locks"


def default_runs_folder() -> Path:
    """Folder of run directories where none is named (`FTLAB_RUNS`, else `runs` here)."""
    return Path(os.environ.get("FTLAB_RUNS", "runs")).expanduser().resolve()


def assets_folder() -> Path:
    """Folder of the stylesheets and adapters that come with ftlab."""
    return Path(__file__).resolve().parents[1] / "assets"


def recorded_folder() -> Path:
    """Folder of the sweeps that come recorded with ftlab, one folder a sweep."""
    return assets_folder() / "recorded"
