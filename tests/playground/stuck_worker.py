"""The playground's worker with an engine that never gives an answer; the prompt says how.

Run as: python stuck_worker.py RUNS_FOLDER
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftlab.basics import processes
from ftlab.basics.devices import resolve_device
from ftlab.playground import worker
from ftlab.playground.requests import LOADING, GenerateRequest, PaneUpdate

worker.LOADING_SECONDS, worker.ANSWER_SECONDS, worker.LEFT_SECONDS = 3.0, 1.0, 0.5
processes._GRACE_SECONDS = 0.5
processes._SECONDS_BETWEEN_LOOKS = 0.05


class StuckEngine:
    device_answers = True

    def answer(
        self, request: GenerateRequest, send: Callable[[PaneUpdate], None], check: Callable
    ) -> None:
        send(PaneUpdate(0, "status", LOADING))
        send(PaneUpdate(0, "text", "be"))
        if request.prompt == "asleep":
            time.sleep(60)
        if request.prompt == "slow":
            for _ in range(20):
                time.sleep(0.1)
                check()
        send(PaneUpdate(0, "done", f"{request.prompt} is done"))


class StuckEngines:
    is_loaded = False

    def __init__(self) -> None:
        self.device = resolve_device("cpu")

    def engine(self) -> StuckEngine:
        return StuckEngine()


engines: Any = StuckEngines()
worker.Engines = lambda *_: engines  # type: ignore[assignment, misc]
if __name__ == "__main__":
    sys.exit(worker.main([str(Path(sys.argv[1]))]))
