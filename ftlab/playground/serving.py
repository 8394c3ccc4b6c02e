"""Measures what serving N adapters on one base takes, in a process of its own. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import WorkerClient, WorkerEnded, module_command
from ftlab.jobs.control import control_folder
from ftlab.models.reference import names_hub_model
from ftlab.playground.panes import PaneSource, line_up
from ftlab.records.run import check_writable
from ftlab.records.serving import ServingRecord
from ftlab.settings.generation import PRECISIONS, Precision

WORKER = "ftlab.playground.serving_worker"

MOST = 64
COUNTS = (1, 2, 4, 8, 16, 32, 64)
MOST_TOKENS = 256
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class ServingRequest:
    """Which adapter is measured, by its pane's name, how often it is loaded, and what it answers.

    `full_models`: whether as many full models are measured beside them.
    """

    pane: str
    counts: tuple[int, ...] = COUNTS
    precision: Precision = "bf16"
    new_tokens: int = 32
    full_models: bool = True


@dataclass(frozen=True)
class Progress:
    """What was just measured, and the seconds left (`None`: not known yet)."""

    words: str
    left_seconds: float | None = None


Tell = Callable[[Progress], None]

_RECORD: TypeAdapter[ServingRecord] = TypeAdapter(ServingRecord)
_REQUEST: TypeAdapter[ServingRequest] = TypeAdapter(ServingRequest)


def check(request: ServingRequest, runs_folder: Path) -> tuple[PaneSource, str]:
    """Returns the source and its base model.

    Raises `FtlabError` for what cannot be measured, with a way out.
    """
    lineup = line_up([request.pane], None, runs_folder)
    if lineup.problems:
        raise FtlabError(lineup.problems[0])
    source = lineup.sources[0]
    if not source.is_adapter:
        raise FtlabError(
            f"'{source.label}' has no adapter that could be loaded many times on one base; name a "
            "run of a method that saves one, or shipped:sql."
        )
    counts = request.counts
    if (
        not counts
        or list(counts) != sorted(set(counts))
        or not 1 <= counts[0] <= counts[-1] <= MOST
    ):
        shown = ",".join(map(str, counts)) or "empty"
        raise FtlabError(
            f"The counts are {shown}; give ascending whole numbers from 1 to {MOST}, as in 1,4,16."
        )
    if not 1 <= request.new_tokens <= MOST_TOKENS:
        raise FtlabError(
            f"An answer of {request.new_tokens} tokens cannot be measured; give 1 to {MOST_TOKENS}."
        )
    if request.precision not in PRECISIONS:
        raise FtlabError(
            f"The precision is {request.precision}; it must be one of {', '.join(PRECISIONS)}."
        )
    return source, lineup.model


def measure(request: ServingRequest, runs_folder: Path, tell: Tell) -> ServingRecord:
    """Measures in a process that ends with this call; `tell` gets what is done and what is left.

    Raises `FtlabError` for an invalid request, and if the process fails.
    """
    _, model = check(request, runs_folder)
    check_writable(runs_folder)  # rather than after minutes of work
    log = control_folder(runs_folder) / "serving.log"
    client = WorkerClient(
        module_command(WORKER, str(runs_folder)),
        log,
        names_hub_model(model),
    )
    try:
        with closing(client.ask(asdict(request), _SECONDS_BETWEEN_LOOKS)) as answer:
            return _follow(answer, tell)
    except WorkerEnded as end:
        raise FtlabError(f"The measurement ended before its time: {end}; see {log}.") from None
    except OSError as error:
        raise FtlabError(f"The measurement could not be started ({error.strerror}).") from None
    finally:
        client.close()


def _follow(answer: Any, tell: Tell) -> ServingRecord:
    end: float | None = None
    for said in answer:
        if said is None:
            continue
        if "error" in said:
            raise FtlabError(str(said["error"]))
        if "record" in said:
            return _RECORD.validate_python(said["record"])
        if "seconds" in said:
            end = time.monotonic() + float(said["seconds"])
        left = None if end is None else max(0.0, end - time.monotonic())
        tell(Progress(str(said["words"]), left))
    raise FtlabError("The measurement ended without a result.")


def request_from_json(data: dict[str, Any]) -> ServingRequest:
    return _REQUEST.validate_python(data)
