"""Opens a file only if it is one: a pipe has no end, a device may have none, a link leads away.

The files of a runs folder may have been put there by others than this app, and a page that reads
them must neither wait for ever nor fill the memory.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from ftlab.errors import FtlabError
from ftlab.words import shown_name


class UnfitFile(FtlabError, OSError):
    """No ordinary file, or a larger one than is read.

    Whoever deals with files that cannot be opened (`OSError`) deals with these too; `strerror` is
    the reason as a clause.
    """

    def __init__(self, path: Path, reason: str, way_out: str) -> None:
        super().__init__(f"{path.name} {reason}; {way_out}.")
        self.strerror = f"it {reason}"


def open_plain(path: Path, *, follow_link: bool = False) -> BufferedReader:
    """The file, opened for reading its bytes.

    Raises `UnfitFile` for a link (unless it is to be followed), a pipe, a device, a socket or a
    folder, and `OSError` as `open` does.
    """
    # A pipe that nobody writes to would be waited for in `open` itself.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | (0 if follow_link else getattr(os, "O_NOFOLLOW", 0)))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnfitFile(path, "is a link", "put the file itself there") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnfitFile(path, "is no ordinary file", "put the file itself there")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_plain(path: Path, most_bytes: int, *, follow_link: bool = False) -> bytes:
    """The content of an ordinary file.

    Raises `UnfitFile` for anything else and for a file of more than `most_bytes`, and `OSError` as
    `open` does.
    """
    with open_plain(path, follow_link=follow_link) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most_bytes + 1) if size <= most_bytes else b""
    if max(size, len(data)) > most_bytes:
        reason = f"has more than {most_bytes / 2**20:,.0f} MB, which is not read"
        raise UnfitFile(path, reason, "put the right file there")
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
