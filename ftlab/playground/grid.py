"""A prompt grid: its record, what it may ask, and starting it. No torch.

grid.json      what was asked, written once
process.json   the process that answers, and what it waits for
cells.jsonl    one line a cell (one prompt in one pane), appended by that process alone
log.txt        its stdout and stderr
cancel         there once somebody asked for the end
result.json    written once, by atomic rename, at the end
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.files import read_plain
from ftlab.basics.parsing import MAX_RECORD_BYTES, parse_json, read_record
from ftlab.basics.processes import is_alive, python_environment, start_detached
from ftlab.jobs.control import control_folder
from ftlab.models.reference import names_hub_model
from ftlab.playground.panes import PaneSource, line_up
from ftlab.playground.requests import MAX_CHARACTERS, GenerateRequest, validate_generate
from ftlab.records.job import InFolder, StartedJob
from ftlab.records.result import OPEN, FinalStatus, JobResult, LineWriter
from ftlab.records.run import check_writable, read_json_lines, write_atomically
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.reference import validate as validate_task

_SECONDS_TO_STOP = 5.0
"""How long a process may take to notice a cancel; then it is ended, also while it loads."""

_ENOUGH = 3.0
"""Answers' worth of tokens that carry an estimate."""

_GRID_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")


@dataclass(frozen=True)
class GridRequest:
    """Prompts times panes.

    `request` holds panes and settings; its own prompt is "" and it has no histories. `task` is set
    where the prompts are held-out examples of it, whose answers are scored. `labels` and `methods`
    stand beside `request.panes`, for when a run is deleted later; `start_grid` fills them in.
    """

    request: GenerateRequest
    prompts: tuple[str, ...]
    task: TaskReference | None = None
    labels: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    @property
    def panes(self) -> tuple[str, ...]:
        return self.request.panes

    @property
    def cells(self) -> int:
        return len(self.prompts) * len(self.panes)

    def label(self, pane: int) -> str:
        return self.labels[pane] if self.labels else self.panes[pane]

    def method(self, pane: int) -> str:
        return self.methods[pane] if self.methods else ""


@dataclass(frozen=True)
class Cell:
    """One prompt in one pane, both by place. `error` is a sentence, "" where the pane answered.

    Under an error `answer` is what had been answered until then. `kl_nats` and `top1_changed`
    compare the first token with the base's; `score` in [0, 1] is by `metric` (its label).
    `worked_seconds` is the time on the device from the loaded base until this cell was done; what
    was waited for others is not in it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    prompt: int
    pane: int
    answer: str = ""
    error: str = ""
    tokens: int = 0
    tokens_per_second: float | None = None
    first_token_seconds: float | None = None
    adapter_sha256: str = ""
    kl_nats: float | None = None
    top1_changed: bool | None = None
    note: str = ""
    score: float | None = None
    metric: str = ""
    verdict: str = ""
    worked_seconds: float = 0.0


@dataclass(frozen=True)
class GridResult(JobResult):
    """How a grid ended.

    `seconds` is wall time from start to end, of which `waited_seconds` for other work on the
    device. `environment` has "device" and "versions".
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    seconds: float = 0.0
    waited_seconds: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GridProcess:
    """The process that answers a grid, and its last word, at most a second old while it answers.

    `waiting` is a sentence while it waits, else "". `reached` counts cells, one under way as its
    share of the most tokens it may get; `worked_seconds` is as in a cell.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    pid: int
    started: float
    waiting: str = ""
    reached: float = 0.0
    worked_seconds: float = 0.0


_REQUEST: TypeAdapter[GridRequest] = TypeAdapter(GridRequest)
_CELL: TypeAdapter[Cell] = TypeAdapter(Cell)
_RESULT: TypeAdapter[GridResult] = TypeAdapter(GridResult)
_PROCESS: TypeAdapter[GridProcess] = TypeAdapter(GridProcess)


@dataclass(frozen=True)
class GridDirectory(StartedJob):
    """One grid's folder."""

    path: Path

    request_file = InFolder("grid.json")
    process_file = InFolder("process.json")
    cells_file = InFolder("cells.jsonl")
    cancel_file = InFolder("cancel")
    result_file = InFolder("result.json")

    @property
    def folder(self) -> Path:
        return self.path

    @property
    def grid_id(self) -> str:
        return self.path.name

    @property
    def runs_folder(self) -> Path:
        """The folder of the runs that answer: the inverse of `grids_folder`."""
        return self.path.parents[2]

    @property
    def made_at(self) -> time.struct_time:
        """Local time at which the grid was asked for."""
        return time.strptime(self.grid_id[:15], "%Y%m%d-%H%M%S")

    def write_request(self, request: GridRequest) -> None:
        """Makes the folder with its request; the grid is queued from here on."""
        self.path.mkdir(parents=True)
        write_atomically(self.request_file, _REQUEST.dump_json(request, indent=2))

    def request(self) -> GridRequest:
        """Raises `FtlabError` if the request is missing or cannot be read."""
        try:
            return parse_json(
                _REQUEST, read_plain(self.request_file, MAX_RECORD_BYTES), "grid.json"
            )
        except OSError as error:
            raise FtlabError(
                f"'{self.path}' is no grid: its grid.json cannot be read ({error.strerror})."
            ) from None

    def write_process(self, process: GridProcess) -> None:
        write_atomically(self.process_file, _PROCESS.dump_json(process))

    def process(self) -> GridProcess | None:
        return read_record(_PROCESS, self.process_file)

    def write_worker(self, pid: int, started: float) -> None:
        self.write_process(GridProcess(pid, started))

    def worker(self) -> tuple[int, float] | None:
        process = self.process()
        return None if process is None else (process.pid, process.started)

    def stop(self) -> None:
        """Lets the process end by itself, so that its last numbers are kept."""
        self.cancel_file.touch()
        worker = self.worker()
        deadline = time.monotonic() + _SECONDS_TO_STOP
        while worker is not None and is_alive(*worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        super().stop()

    def add_cell(self, cell: Cell) -> None:
        """Appends a cell, whole and at once."""
        with LineWriter(self.cells_file) as file:
            file.append(asdict(cell))

    def cells(self) -> list[Cell]:
        """Every cell so far in the order in which they were done; damaged lines are left out."""
        cells = []
        for row in read_json_lines(self.cells_file):
            try:
                cells.append(_CELL.validate_python(row))
            except ValidationError:
                continue
        return cells

    def write_result(self, result: GridResult) -> None:
        """Writes the result unless there is one."""
        if not self.result_file.exists():
            write_atomically(self.result_file, _RESULT.dump_json(result, indent=2))

    def end(self, status: FinalStatus, reason: str = "") -> None:
        self.write_result(GridResult(status, reason))

    def result(self) -> GridResult | None:
        return read_record(_RESULT, self.result_file)


def grids_folder(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "grids"


def new_grid(runs_folder: Path) -> GridDirectory:
    """A directory under a new id, which sorts by time; nothing is written yet."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    return GridDirectory(grids_folder(runs_folder) / name)


def list_grids(runs_folder: Path) -> list[GridDirectory]:
    """Every grid of the folder, newest first."""
    folder = grids_folder(runs_folder)
    try:
        names = [name for name in os.listdir(folder) if _GRID_ID.fullmatch(name)]
    except OSError:  # none was ever made
        return []
    grids = [GridDirectory(folder / name) for name in sorted(names, reverse=True)]
    return [grid for grid in grids if grid.request_file.exists()]


def find_grid(runs_folder: Path, grid_id: str) -> GridDirectory:
    """The grid of that id; raises `FtlabError` if the id is malformed or unknown."""
    if _GRID_ID.fullmatch(grid_id):
        grid = GridDirectory(grids_folder(runs_folder) / grid_id)
        if grid.request_file.exists():
            return grid
    raise FtlabError(
        f"There is no prompt grid '{grid_id[:80]}' in {runs_folder}; "
        "the playground's list shows those there are."
    )


@dataclass(frozen=True)
class Progress:
    """A grid's way: cells `done` of `total`, `errors` among them.

    `reached` also counts what is under way, each answer as its share of the tokens it may get.
    `eta_seconds` is the time on the device until the last cell (`None`: not known yet, 0 once it
    has ended); it does not count what is waited for others. `waiting` is a sentence while nothing
    is answered, else "".
    """

    done: int
    errors: int
    total: int
    reached: float
    eta_seconds: float | None
    waiting: str = ""

    @property
    def fraction(self) -> float:
        """In [0, 1]."""
        return self.reached / self.total if self.total else 0.0


def read_progress(grid: GridDirectory) -> Progress:
    """Raises `FtlabError` if the grid's request cannot be read."""
    total = grid.request().cells
    cells = grid.cells()
    done, errors = len(cells), sum(bool(cell.error) for cell in cells)
    if grid.status() not in OPEN:
        return Progress(done, errors, total, done, 0.0)
    process = grid.process()
    if process is None:
        return Progress(done, errors, total, done, None, "Starting …")
    reached = min(float(total), max(float(done), process.reached))
    worked = max(process.worked_seconds, cells[-1].worked_seconds if cells else 0.0)
    eta = _eta(worked, reached, total)
    return Progress(done, errors, total, reached, eta, process.waiting)


def _eta(worked_seconds: float, reached: float, total: int) -> float | None:
    """By the rate so far. It errs on the long side: prompts go from long to short, and an answer
    under way is taken to need all the tokens that it may get."""
    if not worked_seconds or reached < min(_ENOUGH, total / 10):
        return None
    return worked_seconds / reached * (total - reached)


MAX_PROMPTS = 200


def validate_grid(grid: GridRequest, runs_folder: Path) -> list[FieldError]:
    """Every wrong field with a sentence that names the value, the rule and the way out.

    A pane that cannot answer is refused here: its whole row of errors would come minutes later.
    """
    return [
        # Its prompt is "", the grid has its own.
        *(error for error in validate_generate(grid.request) if error.field != "prompt"),
        *_panes(grid, runs_folder),
        *_prompts(grid.prompts),
        *_beside_panes("labels", grid.labels, len(grid.panes)),
        *_beside_panes("methods", grid.methods, len(grid.panes)),
        *(validate_task(grid.task) if grid.task else []),
    ]


def _panes(grid: GridRequest, runs_folder: Path) -> Iterator[FieldError]:
    problems = line_up(grid.panes, grid.request.model, runs_folder).problems
    for problem in dict.fromkeys(problems.values()):
        yield FieldError("panes", problem)
    if grid.request.histories:
        yield FieldError(
            "histories", "A grid asks each prompt anew; leave out the chats before it."
        )


def _prompts(prompts: tuple[str, ...]) -> Iterator[FieldError]:
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        yield FieldError(
            "prompts",
            f"There are {len(prompts):,} prompts; a grid takes 1 to {MAX_PROMPTS}, so "
            f"{'leave some out' if prompts else 'write one a line'}.",
        )
        return
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            yield FieldError("prompts", f"Prompt {number} is empty; write it or leave it out.")
        if len(prompt) > MAX_CHARACTERS:
            yield FieldError(
                "prompts",
                f"Prompt {number} has {len(prompt):,} characters; at most {MAX_CHARACTERS:,} are "
                "read, so shorten it.",
            )


def _beside_panes(name: str, values: tuple[str, ...], panes: int) -> Iterator[FieldError]:
    if values and len(values) != panes:
        yield FieldError(
            name, f"There are {len(values)} {name} for {panes} panes; give one a pane, or none."
        )


def start_grid(request: GridRequest, runs_folder: Path) -> GridDirectory:
    """Starts a process that answers the grid and belongs to nobody, so it outlives page and app.

    Raises `InvalidRequest` with every wrong field, `FtlabError` if the folder cannot be written.
    """
    check_writable(runs_folder)
    errors = validate_grid(request, runs_folder)
    if errors:
        raise InvalidRequest(errors)
    grid = new_grid(runs_folder.resolve())
    try:
        completed = _completed(request, runs_folder)
        grid.write_request(completed)
        start_detached(
            "ftlab.playground.grid_worker",
            grid.path,
            grid.log_file,
            python_environment(needs_hub(completed)),
        )
    except OSError as error:
        shutil.rmtree(grid.path, ignore_errors=True)
        raise FtlabError(
            f"The prompt grid could not be started in '{runs_folder}' ({error.strerror}); "
            "free some space, or make the folder writable."
        ) from None
    return grid


def needs_hub(request: GridRequest) -> bool:
    """Whether the grid's process asks the Hugging Face Hub for its base model or its prompts."""
    from_hub = request.task is not None and request.task.kind == "hub"
    return from_hub or names_hub_model(request.request.model or "")


def _completed(request: GridRequest, runs_folder: Path) -> GridRequest:
    """The request with what only today's runs can say: model, labels and methods."""
    lineup = line_up(request.panes, request.request.model, runs_folder)
    sources = list(lineup.sources.values())  # all of them: the validation saw to that
    return replace(
        request,
        request=replace(request.request, model=lineup.model),
        labels=request.labels or tuple(_labels(sources)),
        methods=request.methods or tuple(source.method for source in sources),
    )


def _labels(sources: list[PaneSource]) -> list[str]:
    """Short labels; those that several panes share are told apart by their details."""
    short = [source.label for source in sources]
    return [s.title if short.count(s.label) > 1 else s.label for s in sources]
