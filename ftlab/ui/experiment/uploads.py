"""Where a visitor's task file is kept."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from ftlab.errors import FtlabError
from ftlab.runs.closed import check_open
from ftlab.runs.control import control_folder


def keep_upload(path: Path, runs_folder: Path) -> Path:
    """Copies an upload to where the runs are: gradio's own copy is temporary, a record is not.

    Raises `FtlabError` if the folder cannot be written.
    """
    check_open(runs_folder)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    target = control_folder(runs_folder) / "uploads" / digest / path.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(path, target)
    except OSError as error:
        raise FtlabError(
            f"The file cannot be kept in '{target.parent}' ({error.strerror}); "
            "free some space or make it writable."
        ) from None
    return target.resolve()
