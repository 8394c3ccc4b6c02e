"""Where things lie on disk, and how much room is left there."""

from __future__ import annotations

import os
from pathlib import Path

from ftlab.errors import FtlabError

_PACKAGE = Path(__file__).resolve().parent


def cache_folder() -> Path:
    """Folder for the bundled model, known hashes of weights and device locks (`FTLAB_HOME`)."""
    return Path(os.environ.get("FTLAB_HOME", "~/.cache/ftlab")).expanduser()


def locks_folder() -> Path:
    """Folder of the machine-wide device locks (`FTLAB_LOCKS`, else in the cache folder)."""
    named = os.environ.get("FTLAB_LOCKS")
    return Path(named).expanduser() if named else cache_folder() / "locks"


def default_runs_folder() -> Path:
    """Folder of run directories where none is named (`FTLAB_RUNS`, else `runs` here)."""
    return Path(os.environ.get("FTLAB_RUNS", "runs")).expanduser().resolve()


def is_checkout() -> bool:
    """Whether this code is a checkout of the repository; else it was installed from a wheel."""
    return not _assets_of_wheel().is_dir()


def need_checkout() -> None:
    """Raises `FtlabError` where ftlab was installed from a wheel.

    For commands that write files of the repository.
    """
    if not is_checkout():
        raise FtlabError(
            "This writes files of ftlab's repository, and this ftlab was installed from a wheel; "
            "run the command in a checkout of the repository."
        )


def checkout_folder() -> Path:
    """The repository's root. Raises `FtlabError` where ftlab was installed from a wheel."""
    need_checkout()
    return _PACKAGE.parent


def assets_folder() -> Path:
    """Folder of the stylesheets and adapters that come with ftlab.

    In a checkout it lies beside the package, in a wheel inside it (see setup.py).
    """
    return _PACKAGE.parent / "assets" if is_checkout() else _assets_of_wheel()


def _assets_of_wheel() -> Path:
    return _PACKAGE / "assets"


def recorded_folder() -> Path:
    """Folder of the sweeps that come recorded with ftlab, one folder a sweep."""
    return assets_folder() / "recorded"


def free_disk_bytes(folder: Path) -> int | None:
    """What this process may still write there; `None` where it cannot be told.

    A folder that is not there yet is judged by the nearest one above it.
    """
    for place in (folder, *folder.parents):
        try:
            status = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return status.f_bavail * status.f_frsize
    return None
