"""Fetches a model of the Hugging Face Hub in a process of its own, which says how far it is.

Run as: python -m ftlab.models.download NAME PATTERN...

Its memory is then no part of the process that asked, and it ends, with the threads that it
downloads in, as soon as it is told to or nobody listens. huggingface_hub goes on with no file that
came in half, so a download that was cut off begins anew with the files that were not whole.
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
"""Gets the bytes that have come in and those that had been missing, at most twice a second."""

SECONDS_BETWEEN_REPORTS = 0.5
_PIECE_BYTES = 2**19
"""Written at once. With the library's own 10 MB a slow line says nothing for many seconds, and
loses as much whenever a connection is cut off."""
_GRACE_SECONDS = 5.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_OF_THE_DISK = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
)  # fmt: skip
_BYTES_BAR = "huggingface_hub.snapshot_download"
"""What huggingface_hub calls the bar of the bytes that were written, of all files together."""


def snapshot(name: str, patterns: Sequence[str], progress: DownloadProgress) -> Path:
    """The folder of the model's files of those patterns; what is missing is fetched first.

    `progress` is called only where something is missing, in the thread of the caller; what it
    raises ends the download. Raises `FtlabError` with what was tried and what to do.
    """
    with hub_answers(
        name,
        f"The model '{name}'",
        "Use the bundled model, a local folder, or a machine with a way to the Hub.",
    ):
        found = _in_cache(name, patterns)
    if isinstance(found, Path):
        return found
    _check_room(name, found)
    return _fetch(name, patterns, found, progress)


def _in_cache(name: str, patterns: Sequence[str]) -> Path | int:
    """The folder, or how many bytes are missing in it.

    Where the Hub is out of reach or refuses the model, the cache must do as it is; the Hub's own
    answer is raised where it has nothing.
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
    """The model as it was fetched before; a config alone, which predictions fetch, is none."""
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
        stderr=subprocess.DEVNULL if sys.stderr.isatty() else None,  # else it is somebody's log
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
        patience = _GRACE_SECONDS  # it has said all, and is about to end
    finally:
        _end(process, patience)
    if "folder" in said:
        progress(missing, missing)
        return Path(said["folder"])
    raise FtlabError(_why(name, format_part(done, missing), said, process.returncode))


def _end(process: subprocess.Popen[str], patience: float) -> None:
    """Returns when the process is gone; it is told to go after so many seconds."""
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
        how = "was killed, perhaps for want of memory" if killed else f"ended with status {code}"
        return f"{began}, as its process {how}; {again}"
    if said["disk"]:
        return (
            f"{began}: '{_cache()}' cannot be written ({said['disk']}); free some space there, or "
            f"name another folder in HF_HOME, and {again}"
        )
    return (
        f"{began}: the Hugging Face Hub could not be reached any more ({said['error']}); look to "
        f"the connection and {again}"
    )


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _silent_bar(came_in: Callable[[int], None] = lambda count: None) -> type[Any]:
    """A progress bar that shows nothing and tells of the bytes as they are written.

    The count falls where a server starts a file again that was cut off.
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
    """Does the download; `done` bytes have come in, and `outcome` says how it ended."""

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
    """What the system says where it was the disk that refused; else ""."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return os.strerror(error.errno)
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else ""  # of a library that has errors of its own


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
    except OSError:  # nobody listens
        _leave()
    return 0 if "folder" in download.outcome else 1


def _take_stdout() -> TextIO:
    """Stdout for the messages alone; whatever libraries print goes to stderr."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return said


def _say(to: TextIO, message: dict[str, Any]) -> None:
    to.write(json.dumps(message) + "\n")
    to.flush()


def _leave() -> None:
    """Ends at once, with all threads, and takes along what came in half: nobody goes on with it."""
    try:
        for (
            number
        ) in _SIGNALS:  # a second one would come in between: Ctrl-C, and then whoever asked
            signal.signal(number, signal.SIG_IGN)
        for file in psutil.Process().open_files():
            if file.path.endswith(".incomplete"):
                Path(file.path).unlink(missing_ok=True)
    finally:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
