"""What a grid may ask, said in sentences. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftlab.errors import FieldError
from ftlab.playground.grid.record import GridRequest
from ftlab.playground.panes import line_up
from ftlab.playground.validation import MAX_CHARACTERS, validate_generate
from ftlab.tasks.reference import validate as validate_task

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
