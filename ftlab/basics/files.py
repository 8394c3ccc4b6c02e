"""Where files lie on disk; reading them under limits, and replacing one as a whole.

The files of a runs folder may have been put there by others than this app, and a page that reads
them must neither wait for ever nor fill the memory.

A hundred megabytes of `{},` become gigabytes of objects, and Python's parser holds all threads of
the process until it is done.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import shown_name

_PACKAGE = Path(__file__).resolve().parents[1]


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


class UnsuitableFile(FtlabError, OSError):
    """No ordinary file, or a larger one than is read.

    Whoever deals with files that cannot be opened (`OSError`) deals with these too; `strerror` is
    the reason as a clause.
    """

    def __init__(self, path: Path, reason: str, way_out: str) -> None:
        super().__init__(f"{path.name} {reason}; {way_out}.")
        self.strerror = f"it {reason}"


def open_plain(path: Path, *, follow_link: bool = False) -> BufferedReader:
    """The file, opened for reading its bytes.

    Raises `UnsuitableFile` for a link (unless it is to be followed), a pipe, a device, a socket or
    a folder, and `OSError` as `open` does.
    """
    # A pipe that nobody writes to would be waited for in `open` itself.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | (0 if follow_link else getattr(os, "O_NOFOLLOW", 0)))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsuitableFile(path, "is a link", "put the file itself there") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsuitableFile(path, "is no ordinary file", "put the file itself there")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_plain(path: Path, most_bytes: int, *, follow_link: bool = False) -> bytes:
    """The content of an ordinary file.

    Raises `UnsuitableFile` for anything else and for a file of more than `most_bytes`, and
    `OSError` as `open` does.
    """
    with open_plain(path, follow_link=follow_link) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most_bytes + 1) if size <= most_bytes else b""
    if max(size, len(data)) > most_bytes:
        reason = f"has more than {most_bytes / 2**20:,.0f} MB, which is not read"
        raise UnsuitableFile(path, reason, "put the right file there")
    return data


def person_path(text: str) -> Path:
    """The path that somebody wrote, with `~` for a home; nothing needs to be there.

    Raises `FtlabError` for a text that can be no path at all.
    """
    try:
        path = Path(text).expanduser()
        path.lstat()
    except RuntimeError:
        raise FtlabError(
            f"'{shown_name(text)}' names the home of somebody who is not known here; write the "
            "whole path."
        ) from None
    except ValueError:  # a NUL, or half of a surrogate pair
        raise FtlabError(
            f"'{shown_name(text)}' holds a character that no path can have; leave it out."
        ) from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise FtlabError(
                f"'{shown_name(text)}' can be no path ({error.strerror}); give a shorter one."
            ) from None
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces the file as a whole: a reader sees the old content or the new, never a part.

    It holds through a power cut: content and name are on the disk when this returns. Raises
    `OSError`, and then the old content stays.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # mkstemp's own 0600 would shut out the rest of the team
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Brings the names in the folder to the disk; some network file systems cannot."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""The end may be missing: else a search would begin again at every quotation mark."""

_BEFORE_A_VALUE = "[{,:"


def json_values(text: str, enough: int) -> int:
    """At least as many as the JSON text has values; counted on to `enough` only."""
    if _marks(text) <= enough:  # most texts: in prose, those within strings are few as well
        return _marks(text)
    found = begin = 0
    for string in _STRING.finditer(text):
        found += _marks(text[begin : string.start()])
        begin = string.end()
        if found > enough:
            return found
    return found + _marks(text[begin:])


def _marks(text: str) -> int:
    return sum(map(text.count, _BEFORE_A_VALUE))


def inner_values(value: Any) -> Iterator[Any]:
    """What stands in a list, or under the names of an object; nothing in any other value."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects nest in more than so many levels; it is not followed further."""
    level = [value]
    for _ in range(levels):
        level = [inner for item in level for inner in inner_values(item)]
    return any(isinstance(item, dict | list) for item in level)
