"""The SHA-256 of large files, computed once for as long as a file stays as it is.

What is known lies in the cache folder, a small file for each file that was read, so that several
processes never wait for each other there: an entry is written whole or not at all. An entry that
cannot be read, or is about another state of the file, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from ftlab.paths import cache_folder
from ftlab.reading import read_plain
from ftlab.writing import write_atomically

MOST_ENTRIES = 1000
"""Of some 300 bytes each; the weights of a model of 70 billion parameters are 30 files."""

_MAX_ENTRY_BYTES = 20_000
_SETTLED_SECONDS = 2.0
"""The coarsest clock of a file system: what is written twice within it keeps its time."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hashes_folder() -> Path:
    return cache_folder() / "hashes"


def file_sha256(path: Path) -> bytes:
    """The file's digest, 32 bytes; no byte of it is read where it is known already.

    Raises `OSError` as `open` does, and for nothing that is wrong with the cache folder.
    """
    real = os.path.realpath(path)
    entry = hashes_folder() / f"{hashlib.sha256(os.fsencode(real)).hexdigest()}.json"
    known = _read(entry, real, _state(os.stat(real)))
    if known is not None:
        return known
    began = time.time()
    with open(real, "rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").digest()
        after = os.fstat(file.fileno())
    # A file that changed while it was read, or so shortly before that another change might leave
    # its times as they are, is hashed anew the next time.
    settled = began - before.st_ctime > _SETTLED_SECONDS
    if settled and _state(before) == _state(after):
        _keep(entry, real, _state(before), digest)
    return digest


def _state(status: os.stat_result) -> list[int]:
    """What tells this content of a file from another.

    Every write sets the time of change (ctime) too, which no program can set back, as it can the
    time of modification. The device's number is left out: that of a network disk or a container's
    may be another one after each start of the machine.
    """
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(entry: Path, real: str, state: list[int]) -> bytes | None:
    try:
        found = json.loads(read_plain(entry, _MAX_ENTRY_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or (found.get("path"), found.get("state")) != (real, state):
        return None
    digest = found.get("sha256")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        return None
    return bytes.fromhex(digest)


def _keep(entry: Path, real: str, state: list[int], digest: bytes) -> None:
    """A folder that cannot be written keeps nothing."""
    text = json.dumps({"path": real, "state": state, "sha256": digest.hex()})
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(entry, text.encode())
        _forget_oldest(entry.parent)


def _forget_oldest(folder: Path) -> None:
    files = [file for file in os.scandir(folder) if file.is_file(follow_symlinks=False)]
    surplus = len(files) - MOST_ENTRIES
    if surplus <= 0:
        return
    written = {file.path: file.stat(follow_symlinks=False).st_mtime_ns for file in files}
    for path in sorted(written, key=written.__getitem__)[:surplus]:
        Path(path).unlink(missing_ok=True)
