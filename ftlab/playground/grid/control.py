"""Starts a prompt grid for page, API and command line. No torch."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from ftlab.environment import python_environment, start_detached
from ftlab.errors import FtlabError, InvalidRequest
from ftlab.models.reference import names_hub_model
from ftlab.playground.grid.record import GridDirectory, GridRequest, new_grid
from ftlab.playground.grid.validation import validate_grid
from ftlab.playground.panes import PaneSource, line_up
from ftlab.runs.closed import check_open


def start_grid(request: GridRequest, runs_folder: Path) -> GridDirectory:
    """Starts a process that answers the grid and belongs to nobody, so it outlives page and app.

    Raises `InvalidRequest` with every wrong field, `FtlabError` if the folder cannot be written.
    """
    check_open(runs_folder)
    errors = validate_grid(request, runs_folder)
    if errors:
        raise InvalidRequest(errors)
    grid = new_grid(runs_folder.resolve())
    try:
        completed = _completed(request, runs_folder)
        grid.write_request(completed)
        start_detached(
            "ftlab.playground.grid.worker",
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
