"""Downloads a Hugging Face Hub model in a separate process, which reports its progress.

Run as: python -m ftlab.models.download NAME PATTERN...

Its memory does not count for the calling process. It ends, including its download threads, on a
signal or when nobody reads its output. huggingface_hub does not resume partial files, so after an
interruption incomplete files are downloaded again from the start.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import psutil

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import free_disk_bytes
from ftlab.basics.processes import python_environment
from ftlab.basics.units import format_bytes, format_part
from ftlab.models.hub import TIMEOUT_SECONDS, hub_answers

DownloadProgress = Callable[[int, int], None]
"""Receives the bytes downloaded and the bytes that were missing, at most twice a second."""

SECONDS_BETWEEN_REPORTS = 0.5
_PIECE_BYTES = 2**19
"""Download chunk size. With the library's 10 MB, a slow connection reports no progress for many
seconds, and loses as much data whenever it is interrupted."""
_GRACE_SECONDS = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
)  # fmt: skip
_BYTES_BAR = "huggingface_hub.snapshot_download"
"""huggingface_hub's name for the progress bar of the bytes written, over all files."""


def snapshot(name: str, patterns: Sequence[str], progress: DownloadProgress) -> Path:
    """The folder of the model's files that match the patterns; missing files are downloaded first.

    `progress` is called only if files are missing, in the caller's thread; an exception in it
    aborts the download. Raises `FtlabError` with cause and advice.
    """
    with hub_answers(name):
        found = _in_cache(name, patterns)
    if isinstance(found, Path):
        return found
    _check_room(name, found)
    return _fetch(name, patterns, found, progress)


def _in_cache(name: str, patterns: Sequence[str]) -> Path | int:
    """The folder, or how many bytes are missing in it.

    If the Hub cannot be reached or refuses the model, the cached folder is used as it is; the Hub's
    error is raised if nothing is cached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    wanted: dict[str, Any] = {
        "allow_patterns": list(patterns),
        "etag_timeout": TIMEOUT_SECONDS,
        "tqdm_class": _silent_bar(),
    }
    try:
        files = snapshot_download(name, **wanted, dry_run=True)
    except Exception as error:
        folder = _left_in_cache(name, wanted)
        if folder is None:
            raise (isinstance(error, DryRunError) and error.__cause__) or error from None
        return folder
    missing = sum(file.file_size or 0 for file in files if file.will_download)
    return missing or Path(snapshot_download(name, **wanted))


def _left_in_cache(name: str, wanted: dict[str, Any]) -> Path | None:
    """The cached model, or `None`; a config alone, which predictions download, does not count."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, **wanted, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if any(folder.glob("*.safetensors")) else None


def _check_room(name: str, missing: int) -> None:
    cache = _cache()
    free = free_disk_bytes(cache)
    if free is not None and free < missing:
        raise FtlabError(
            f"The model '{name}' needs {format_bytes(missing)} more, and {format_bytes(free)} are "
            f"free in '{cache}'; free some space, or name another folder in HF_HOME."
        )


def _fetch(name: str, patterns: Sequence[str], missing: int, progress: DownloadProgress) -> Path:
    progress(0, missing)
    process = subprocess.Popen(
        [sys.executable, "-m", "ftlab.models.download", name, *patterns],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if sys.stderr.isatty() else None,  # else stderr is a log
        text=True,
        env=python_environment(needs_hub=True),
    )
    assert process.stdout is not None
    done = 0
    patience = 0.0
    said: dict[str, Any] = {}
    try:
        for line in process.stdout:
            said = json.loads(line)
            done = max(0, min(said["done"], missing))
            if said.keys() == {"done"}:
                progress(done, missing)
        patience = _GRACE_SECONDS  # all output was read; the process is about to end
    finally:
        _end(process, patience)
    if "folder" in said:
        progress(missing, missing)
        return Path(said["folder"])
    raise FtlabError(_why(name, format_part(done, missing), said, process.returncode))


def _end(process: subprocess.Popen[str], patience: float) -> None:
    """Waits until the process ends; terminates it after `patience` seconds."""
    assert process.stdout is not None
    process.stdout.close()
    for seconds, tell in ((patience, process.terminate), (_GRACE_SECONDS, process.kill)):
        try:
            process.wait(seconds)
            return
        except subprocess.TimeoutExpired:
            tell()
    process.wait()


def _why(name: str, part: str, said: dict[str, Any], code: int) -> str:
    began = f"The download of '{name}' stopped at {part}"
    again = "run it again: files that came in whole are kept."
    if "error" not in said:
        killed = code == -signal.SIGKILL
        how = (
            "was killed, perhaps because memory ran out" if killed else f"ended with status {code}"
        )
        return f"{began}, as its process {how}; {again}"
    if said["disk"]:
        return (
            f"{began}: '{_cache()}' cannot be written ({said['disk']}); free some space there, or "
            f"name another folder in HF_HOME, and {again}"
        )
    return (
        f"{began}: the Hugging Face Hub could no longer be reached ({said['error']}); check "
        f"the connection and {again}"
    )


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _silent_bar(came_in: Callable[[int], None] = lambda count: None) -> type[Any]:
    """A progress bar class that shows nothing and passes each number of bytes written to `came_in`.

    The number is negative if a server restarts an interrupted file.
    """
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *given: Any, **named: Any) -> None:
            self._counts = named.get("name") == _BYTES_BAR
            super().__init__(*given, **named | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            if self._counts:
                came_in(int(n or 0))

    return Bar


class _Download(threading.Thread):
    """The download thread; `done` counts the bytes downloaded, `outcome` is the final message."""

    def __init__(self, name: str, patterns: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.ended = threading.Event()
        self.outcome: dict[str, Any] = {}
        self._name, self._patterns = name, list(patterns)
        self._turn = threading.Lock()

    def run(self) -> None:
        from huggingface_hub import constants, snapshot_download

        constants.DOWNLOAD_CHUNK_SIZE = _PIECE_BYTES
        try:
            folder = snapshot_download(
                self._name,
                allow_patterns=self._patterns,
                etag_timeout=TIMEOUT_SECONDS,
                tqdm_class=_silent_bar(self._came_in),
            )
            self.outcome = {"folder": folder}
        except BaseException as error:
            traceback.print_exc()
            self.outcome = {"error": type(error).__name__, "disk": _disk_trouble(error)}
        self.ended.set()

    def _came_in(self, count: int) -> None:
        with self._turn:
            self.done += count


def _disk_trouble(error: BaseException) -> str:
    """The system's error message if the disk caused the error; else ""."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return os.strerror(error.errno)
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else ""  # for libraries with their own error types


def main(arguments: Sequence[str]) -> int:
    name, *patterns = arguments
    said = _take_stdout()
    for number in _SIGNALS:
        signal.signal(number, lambda *_: _leave())
    download = _Download(name, patterns)
    download.start()
    try:
        while not download.ended.wait(SECONDS_BETWEEN_REPORTS):
            _say(said, {"done": download.done})
        _say(said, {"done": download.done} | download.outcome)
    except OSError:  # nobody reads the output
        _leave()
    return 0 if "folder" in download.outcome else 1


def _take_stdout() -> TextIO:
    """Reserves stdout for the messages; other output to stdout is redirected to stderr."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return said


def _say(to: TextIO, message: dict[str, Any]) -> None:
    to.write(json.dumps(message) + "\n")
    to.flush()


def _leave() -> None:
    """Ends the process at once, with all threads, and deletes incomplete files."""
    try:
        for number in _SIGNALS:  # ignore a second signal: Ctrl-C, then the caller's terminate
            signal.signal(number, signal.SIG_IGN)
        for file in psutil.Process().open_files():
            if file.path.endswith(".incomplete"):
                Path(file.path).unlink(missing_ok=True)
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
