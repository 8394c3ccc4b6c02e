"""Choices, requests and uploads of the Playground tab, as plain functions without components."""

from __future__ import annotations

import re
import shutil
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.units import format_bytes
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.models.reference import BUNDLED_ID, model_label
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import (
    BASE,
    CONFIG_FILE,
    SHIPPED,
    WEIGHTS_FILE,
    PaneSource,
    all_sources,
    base_doubt,
    same_name,
    wrong_base,
)
from ftlab.playground.requests import MAX_PANES, GenerateRequest
from ftlab.playground.uploaded import upload_adapter
from ftlab.records.store import Run
from ftlab.settings.generation import PRECISIONS, GenerationSettings
from ftlab.settings.schema import fields_of, plain_number, read_settings
from ftlab.tabs.playground.session import CHAT, COMPLETION, SINGLE
from ftlab.tabs.widgets import chip, field_error
from ftlab.tasks.reference import TaskReference

NOBODY = ""
"""The value of an empty pane."""

EXAMPLES = 3
LONG_TEXT = 120
"""A longer last line of a prompt is its input text; the instruction is the first line."""
FIRST_PANES = 4
"""Number of open panes at first: the base and three others."""

MODES = [("Single prompt", SINGLE), ("Chat", CHAT), ("Completion", COMPLETION)]
_PLAIN_PROMPTS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
)

SETTINGS = tuple(name for name in fields_of(GenerationSettings) if name != "mode")
"""The fields of the Settings accordion, in the order of their components."""


@dataclass(frozen=True)
class Setup:
    """The choices of the tab and the current selection."""

    models: list[tuple[str, str]]
    model: str
    choices: list[tuple[str, str]]
    panes: tuple[str, ...]
    has_runs: bool


def setup(
    runs: Sequence[Run],
    runs_folder: Path,
    model: str | None = None,
    panes: Sequence[str | None] = (),
) -> Setup:
    """Returns the choices for these runs; keeps the current selection where it is still valid.

    The default model is that of the newest finished run. If nothing is selected, or only the base
    is left of the selection, the panes get the first runs of the newest sweep, or the shipped
    adapters if there are no runs.
    """
    sources = all_sources(runs, runs_folder)
    names = {same_name(s.model): s.model for s in sources if s.sweep_id}
    names.setdefault(same_name(BUNDLED_ID), BUNDLED_ID)
    chosen = same_name(model) if model else next(iter(names))
    if chosen not in names:
        chosen = next(iter(names))
    fitting = [s for s in sources if not wrong_base(s, chosen) or base_doubt(s, chosen)]
    choices = [("Nobody", NOBODY), *((source.title, source.name) for source in fitting)]
    known = {value for _, value in choices}
    kept = [str(pane) if pane in known else NOBODY for pane in panes]
    is_whole = any(panes) and all(not pane or pane in known for pane in panes)
    if not is_whole and not set(kept) - {BASE, NOBODY}:
        kept = [BASE, *_first(fitting)]
    kept = [*kept, *[NOBODY] * MAX_PANES][:MAX_PANES]
    models = [(model_label(name), same) for same, name in names.items()]
    return Setup(models, chosen, choices, tuple(kept), any(s.sweep_id for s in fitting))


def setup_again(
    runs: Sequence[Run],
    runs_folder: Path,
    had_runs: bool,
    model: str | None,
    panes: Sequence[str | None],
) -> Setup:
    """Returns the setup when the tab is opened again; keeps the selection.

    Shipped adapters are placeholders for runs: the first finished runs replace them.
    """
    if not had_runs and all(not p or p == BASE or p.startswith(SHIPPED) for p in panes):
        now = setup(runs, runs_folder)
        if now.has_runs:
            return now
    return setup(runs, runs_folder, model, panes)


def _first(sources: Sequence[PaneSource]) -> list[str]:
    runs = [source for source in sources if source.sweep_id]
    if not runs:
        shipped = [source.name for source in sources if source.name.startswith(SHIPPED)]
        return shipped[: FIRST_PANES - 1]
    newest = [source for source in runs if source.sweep_id == runs[0].sweep_id]
    return [source.name for source in reversed(newest)][: FIRST_PANES - 1]


@dataclass(frozen=True)
class ExamplePrompt:
    label: str
    text: str


def example_prompts(sources: Sequence[PaneSource], held_out: HeldOut) -> list[ExamplePrompt]:
    """Returns test prompts of the panes' tasks; one per task if there are several tasks."""
    tasks = list(dict.fromkeys(source.task for source in sources if source.task))
    each = EXAMPLES if len(tasks) == 1 else 1
    prompts = [
        ExamplePrompt(_short(task if len(tasks) > 1 else None, text), text)
        for task in tasks[:EXAMPLES]
        for text in held_out.prompts(task, each)
    ]
    return prompts or [ExamplePrompt(text, text) for text in _PLAIN_PROMPTS]


def _short(task: TaskReference | None, prompt: str) -> str:
    """Shortens the instruction for a button: the last sentence, or the line above a long text."""
    lines = prompt.strip().splitlines() or [""]
    wanted = lines[0] if len(lines) > 1 and len(lines[-1]) > LONG_TEXT else lines[-1]
    sentence = re.split(r"(?<=[.!?])\s+", wanted)[-1]
    words = textwrap.shorten(sentence, 28 if task else 46, placeholder=" …") or "…"
    return f"{task.label}: {words}" if task else words


# ---- requests


def make_request(
    prompt: str | None,
    model: str | None,
    mode: Any,
    values: dict[str, Any],
    panes: Sequence[str] = (),
) -> GenerateRequest:
    """Builds the request of a form or of the API; its bounds are checked when it is sent.

    Raises `InvalidRequest` for values of a wrong type.
    """
    errors: list[FieldError] = []
    given = {**values, "mode": "chat" if mode in (SINGLE, CHAT) else mode}
    settings = read_settings(GenerationSettings, given, errors)
    if errors:
        raise InvalidRequest(errors)
    return GenerateRequest(tuple(panes), prompt or "", model or None, **settings)


def describe_settings(values: dict[str, Any]) -> str:
    """Returns, for example, "Base in 16 bits, greedy, 96 new tokens"."""
    parts = [f"Base in {PRECISIONS.get(values['precision'], '?')}"]
    temperature = values["temperature"]
    if temperature:
        parts.append(f"temperature {temperature:g}")
        parts += [f"top-p {values['top_p']:g}"] if values["top_p"] not in (None, 1) else []
        parts.append(f"seed {values['seed'] or 0:.10g}")
    else:
        parts.append("greedy")
    if values["repetition_penalty"] not in (None, 1):
        parts.append(f"repetition penalty {values['repetition_penalty']:g}")
    tokens = values["max_new_tokens"]
    parts.append(f"{'?' if tokens is None else plain_number(tokens)} new tokens")
    if (values["system"] or "").strip():
        parts.append("own system prompt")
    return ", ".join(parts)


PRECISION_NOTE = (
    "In 32 bits the same seed gives the same answer whatever the other panes hold. In 16 and 4 "
    "bits sums are rounded by how many rows are computed together, so an answer may differ."
)


# ---- display


def errors_of(errors: Sequence[FieldError], *fields: str) -> str:
    """HTML: the error messages of these fields."""
    return field_error(error.message for error in errors if error.field in fields)


def engine_html(client: PlaygroundClient) -> str:
    """HTML: the memory that the engine holds now."""
    held = client.resident_bytes()
    if held is None:
        return chip("engine not loaded", "mute", "It starts with the first prompt.")
    hint = "Memory of the generating process; it is given back after five idle minutes."
    return chip(f"engine holds {format_bytes(held)}", "measured", hint)


# ---- uploaded adapters


def upload_files(
    files: Sequence[str], runs_folder: Path, model: str, access: Access = EVERYTHING
) -> PaneSource:
    """Saves an uploaded zip, or the two files of an adapter, to use it on the base `model`.

    Raises `FtlabError` if it is not an adapter or does not fit the base. An adapter that fits but
    names another base is kept: the user may confirm that it belongs to this base.
    """
    source = _uploaded(files, runs_folder, access, model)
    problem = "" if base_doubt(source, model) else wrong_base(source, model)
    if problem:
        raise FtlabError(problem)
    return source


def free_place(chosen: Sequence[str | None], count: int) -> tuple[int, int] | None:
    """Returns the pane for a new adapter (the first empty one) and the new number of open panes.

    If all open panes are in use, one more is opened. `None` if all `MAX_PANES` are in use.
    """
    place = next((place for place in range(count) if not chosen[place]), count)
    return (place, max(count, place + 1)) if place < MAX_PANES else None


NO_PANE = -1
"""The choice of no pane, offered if all six are in use."""


def room_choices(
    chosen: Sequence[str | None], choices: Sequence[tuple[str, str]]
) -> list[tuple[str, int]]:
    """Returns the panes that a new adapter may replace, as "2: SQL specialist", and `NO_PANE`."""
    titles = {value: title.partition(" · ")[0] for title, value in choices}
    panes = [(f"{n + 1}: {titles.get(pane or '', pane)}", n) for n, pane in enumerate(chosen)]
    return [*panes, ("None, keep it in the lists", NO_PANE)]


def _uploaded(files: Sequence[str], runs_folder: Path, access: Access, model: str) -> PaneSource:
    paths = [Path(file) for file in files]
    if len(paths) == 1 and paths[0].suffix.lower() not in (".json", ".safetensors"):
        return upload_adapter(paths[0], runs_folder, access=access, base=model)
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            shutil.copyfile(path, Path(folder) / path.name)
        missing = [n for n in (CONFIG_FILE, WEIGHTS_FILE) if not (Path(folder) / n).is_file()]
        if missing:
            raise FtlabError(
                f"{missing[0]} is not among the files; choose {CONFIG_FILE} and {WEIGHTS_FILE} "
                "together, or a .zip with both."
            )
        return upload_adapter(Path(folder), runs_folder, "Uploaded adapter", access, model)
