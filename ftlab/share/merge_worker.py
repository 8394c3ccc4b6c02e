"""The process that merges one run into its base.

Run as: python -m ftlab.share.merge_worker RUN_DIR

It waits for the lock of the device, as a run does. The exit status is 0 if the model was saved, 1
if not (the last event has the reason), and 2 if there was nothing to do.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.devices import AUTO, Device, resolve_device
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import Signs, Watchdog
from ftlab.models.libraries import lasting_imports, prepare_for_libraries
from ftlab.records.merge import MergeDirectory
from ftlab.records.run import RunDirectory

PHASE_SECONDS = 7200.0
"""Timeout for loading, merging or saving (140 GB at 20 MB/s), or for evaluating one batch."""


@dataclass(frozen=True)
class WatchedMerge(MergeDirectory):
    """A merge in which each event restarts the timeout of the watchdog."""

    watchdog: Signs

    def report(self, event: dict[str, Any]) -> None:
        self.watchdog.expect(PHASE_SECONDS)
        super().report(event)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m ftlab.share.merge_worker RUN_DIR", file=sys.stderr)
        return 2
    merge = MergeDirectory(RunDirectory(Path(arguments[0]).resolve()))
    if not merge.begin():
        print("ftlab: nobody asked for this merge, or it was begun before.", file=sys.stderr)
        return 2
    watchdog = Watchdog(lambda sentence: merge.give_up("failed", sentence))
    try:
        spec = merge.run.spec()
        device = device_of(spec.device)
        prepare_for_libraries(device.id)
        if spec.task.kind != "hub":
            os.environ["HF_HUB_OFFLINE"] = "1"  # the base was downloaded for the run
        turn = DeviceLock(device.id)
        if not turn.try_acquire():
            merge.report({"event": "phase", "phase": "wait"})
            turn.acquire()
        _work(WatchedMerge(merge.run, watchdog), device)
    except BaseException as error:
        watchdog.rest()
        traceback.print_exc()
        merge.give_up("failed", _sentence(error))
        return 1
    watchdog.rest()
    merge.end("done")
    return 0


def device_of(device_id: str) -> Device:
    """The run's device; if this machine does not have it, its first device."""
    try:
        return resolve_device(device_id)
    except FtlabError:
        return resolve_device(AUTO)


def _work(merge: WatchedMerge, device: Device) -> None:
    merge.watchdog.expect(PHASE_SECONDS)
    with lasting_imports():
        from ftlab.share.merge import merge_run
    merge_run(merge, device)


def _sentence(error: BaseException) -> str:
    from ftlab.training.failures import explain

    return explain(error, "merge")[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
