"""Starts the other processes (ranks) of a run over several GPUs, and ends the run with them.

The run's worker is the first rank. It starts the others, each with a device of its own (on a CPU
they share it), and alone writes into the run's folder. A rank that fails says why in one line. A
rank that dies ends the run with a reason; ranks end with the worker, however that ends.

Run as: python -m ftlab.jobs.ranks RUN_DIR RANK FILE, by the worker.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ftlab.basics.processes import module_command, worker_environment
from ftlab.models.libraries import prepare_for_libraries
from ftlab.records.result import FinalStatus
from ftlab.records.resume import Earlier, trusted_checkpoint
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, needs_hub

_MEETING_PLACE = "ranks"
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_NOTICE = 15.0
"""How long the first rank has to notice by itself that another has died; a GPU may never."""

SECONDS_TO_SAY = 5.0
"""How long the first rank, cut off from another, waits for that one's reason."""


@dataclass(frozen=True)
class Failure:
    """How a run ends because of one of its ranks."""

    status: FinalStatus
    reason: str


@dataclass
class OtherRanks:
    """The ranks that the worker started: `processes[0]` is rank 1."""

    file: Path
    count: int
    oom_kills: Callable[[], int]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    said: list[IO[bytes]] = field(default_factory=list)
    _kills_before: int = 0
    _failure: Failure | None = None
    _is_over: threading.Event = field(default_factory=threading.Event)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def start(self, directory: RunDirectory, spec: RunSpec, is_resumed: bool) -> None:
        """Starts them; raises `OSError` if the system cannot."""
        self._kills_before = self.oom_kills()
        environment = worker_environment(needs_hub(spec)) | loopback()
        for rank in range(1, self.count):
            read, write = os.pipe()
            try:
                self.processes.append(
                    subprocess.Popen(
                        module_command(
                            "ftlab.jobs.ranks", str(directory.path), str(rank), str(self.file),
                            str(write), str(os.getpid()), str(int(is_resumed)),
                        ),
                        stdin=subprocess.DEVNULL,
                        pass_fds=[write],
                        env=environment,
                    )
                )  # fmt: skip
            finally:
                os.close(write)
                self.said.append(os.fdopen(read, "rb"))

    def watch(self, end: Callable[[Failure], None]) -> None:
        """Until `close`: if a rank dies, and the first has not noticed after a while, ends it."""
        while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
            if self.failure() is not None:
                if not self._is_over.wait(_SECONDS_TO_NOTICE):
                    failure = self.failure()
                    assert failure is not None
                    self.kill()
                    end(failure)
                return

    def failure(self, seconds: float = 0.0) -> Failure | None:
        """Why a rank has ended early; waits up to `seconds` for the first that knows its reason.

        A rank that was only cut off from another that failed knows none.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._asking:
                for rank, process in enumerate(self.processes, start=1):
                    code = process.poll()
                    if self._failure is None and code is not None and code != CUT_OFF:
                        self._failure = self._why(rank, code)
            if self._failure is not None or time.monotonic() >= deadline:
                return self._failure
            time.sleep(0.05)

    def _why(self, rank: int, code: int) -> Failure:
        said = self.said[rank - 1].read() if code > 0 else b""
        try:
            told = json.loads(said)
            return Failure(told["status"], told["reason"])
        except (ValueError, KeyError, TypeError):
            pass
        name = f"Process {rank + 1} of {self.count} of the run"
        if code == -signal.SIGKILL and self.oom_kills() > self._kills_before:
            return Failure(
                "out_of_memory",
                f"{name} was ended by the kernel, because the machine had no memory left; choose "
                "fewer processes, a smaller model, or a smaller batch.",
            )
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return Failure("failed", f"{name} ended early ({how}); the log may say why. Run it again.")

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def close(self, is_done: bool) -> None:
        """Waits for ranks that are about to end; ends them if the run failed."""
        self._is_over.set()
        deadline = time.monotonic() + (_SECONDS_TO_NOTICE if is_done else 0.0)
        for process in self.processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in self.said:
            pipe.close()


CUT_OFF = 3
"""Exit status of a rank that ends because another one did."""


def loopback() -> dict[str, str]:
    """Ranks of one machine talk by way of the loopback interface; the user's own values win."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    return {name: os.environ.get(name, "lo") for name in names} if sys.platform == "linux" else {}


@contextmanager
def other_ranks(
    spec: RunSpec, directory: RunDirectory, is_resumed: bool, end: Callable[[Failure], None]
) -> Iterator[OtherRanks | None]:
    """Starts the other ranks of the run and watches them; `None` for a run of one process.

    `end` is called, from another thread, when the run cannot go on and this process hangs.
    """
    count = spec.settings.shard
    if count == 1:
        yield None
        return
    from ftlab.jobs.lost_worker import oom_kills

    os.environ.update(loopback())
    folder = Path(tempfile.mkdtemp(prefix="ftlab-ranks-"))
    others = OtherRanks(folder / _MEETING_PLACE, count, oom_kills)
    is_done = False
    try:
        others.start(directory, spec, is_resumed)
        threading.Thread(target=others.watch, args=(end,), daemon=True).start()
        yield others
        is_done = True
    finally:
        others.close(is_done)
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """One of the other ranks; its report goes nowhere, its error to the worker."""
    path, rank, file, said, worker, is_resumed = arguments
    _end_with(int(worker), Path(file).parent)
    directory = RunDirectory(Path(path))
    spec = directory.spec()
    place = min(int(rank), len(spec.held) - 1)  # on a CPU they share the one
    prepare_for_libraries(spec.held[place])
    if not needs_hub(spec):
        os.environ["HF_HUB_OFFLINE"] = "1"
    earlier = Earlier(trusted_checkpoint(directory), (), ()) if int(is_resumed) else None
    return _execute(directory, spec, int(rank), Path(file), int(said), earlier)


def _execute(
    directory: RunDirectory, spec: RunSpec, rank: int, file: Path, said: int, earlier: Any
) -> int:
    from ftlab.jobs.run_worker import import_libraries

    import_libraries()
    from ftlab.training import memory
    from ftlab.training.failures import explain, is_cut_off
    from ftlab.training.model import torch_device
    from ftlab.training.ranks import join, leave
    from ftlab.training.run import RunRecord, execute

    record = RunRecord(earlier=earlier)
    try:
        device = torch_device(spec.device)
        if spec.memory_limit is not None:
            memory.hold_to(spec.memory_limit, device)
        record.ranks = join(rank, spec.settings.shard, file, device)
        execute(spec, directory, record, lambda event: None)
    except BaseException as error:
        memory.let_go()
        traceback.print_exc()
        phase = record.meter.current if record.meter else ""
        at_limit = memory.is_met(spec.memory_limit, error, spec.device)
        code = CUT_OFF
        if at_limit or not is_cut_off(error):
            status, reason = explain(error, phase, at_limit)
            os.write(said, json.dumps({"status": status, "reason": reason}).encode())
            code = 1
        sys.stderr.flush()
        os._exit(code)  # at once: at its end NCCL may wait for the other ranks
    leave()
    return 0


def _end_with(worker: int, folder: Path) -> None:
    """Ends this process when the worker has ended, however it did; removes the folder."""

    def watch() -> None:
        while os.getppid() == worker:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(CUT_OFF)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
