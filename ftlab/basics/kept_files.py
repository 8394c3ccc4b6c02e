"""Small files that one process keeps for later ones, so that nothing is computed twice.

Each has its own SHA-256 in its first line: a file that is torn or changed is not used. What is kept
has all that it depends on in its name; what code it depends on, `hash_of_code` says.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from ftlab.basics.files import cache_folder, read_plain, write_atomically

MOST_BYTES = 64 * 2**20


def kept_folder(kind: str) -> Path:
    """The user's folder of kept files of this kind (in `FTLAB_KEPT`, else the cache folder)."""
    named = os.environ.get("FTLAB_KEPT")
    return (Path(named).expanduser() if named else cache_folder()) / kind


def read_kept(file: Path) -> bytes:
    """Returns what was kept. Raises `OSError`, or `ValueError` for a file that is not sound."""
    digest, _, body = read_plain(file, MOST_BYTES).partition(b"\n")
    if digest.decode() != hashlib.sha256(body).hexdigest():
        raise ValueError("torn")
    return body


def write_kept(file: Path, body: bytes, most: int) -> None:
    """Keeps it, for this user alone; does nothing if the folder cannot be written.

    Of more than `most` files in the folder those written first are deleted.
    """
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(file, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        file.chmod(0o600)
        known = list(file.parent.glob(f"*{file.suffix}"))
        if len(known) > most:
            known.sort(key=lambda one: one.stat().st_mtime)
            for old in known[:-most]:
                old.unlink(missing_ok=True)


@cache
def hash_of_code(*packages: str) -> str:
    """The hash of the source of these packages of ftlab, as it was when first asked for."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for name in packages:
        for file in sorted((root / name).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
