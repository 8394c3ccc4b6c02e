"""The process that measures how many adapters one base serves.

Run as: python -m ftlab.playground.serving_worker RUNS_FOLDER

It reads one request from stdin, as `ftlab.basics.processes` sends it, and holds the lock of the
device while it measures.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftlab.basics.devices import CPU, Device, resolve_device
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.locks import DeviceLock, free_device, holding
from ftlab.basics.processes import Line, parse_line
from ftlab.models.libraries import lasting_imports, prepare_for_libraries
from ftlab.playground.panes import PaneSource
from ftlab.playground.serving import ServingRequest, check, request_from_json
from ftlab.playground.worker import line_writer
from ftlab.records.serving import ServingRecord

Say = Callable[[dict[str, Any]], None]


def answer(request: ServingRequest, runs_folder: Path, device: Device, say: Say) -> None:
    """Measures and says the record; an error that a person can mend is said as a sentence."""
    try:
        source, model = check(request, runs_folder)
        record = None
        while record is None:
            record, device = _measured(request, source, model, device, say), resolve_device(CPU)
        say({"record": asdict(record)})
    except FtlabError as error:
        say({"error": str(error)})
    except Exception as error:
        traceback.print_exc()
        say({"error": f"The measurement failed: {one_line(error)[:200]}"})


def _measured(
    request: ServingRequest, source: PaneSource, model: str, device: Device, say: Say
) -> ServingRecord | None:
    """Waits for the device and measures on it; `None` if torch cannot use it, as the playground."""
    waiting = {"words": "waiting for a training run or a prompt"}
    with holding(DeviceLock(device.id), lambda: say(waiting)):
        with lasting_imports():  # under the lock: imports would disturb a training run
            import torch

            from ftlab.playground.serving_measure import Measurement
        if device.id != CPU and not (device.is_cuda and torch.cuda.is_available()):
            return None
        return Measurement(request, source, model, device, say).run()


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print(f"usage: python -m {__spec__.name} RUNS_FOLDER", file=sys.stderr)
        return 2
    write = line_writer()
    device = free_device()
    prepare_for_libraries(device.id)
    line = parse_line(sys.stdin.buffer.readline())
    request = request_from_json(line.content)
    answer(request, Path(arguments[0]), device, lambda said: write(Line(line.number, said)))
    write(Line(line.number))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
