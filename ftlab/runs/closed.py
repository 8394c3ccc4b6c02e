"""A runs folder that takes nothing: a public demo's own.

The mark is a file in the folder, so that whatever writes there sees it, from whichever handler,
endpoint or process it was called. Every function that writes for a person asks `check_open` first.
"""

from __future__ import annotations

from pathlib import Path

from ftlab.errors import FtlabError


def close_folder(runs_folder: Path, why: str) -> None:
    """From here on nothing is written to the folder; `why` is the sentence that is then said."""
    mark = _mark(runs_folder)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(why, encoding="utf-8")


def check_open(runs_folder: Path) -> None:
    """Raises `FtlabError` with the reason if the folder was closed."""
    try:
        why = _mark(runs_folder).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        why = f"The runs folder '{runs_folder}' cannot be read ({error.strerror})."
    raise FtlabError(why)


def _mark(runs_folder: Path) -> Path:
    return runs_folder / ".ftlab" / "closed"
