"""A prompt grid: its folder, the validation of a request, and how it is started. No torch.

grid.json      the request, written once
process.json   the worker process, its progress and what it waits for
cells.jsonl    one line per cell (one prompt in one pane), appended only by that process
log.txt        its stdout and stderr
cancel         exists after cancellation was requested
result.json    written once, by atomic rename, at the end
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, TypeAdapter, ValidationError

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.files import read_record
from ftlab.basics.people import asking
from ftlab.basics.processes import python_environment, start_detached
from ftlab.jobs.control import control_folder
from ftlab.models.reference import names_hub_model
from ftlab.playground.panes import line_up
from ftlab.playground.requests import MAX_GRID_PANES, GenerateRequest, validate_generate
from ftlab.records.job import (
    InFolder,
    StoppableJob,
    is_job_id,
    job_folders,
    new_job_id,
    owner_of,
    read_request,
    seen_jobs,
)
from ftlab.records.result import OPEN, FinalStatus, JobResult, LineWriter
from ftlab.records.run import check_writable, read_json_lines, write_atomically
from ftlab.settings.generation import MAX_CHARACTERS
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.reference import validate as validate_task

START_SECONDS = 5.0
"""Before there is an earlier grid: its process starts, imports torch and loads the base."""

_ENOUGH = 3.0
"""Progress in answers that is enough for an estimate of the remaining time."""


@dataclass(frozen=True)
class GridRequest:
    """The request of a grid: every prompt in every pane.

    `request` holds panes and settings; its prompt is "" and it has no histories. `task` is set if
    the prompts are test examples of that task, so that answers are scored. `labels` and
    `methods` run parallel to `request.panes`, in case a run is deleted; `start_grid` sets them and
    `owner`, the login of the person who asked for it ("": the operator).
    `expected_seconds` is the time that was predicted for it (`ftlab.playground.grid_time`).
    """

    request: GenerateRequest
    prompts: tuple[str, ...]
    task: TaskReference | None = None
    labels: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    expected_seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    owner: str = ""

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


ROWS = 24
"""Rows of one portion (prompts times panes): enough to fill a batch, few enough for memory."""


def portions(request: GridRequest) -> list[list[int]]:
    """Groups prompt indices into portions that are answered together, longest prompts first.

    Similar lengths need little padding. If a prompt is too long for the device, it fails early.
    """
    size = max(1, ROWS // len(request.panes))
    places = sorted(range(len(request.prompts)), key=lambda place: -len(request.prompts[place]))
    return [places[start : start + size] for start in range(0, len(places), size)]


@dataclass(frozen=True)
class Cell:
    """One prompt in one pane, both by index. `error` is a sentence, "" if the pane answered.

    After an error, `answer` is the text generated before it. `kl_nats` and `top1_changed` compare
    the first token with the base's. `score` in [0, 1] is measured by `metric` (its label).
    `worked_seconds` is the time on the device from the loaded base until this cell was done,
    without the time spent waiting for other work.
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
    """The result of a grid.

    `seconds` is wall time from start to end; `waited_seconds` is the part of it spent waiting for
    other work on the device. `environment` has "device" and "versions".
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    seconds: float = 0.0
    waited_seconds: float = 0.0
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GridProcess:
    """A grid's worker process and its last status, at most a second old while it answers.

    `waiting` is a sentence while it waits, else "". `reached` counts cells; an unfinished cell
    counts as its share of `max_new_tokens`. `worked_seconds` is as in `Cell`.
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
class GridDirectory(StoppableJob):
    """One grid's folder."""

    path: Path

    request_file = InFolder("grid.json")
    process_file = InFolder("process.json")
    cells_file = InFolder("cells.jsonl")
    result_file = InFolder("result.json")

    seconds_to_stop: ClassVar[float] = 5.0
    """Its process is ended then even while it loads."""

    @property
    def folder(self) -> Path:
        return self.path

    @property
    def owner(self) -> str:
        return owner_of(self.request)

    @property
    def grid_id(self) -> str:
        return self.path.name

    @property
    def runs_folder(self) -> Path:
        """The folder of the runs that answer; the inverse of `grids_folder`."""
        return self.path.parents[2]

    @property
    def made_at(self) -> time.struct_time:
        """Local time at which the grid was requested."""
        return time.strptime(self.grid_id[:15], "%Y%m%d-%H%M%S")

    def write_request(self, request: GridRequest) -> None:
        """Creates the folder and writes the request; the grid is then queued."""
        self.path.mkdir(parents=True)
        write_atomically(self.request_file, _REQUEST.dump_json(request, indent=2))

    def request(self) -> GridRequest:
        """Reads the request; raises `FtlabError` if it is missing or cannot be read."""
        return read_request(_REQUEST, self.request_file, "grid")

    def write_process(self, process: GridProcess) -> None:
        write_atomically(self.process_file, _PROCESS.dump_json(process))

    def process(self) -> GridProcess | None:
        return read_record(_PROCESS, self.process_file)

    def write_worker(self, pid: int, started: float) -> None:
        self.write_process(GridProcess(pid, started))

    def worker(self) -> tuple[int, float] | None:
        process = self.process()
        return None if process is None else (process.pid, process.started)

    def add_cell(self, cell: Cell) -> None:
        """Appends a cell in one write."""
        with LineWriter(self.cells_file) as file:
            file.append(asdict(cell))

    def cells(self) -> list[Cell]:
        """All finished cells in the order of completion; damaged lines are skipped."""
        cells = []
        for row in read_json_lines(self.cells_file):
            try:
                cells.append(_CELL.validate_python(row))
            except ValidationError:
                continue
        return cells

    def write_result(self, result: GridResult) -> None:
        """Writes the result unless one exists."""
        if not self.result_file.exists():
            write_atomically(self.result_file, _RESULT.dump_json(result, indent=2))

    def end(self, status: FinalStatus, reason: str = "") -> None:
        self.write_result(GridResult(status, reason))

    def result(self) -> GridResult | None:
        return read_record(_RESULT, self.result_file)


def grids_folder(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "grids"


def new_grid(runs_folder: Path) -> GridDirectory:
    """Returns a directory with a new id, which sorts by time; writes nothing."""
    return GridDirectory(grids_folder(runs_folder) / new_job_id())


def list_grids(runs_folder: Path) -> list[GridDirectory]:
    """Returns all grids of the folder that the person who asks sees, newest first."""
    return seen_jobs(map(GridDirectory, job_folders(grids_folder(runs_folder), "grid.json")))


def find_grid(runs_folder: Path, grid_id: str) -> GridDirectory:
    """Returns the grid with that id; raises `FtlabError` if the id is malformed, or of no grid that
    the person who asks sees."""
    if is_job_id(grid_id):
        grid = GridDirectory(grids_folder(runs_folder) / grid_id)
        if grid.request_file.exists() and seen_jobs([grid]):
            return grid
    raise FtlabError(
        f"There is no prompt grid '{grid_id[:80]}' in this runs folder; "
        "the playground's list shows those there are."
    )


@dataclass(frozen=True)
class Progress:
    """A grid's progress: cells `done` of `total`; `errors` are included in `done`.

    `reached` also counts unfinished answers, each as its share of `max_new_tokens`. `eta_seconds`
    is the remaining time on the device (`None`: not known yet; 0: the grid has ended), without the
    time spent waiting for other work. `waiting` is a sentence while nothing is answered, else "".
    """

    done: int
    errors: int
    total: int
    reached: float
    eta_seconds: float | None
    waiting: str = ""

    @property
    def fraction(self) -> float:
        """Finished fraction in [0, 1]."""
        return self.reached / self.total if self.total else 0.0


def read_progress(grid: GridDirectory) -> Progress:
    """Reads a grid's progress; raises `FtlabError` if its request cannot be read."""
    request = grid.request()
    total, cells = request.cells, grid.cells()
    done, errors = len(cells), sum(bool(cell.error) for cell in cells)
    if grid.status() not in OPEN:
        return Progress(done, errors, total, done, 0.0)
    process = grid.process()
    if process is None:
        return Progress(done, errors, total, done, request.expected_seconds, "Starting …")
    reached = min(float(total), max(float(done), process.reached))
    worked = max(process.worked_seconds, cells[-1].worked_seconds if cells else 0.0)
    eta = None
    if worked and reached >= min(_ENOUGH, total / 10):
        # Rather too long: long prompts come first, unfinished answers count as `max_new_tokens`.
        eta = worked / reached * (total - reached)
    elif request.expected_seconds is not None:
        left = request.expected_seconds - (START_SECONDS + worked if worked else 0.0)
        eta = left if left > 0 else None
    return Progress(done, errors, total, reached, eta, process.waiting)


MAX_PROMPTS = 200


def validate_grid(grid: GridRequest, runs_folder: Path) -> list[FieldError]:
    """Returns every invalid field with a sentence: the value, the rule and how to correct it.

    A pane that cannot answer is refused here; otherwise all its cells would fail minutes later.
    """
    return [
        # The prompt of this request is "": the grid has its own prompts.
        *(e for e in validate_generate(grid.request, MAX_GRID_PANES) if e.field != "prompt"),
        *_panes(grid, runs_folder),
        *_prompts(grid.prompts),
        *(validate_task(grid.task) if grid.task else []),
    ]


def _panes(grid: GridRequest, runs_folder: Path) -> Iterator[FieldError]:
    problems = line_up(grid.panes[:MAX_GRID_PANES], grid.request.model, runs_folder).problems
    for problem in dict.fromkeys(problems.values()):
        yield FieldError("panes", problem)
    if grid.request.histories:
        yield FieldError("histories", "A grid has no chats; leave out the histories.")
    panes = len(grid.panes)
    for name, values in (("labels", grid.labels), ("methods", grid.methods)):
        if values and len(values) != panes:
            yield FieldError(
                name, f"There are {len(values)} {name} for {panes} panes; give one a pane, or none."
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


def start_grid(request: GridRequest, runs_folder: Path) -> GridDirectory:
    """Starts a detached process that answers the grid; it continues if the page or app closes.

    Raises `InvalidRequest` with every invalid field, `FtlabError` if the folder cannot be written.
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
            grid.log_file,
            python_environment(needs_hub(completed)),
            str(grid.path),
        )
    except OSError as error:
        shutil.rmtree(grid.path, ignore_errors=True)
        raise FtlabError(
            f"The prompt grid could not be started in '{runs_folder}' ({error.strerror}); "
            "free some space, or make the folder writable."
        ) from None
    return grid


def needs_hub(request: GridRequest) -> bool:
    """Whether the process loads its base model or its task from the Hugging Face Hub."""
    from_hub = request.task is not None and request.task.kind == "hub"
    return from_hub or names_hub_model(request.request.model or "")


def _completed(request: GridRequest, runs_folder: Path) -> GridRequest:
    """The request with model, labels and methods, taken from the runs that exist now."""
    lineup = line_up(request.panes, request.request.model, runs_folder)
    sources = list(lineup.sources.values())  # every pane has one: the request is validated
    short = [source.label for source in sources]
    labels = [s.title if short.count(s.label) > 1 else s.label for s in sources]
    return replace(
        request,
        request=replace(request.request, model=lineup.model),
        labels=request.labels or tuple(labels),
        methods=request.methods or tuple(source.method for source in sources),
        owner=asking().name,
    )
