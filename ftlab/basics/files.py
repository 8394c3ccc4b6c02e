"""Paths of the app's folders, reading files and JSON records with limits, and atomic writes.

Files may come from outside of this app, so a page that reads them must neither block forever nor
run out of memory: 100 MB of `{},` become gigabytes of objects, and Python's JSON parser blocks all
threads of the process until it is done.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ftlab import __version__
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import shown_name

_PACKAGE = Path(__file__).resolve().parents[1]


def cache_folder() -> Path:
    """Folder of the bundled model, cached weight hashes and device locks (`FTLAB_HOME`)."""
    return Path(os.environ.get("FTLAB_HOME", "~/.cache/ftlab")).expanduser()


def locks_folder() -> Path:
    """Folder of the machine-wide device locks (`FTLAB_LOCKS`; default: in the cache folder)."""
    named = os.environ.get("FTLAB_LOCKS")
    return Path(named).expanduser() if named else cache_folder() / "locks"


def default_runs_folder() -> Path:
    """Default runs folder (`FTLAB_RUNS`, else `runs` in the working directory)."""
    return Path(os.environ.get("FTLAB_RUNS", "runs")).expanduser().resolve()


def is_checkout() -> bool:
    """Whether this code runs from a checkout of the repository, not from an installed wheel."""
    return not _assets_of_wheel().is_dir()


def need_checkout() -> None:
    """Raises `FtlabError` if ftlab was installed from a wheel."""
    if not is_checkout():
        raise FtlabError(
            "This writes files of ftlab's repository, and this ftlab was installed from a wheel; "
            "run the command in a checkout of the repository."
        )


def checkout_folder() -> Path:
    """The repository's root. Raises `FtlabError` if ftlab was installed from a wheel."""
    need_checkout()
    return _PACKAGE.parent


def assets_folder() -> Path:
    """Folder of what ships with ftlab: beside the package, in a wheel inside it (see setup.py)."""
    return _PACKAGE.parent / "assets" if is_checkout() else _assets_of_wheel()


def _assets_of_wheel() -> Path:
    return _PACKAGE / "assets"


def recorded_folder() -> Path:
    """Folder of the recorded sweeps that are shipped with ftlab, one folder per sweep."""
    return assets_folder() / "recorded"


def free_disk_bytes(folder: Path) -> int | None:
    """Free bytes on the disk of the folder or its nearest existing parent; `None` if unknown."""
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
    """Not a regular file, or larger than the limit; as for all `OSError`, `strerror` says why."""

    def __init__(self, path: Path, reason: str, way_out: str) -> None:
        super().__init__(f"{path.name} {reason}; {way_out}.")
        self.strerror = f"it {reason}"


def open_plain(path: Path, *, follow_link: bool = False) -> BufferedReader:
    """Opens a regular file for reading bytes.

    Raises `UnsuitableFile` for a symbolic link (unless `follow_link`), a pipe, a device, a socket
    or a folder, and `OSError` as `open` does.
    """
    # Without O_NONBLOCK, `open` itself blocks on a pipe without a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | (0 if follow_link else getattr(os, "O_NOFOLLOW", 0)))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsuitableFile(path, "is a link", "put the file itself there") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsuitableFile(path, "is not a regular file", "put the file itself there")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_plain(path: Path, most_bytes: int, *, follow_link: bool = False) -> bytes:
    """The content of a file; raises as `open_plain`, also for more than `most_bytes`."""
    with open_plain(path, follow_link=follow_link) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most_bytes + 1) if size <= most_bytes else b""
    if max(size, len(data)) > most_bytes:
        reason = f"has more than {most_bytes / 2**20:,.0f} MB, which is not read"
        raise UnsuitableFile(path, reason, "put the right file there")
    return data


def person_path(text: str) -> Path:
    """The path that a user entered, with `~` expanded; `FtlabError` if it cannot be a path."""
    try:
        path = Path(text).expanduser()
        path.lstat()
    except RuntimeError:
        raise FtlabError(
            f"'{shown_name(text)}' names the home of an unknown user; write the whole path."
        ) from None
    except ValueError:  # a NUL, or half of a surrogate pair
        raise FtlabError(
            f"'{shown_name(text)}' contains a character that is not allowed in a path; remove it."
        ) from None
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise FtlabError(
                f"'{shown_name(text)}' cannot be a path ({error.strerror}); give a shorter one."
            ) from None
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces the file atomically, and syncs it to disk, so that it survives a power failure.

    Raises `OSError`, and then the old content is kept.
    """
    _write(path, data, os.replace)


def write_once(path: Path, data: bytes) -> None:
    """As `write_atomically`, unless the file is there, also if it is made at this moment."""
    if not path.exists():
        with suppress(FileExistsError):
            _write(path, data, _move_once)


def _move_once(temporary: str, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def _write(path: Path, data: bytes, move: Callable[[str, Path], None]) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o644)  # mkstemp's default 0600 would block other users
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        move(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def put_between(begin: str, end: str, content: str, file: Path) -> None:
    """Replaces what stands between two marks of a text file.

    Raises `FtlabError` if a mark is missing or the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FtlabError(f"'{file}' cannot be read ({error}).") from None
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise FtlabError(f"'{file}' has no place for it: '{begin}' … '{end}' is missing.")
    write_atomically(file, f"{before}{begin}\n{content}\n{end}{after}".encode())


def _sync_folder(folder: Path) -> None:
    """Syncs the folder's entries to disk; ignores file systems that do not support it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
"""The closing quote is optional: else a search would restart at every quotation mark."""

_A_STRING = re.compile(_STRING, re.DOTALL)
_PIECE = re.compile(rf'[^"]++|(?:{_STRING}[^"]*+){{1,10000}}+', re.DOTALL)
"""What is before the first string, then up to 10,000 strings with what follows each."""

_BEFORE_A_VALUE = "[{,:"


def json_values(text: str, enough: int) -> int:
    """An upper bound of the number of values in the JSON text.

    Counting stops above `enough`, so a larger result is not the bound of the whole text.
    """
    if _marks(text) <= enough:  # fast path for most texts, counting marks within strings too
        return _marks(text)
    values = 0
    for piece in _PIECE.finditer(text):  # in pieces: millions of strings at once take 500 MB
        values += _marks(_A_STRING.sub("", piece.group()))
        if values > enough:
            break
    return values


def _marks(text: str) -> int:
    return sum(map(text.count, _BEFORE_A_VALUE))


def inner_values(value: Any) -> Iterator[Any]:
    """The items of a list or the values of an object; nothing for any other value."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects nest deeper than `levels`; deeper levels are not visited."""
    level = [value]
    for _ in range(levels):
        level = [inner for item in level for inner in inner_values(item)]
    return any(isinstance(item, dict | list) for item in level)


Record = TypeVar("Record")

MAX_RECORD_BYTES = 16 * 2**20
"""Size limit of a JSON record; one of 64 variants has about 10 kB."""


def read_record(adapter: TypeAdapter[Record], file: Path) -> Record | None:
    """The record in the file, `None` if the file does not exist; raises as `parse_json`."""
    try:
        return parse_json(adapter, read_plain(file, MAX_RECORD_BYTES), file.name)
    except FileNotFoundError:
        return None


OF_A_NEWER_VERSION = (
    f"which ftlab {__version__} does not know; a newer version may have written it: read it "
    "with that."
)
"""The end of a sentence on a record."""


def parse_json(adapter: TypeAdapter[Record], data: bytes, name: str) -> Record:
    """The record in `data`; raises `FtlabError` with the file and its first invalid field."""
    try:
        record = adapter.validate_json(data)
        if _MANY_DIGITS in data.translate(_DIGITS_ALONE):  # a closer look takes as long as the rest
            json.loads(data, parse_int=_in_bounds)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80] or "the file"
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            raise FtlabError(f"{name} has '{where}', {OF_A_NEWER_VERSION}") from None
        raise FtlabError(f"{name} cannot be read: {where}: {first['msg']}.") from None
    except (ValueError, RecursionError):
        raise FtlabError(f"{name} cannot be read: a number in it is too large.") from None
    return record


_MANY_DIGITS = b"0" * 19
"""In what `_DIGITS_ALONE` makes of a text: a number that may have more than 64 bits."""

_DIGITS_ALONE = bytes(ord("0") if 0x30 <= byte <= 0x39 else ord(" ") for byte in range(256))


def _in_bounds(digits: str) -> int:
    """Rejects numbers beyond 64 bits: they would make tables and divisions fail later."""
    if len(digits) > 20 or abs(int(digits)) >= 2**63:
        raise ValueError(digits)
    return int(digits)
