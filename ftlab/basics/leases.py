"""Leases: who works in a folder that several machines share.

An flock holds on one machine only. So whoever works in a folder also keeps a file there,
`lease.N`, and counts up in it every few seconds. A machine that sees the count stand still for
`EXPIRES_SECONDS` of its own clock takes over with `lease.N+1`; nobody does so by comparing clocks.
The file of a number can be made only once, so of two that take over one succeeds.

A holder that was stopped meanwhile (suspended, or cut off from the storage) may not know that it
has lost the lease. `check` is cheap, and looks into the folder only after the holder was late
itself: call it before each write.

On the machine of the holder itself nobody has to wait: there the flock tells at once whether it is
alive, so a lease whose `boot` is this machine's counts only with its flock (`ftlab.basics.locks`).
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ftlab.basics.files import UnsuitableFile, read_plain
from ftlab.basics.processes import boot_id

RENEW_SECONDS = 5.0
EXPIRES_SECONDS = 30.0
"""A holder counts up six times in it, so that one slow write does not lose a run."""

LEFT = 4
"""Exit status of a process that ends since another machine has taken over."""

_OLD_SECONDS = 120.0
"""A command that looks once, hours after a power failure, must not call a run running."""

_LOOK_SECONDS = 1.0
"""A dispatcher looks more often, at a thousand runs of other machines."""

_FILE = re.compile(r"lease\.([0-9]{1,6})")
_NAME = 80
_DIGITS = 12
_MOST_BYTES = 1_000


class LeaseLost(Exception):
    """Another machine has taken over: this process must write nothing more."""


@dataclass(frozen=True)
class Holder:
    """What a lease says of its holder: `node` is the machine's name, `mark` is drawn at random."""

    generation: int
    count: int
    node: str
    boot: str
    mark: str

    @property
    def is_elsewhere(self) -> bool:
        """Whether another machine holds it, or this one before it was started anew."""
        if self.boot and boot_id():
            return self.boot != boot_id()  # containers of one machine have different names
        return self.node != platform.node()


def seconds() -> float:
    """A clock that nobody sets, and that counts while the machine is suspended (on Linux)."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def holder_of(folder: Path) -> Holder | None:
    """The newest holder; `None` if there is no lease. One that is just being made has no name."""
    try:
        names = [name for name in os.listdir(folder) if name.startswith("lease.")]
    except OSError:
        return None
    generation = max(
        (int(found[1]) for name in names if (found := _FILE.fullmatch(name))), default=0
    )
    if not generation:
        return None
    try:
        count, _, rest = read_plain(_file(folder, generation), _MOST_BYTES).partition(b"\n")
        told = json.loads(rest)
        node = "".join(filter(str.isprintable, str(told["node"])))[:_NAME]  # pages show it
        return Holder(generation, int(count), node, str(told["boot"]), str(told["mark"]))
    except FileNotFoundError:  # released, or taken over, between the two looks
        return None
    except (OSError, UnsuitableFile, ValueError, KeyError, TypeError, RecursionError):
        return Holder(generation, 0, "", "", "")


@dataclass(frozen=True)
class _Seen:
    """A holder with its count, seen `since` then, and looked at again then."""

    holder: Holder
    since: float
    looked: float
    has_counted: bool


class LeaseWatch:
    """What one process has seen of leases, and when it was seen first by its own clock."""

    def __init__(self, now: Callable[[], float] = seconds) -> None:
        self._now = now
        self._seen: dict[Path, _Seen] = {}
        self._turn = threading.Lock()

    def lives_elsewhere(self, folder: Path, proven: bool = False) -> Holder | None:
        """The holder on another machine, unless its count has stood still for too long.

        One that was not looked at before is taken as alive, unless its file is so old that clocks
        would have to differ by `_OLD_SECONDS`. That is no proof, so nobody takes over by it
        (`proven`). The answer is up to `_LOOK_SECONDS` old, or of now with `proven`.
        """
        now = self._now()
        with self._turn:
            seen = self._seen.get(folder)
        if seen is None or proven or now - seen.looked >= _LOOK_SECONDS:
            holder = holder_of(folder)
            if holder is None or not holder.is_elsewhere:
                with self._turn:
                    self._seen.pop(folder, None)
                return None
            if seen is None or seen.holder != holder:
                seen = _Seen(holder, now, now, has_counted=seen is not None)
            else:
                seen = replace(seen, looked=now)
            with self._turn:
                self._seen[folder] = seen
        if now - seen.since >= EXPIRES_SECONDS:
            return None
        if not (proven or seen.has_counted) and _is_old(folder, seen.holder):
            return None
        return seen.holder

    def has_counted(self, folder: Path) -> bool:
        """Whether the holder was seen to count up, so that it is alive for sure."""
        if self.lives_elsewhere(folder) is None:
            return False
        with self._turn:
            return folder in self._seen and self._seen[folder].has_counted


@lru_cache(maxsize=1)
def watch() -> LeaseWatch:
    """This process's own."""
    return LeaseWatch()


class Lease:
    """One process's hold on a folder, for which it has the flock of its own machine already."""

    def __init__(
        self, folder: Path, watched: LeaseWatch | None = None, now: Callable[[], float] = seconds
    ) -> None:
        self._folder = folder
        self._watched = watched or watch()
        self._now = now
        self._mark = secrets.token_hex(8)
        self._file: Path | None = None
        self._generation = self._count = 0
        self._renewed = 0.0

    def try_acquire(self) -> bool:
        """Takes the lease; `False` if another machine has it, or takes it at this moment.

        Raises `OSError` if the folder cannot be written.
        """
        if self._watched.lives_elsewhere(self._folder, proven=True) is not None:
            return False
        before = holder_of(self._folder)
        generation = before.generation + 1 if before else 1
        told = {"node": platform.node(), "boot": boot_id(), "mark": self._mark}
        file = _file(self._folder, generation)
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "wb") as there:
                there.write(f"{0:0{_DIGITS}}\n{json.dumps(told)}\n".encode())
        except OSError:  # the disk is full
            file.unlink(missing_ok=True)
            raise
        self._file, self._generation = file, generation
        self._count, self._renewed = 0, self._now()
        forget(self._folder, below=generation)
        return True

    def acquire(self) -> bool:
        """As `try_acquire`, but waits until a holder on another machine has expired, and gives up
        once that one has counted up, so is alive."""
        first = self._watched.lives_elsewhere(self._folder, proven=True)
        while not self.try_acquire():
            holder = self._watched.lives_elsewhere(self._folder, proven=True)
            first = first or holder
            if holder and holder != first:
                return False
            time.sleep(RENEW_SECONDS / 10)
        return True

    def renew(self) -> None:
        """Counts up, if it is time. Raises `LeaseLost`."""
        if self._file is not None and self._now() - self._renewed >= RENEW_SECONDS:
            self._verify()
            self._count += 1
            with suppress(OSError):  # a full disk, or the storage is away: late, so verified later
                handle = os.open(self._file, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.pwrite(handle, f"{self._count:0{_DIGITS}}".encode(), 0)
                finally:
                    os.close(handle)
                self._renewed = self._now()

    def check(self) -> None:
        """Raises `LeaseLost` if another machine has taken over. To be called before each write."""
        if self._file is not None and self._now() - self._renewed >= EXPIRES_SECONDS / 2:
            self._verify()

    def release(self) -> None:
        if self._file is not None:
            with suppress(OSError, LeaseLost):
                self._verify()
                self._file.unlink(missing_ok=True)
            self._file = None

    def _verify(self) -> None:
        assert self._file is not None
        is_gone = False
        try:  # by name, since a directory may be listed from a cache that is a minute old
            os.close(os.open(self._file, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                return  # the storage is away: a write says so
            is_gone = True
        holder = holder_of(self._folder)
        is_other = holder is not None and holder.mark != self._mark
        if holder and is_other and (holder.mark or holder.generation != self._generation):
            raise LeaseLost(
                f"The machine '{holder.node}' has taken over '{self._folder.name}', as this one "
                f"had been silent for {EXPIRES_SECONDS:.0f} s."
            )
        if is_gone:
            raise LeaseLost(f"The lease of '{self._folder.name}' is gone.")


def forget(folder: Path, below: int = 10**9) -> None:
    """Deletes the leases of a folder, or those with a number `below` that, which are over."""
    with suppress(OSError):
        for name in os.listdir(folder):
            found = _FILE.fullmatch(name)
            if found and int(found[1]) < below:
                (folder / name).unlink(missing_ok=True)


def _is_old(folder: Path, holder: Holder) -> bool:
    try:
        written = _file(folder, holder.generation).stat().st_mtime
    except OSError:
        return False
    return time.time() - written > _OLD_SECONDS


@contextmanager
def kept(
    lease: Lease, look: Callable[[], None], lost: Callable[[LeaseLost], None]
) -> Iterator[threading.Event]:
    """Renews the lease in a thread, and calls `look` each time until the event is set."""
    is_over, is_ending = threading.Event(), threading.Event()

    def keep() -> None:
        while not is_over.wait(RENEW_SECONDS):
            try:
                lease.renew()
                if not is_ending.is_set():
                    look()
            except LeaseLost as why:
                lost(why)
            except OSError:  # the storage is away for a moment
                continue

    thread = threading.Thread(target=keep, daemon=True, name="lease")
    thread.start()
    try:
        yield is_ending
    finally:
        is_over.set()
        thread.join(RENEW_SECONDS)  # not for ever, where the storage hangs


def _file(folder: Path, generation: int) -> Path:
    return folder / f"lease.{generation}"
