"""The two files of an adapter, out of a folder or a zip that somebody else made.

Nothing is unpacked: the two are opened as streams, and whoever reads them writes to names of his
own. A link is never followed, a pickle never opened.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

from ftlab.errors import FtlabError
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE
from ftlab.words import shown_name

MAX_BYTES = {CONFIG_FILE: 2**20, WEIGHTS_FILE: 2 * 2**30}
"""The most that either file may have."""

OpenFile = Callable[[str], BinaryIO]

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_FULL_MODEL = ("config.json", "model.safetensors", "model.safetensors.index.json")
_UNPACKABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others can ask for gigabytes of memory
_MAX_ENTRIES_BYTES = 2**20
_ENCRYPTED = 0x1  # bit of an entry's flags
_SMALL_BYTES = 2**24  # an entry of so much may be packed to whatever it can
_MOST_TIMES = 50  # numbers that learnt hardly get smaller; a config is small anyway


@contextmanager
def adapter_files(source: Path) -> Iterator[OpenFile]:
    """Gives `open_file(name)`, for `CONFIG_FILE` and `WEIGHTS_FILE` of a folder or a .zip.

    No stream of it is longer than the file claims to be, and none claims more than `MAX_BYTES`:
    sizes are judged before either is opened. Raises `FtlabError` unless just one adapter is there,
    also for damage found while reading.
    """
    name = shown_name(source.name)
    try:
        mode = source.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "the name is none"
        raise FtlabError(f"There is no adapter at '{name}' ({why}); check the path.") from None
    if stat.S_ISDIR(mode):
        yield _in_folder(source, name)
    elif stat.S_ISREG(mode) and source.suffix.lower() == ".zip":
        with _open_zip(source, name) as archive:
            try:
                yield _in_zip(archive, name)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise _damaged(name, error) from None
    elif source.suffix.lower() in _PICKLES:
        raise _only_pickle(name)
    else:
        raise FtlabError(
            f"'{name}' is neither a folder nor a .zip; put {CONFIG_FILE} and {WEIGHTS_FILE} into "
            "one and bring that."
        )


def _in_folder(folder: Path, name: str) -> OpenFile:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise _unreadable(name, error) from None
    _check_names(names, name)
    for wanted in MAX_BYTES:
        with suppress(OSError):  # said when it is opened
            _check_size(wanted, (folder / wanted).lstat().st_size)

    def open_file(wanted: str) -> BinaryIO:
        path = folder / wanted
        if path.is_symlink():
            raise FtlabError(
                f"{wanted} in '{name}' is a link, and links are not followed; copy the folder with "
                "the files themselves (cp -rL) and bring the copy."
            )
        try:
            # Not to wait for a pipe's writer, and not to follow a link that has just come.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            raise _unreadable(wanted, error) from None
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise FtlabError(f"{wanted} in '{name}' is no file; put the file itself there.")
            _check_size(wanted, found.st_size)
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise

    return open_file


class _EntryReader(io.FileIO):
    """A zip that is read in small parts only.

    `zipfile` reads the list of all entries at once and makes an object of each, so a zip of
    nothing but entries would fill the memory before one of them could be looked at.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = _MAX_ENTRIES_BYTES + 1 if size is None or size < 0 else size
        data = super().read(wanted) if wanted <= _MAX_ENTRIES_BYTES + 1 else None
        if data is None or len(data) > _MAX_ENTRIES_BYTES:
            raise zipfile.BadZipFile("its list of entries is too long")
        return data


@contextmanager
def _open_zip(source: Path, name: str) -> Iterator[zipfile.ZipFile]:
    try:
        file = _EntryReader(source)
    except OSError as error:
        raise _unreadable(name, error) from None
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise _damaged(name, error) from None
        with archive:
            yield archive


def _in_zip(archive: zipfile.ZipFile, name: str) -> OpenFile:
    _check_sizes(archive.infolist(), cast(io.FileIO, archive.fp), name)
    parts = [(_parts(info.filename, name), info) for info in archive.infolist()]
    entries = [
        (path, info) for path, info in parts if not info.is_dir() and path[:1] != ("__MACOSX",)
    ]
    configs = list(dict.fromkeys(path for path, _ in entries if path[-1] == CONFIG_FILE))
    if len(configs) > 1:
        where = ", ".join(repr("/".join(path)[:60]) for path in configs[:3])
        raise FtlabError(f"'{name}' holds several adapters ({where}); zip one of them by itself.")
    if not configs:
        _check_names([path[-1] for path, _ in entries], name)
    parent = configs[0][:-1]
    if len(parent) > 1:
        raise FtlabError(
            f"The adapter in '{name}' lies {len(parent)} folders deep; zip its own folder by "
            "itself."
        )
    _check_names([path[-1] for path, _ in entries if path[:-1] == parent], name)

    def open_file(wanted: str) -> BinaryIO:
        found = [info for path, info in entries if path == (*parent, wanted)]
        if len(found) > 1:
            raise FtlabError(f"'{name}' holds {wanted} twice; zip the folder again.")
        _check_entry(found[0], wanted, name)
        try:
            return cast(BinaryIO, archive.open(found[0]))
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise _damaged(name, error) from None

    return open_file


def _check_sizes(entries: Collection[zipfile.ZipInfo], file: io.FileIO, name: str) -> None:
    """Judges a zip by its list of entries alone: none of them is unpacked to find its size."""
    for info in entries:
        wanted = re.split(r"[/\\]", info.filename)[-1]
        if wanted not in MAX_BYTES:
            continue
        _check_size(wanted, info.file_size)
        if info.file_size > max(_SMALL_BYTES, _MOST_TIMES * info.compress_size):
            raise FtlabError(
                f"{wanted} in '{name}' unpacks to {info.file_size:,} bytes out of "
                f"{info.compress_size:,}, as no trained adapter does; zip its folder again."
            )
    if sum(info.compress_size for info in entries) > os.fstat(file.fileno()).st_size:
        raise FtlabError(
            f"The entries of '{name}' claim more bytes than the zip has; zip the folder again."
        )


def _parts(path: str, name: str) -> tuple[str, ...]:
    """The path's folders and its last name. A path that leads outside makes the zip suspect."""
    parts = tuple(part for part in re.split(r"[/\\]", path) if part not in ("", "."))
    if not parts or ".." in parts or re.match(r"[/\\]|[A-Za-z]:", path):
        raise FtlabError(
            f"'{name}' holds {path[:60]!r}, a path that leads out of it; zip the adapter's folder "
            "again."
        )
    return parts


def _check_entry(info: zipfile.ZipInfo, wanted: str, name: str) -> None:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise FtlabError(
            f"{wanted} in '{name}' is a link, not a file; zip the folder again with the files "
            "themselves."
        )
    if info.flag_bits & _ENCRYPTED:
        raise FtlabError(f"'{name}' is locked with a password; zip the folder again without one.")
    if info.compress_type not in _UNPACKABLE:
        raise FtlabError(
            f"'{name}' is packed in a way that is not read; zip the folder again with 'zip -r'."
        )


def _check_names(names: Collection[str], where: str) -> None:
    """Raises the sentence for what lies there instead of an adapter's two files."""
    pickled = any(name.lower().endswith(_PICKLES) for name in names)
    if CONFIG_FILE not in names:
        if any(name in names for name in _FULL_MODEL):
            raise FtlabError(
                f"'{where}' holds a full model, not an adapter: there is no {CONFIG_FILE}; choose "
                "it as the base model instead."
            )
        inner = next((name for name in sorted(names) if name.lower().endswith(".zip")), "")
        if inner:
            raise FtlabError(
                f"'{where}' holds no {CONFIG_FILE} but '{shown_name(inner)}'; bring that zip "
                "itself."
            )
        raise FtlabError(
            f"'{where}' holds no {CONFIG_FILE}, so it is no PEFT adapter; bring the folder that "
            "save_pretrained wrote."
        )
    if WEIGHTS_FILE not in names:
        if pickled:
            raise _only_pickle(where)
        if any(re.fullmatch(r"adapter_model-\d+-of-\d+\.safetensors", name) for name in names):
            raise FtlabError(
                f"'{where}' has its weights in several files, which PEFT does not read; join them "
                f"into one {WEIGHTS_FILE}."
            )
        raise FtlabError(
            f"'{where}' holds {CONFIG_FILE} but no {WEIGHTS_FILE}; put the weights beside it."
        )


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES[name]:
        raise FtlabError(
            f"{name} has {size:,} bytes; at most {MAX_BYTES[name]:,} are taken, so bring a smaller "
            "adapter."
        )


def _only_pickle(where: str) -> FtlabError:
    return FtlabError(
        f"'{where}' has its weights in a pickle only. Pickle files can run code when they are "
        "opened and are never read; save it again with safe_serialization=True."
    )


def _damaged(name: str, error: Exception) -> FtlabError:
    why = " ".join(str(error).split())[:80] or "it ends too early"
    return FtlabError(f"'{name}' is damaged or no zip ({why}); make it or download it again.")


def _unreadable(name: str, error: OSError) -> FtlabError:
    return FtlabError(f"'{name}' cannot be read ({error.strerror}); make it readable.")
