"""What the Playground tab offers and asks, worked out by plain functions without components."""

from __future__ import annotations

import re
import shutil
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FieldError, FtlabError
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
from ftlab.playground.requests import MAX_PANES, PRECISIONS, GenerateRequest
from ftlab.playground.uploaded import bring_adapter
from ftlab.records.store import Run
from ftlab.tabs.playground.session import CHAT, COMPLETION, SINGLE
from ftlab.tabs.widgets import chip, field_error
from ftlab.tasks.reference import TaskReference

NOBODY = ""
"""The value of a pane that nobody answers in."""

EXAMPLES = 3
LONG_TEXT = 120
"""Characters from which a prompt's last line is the text that something is to be done with."""
FIRST_PANES = 4
"""Panes that are open at first: the base and three others."""

MODES = [("Single prompt", SINGLE), ("Chat", CHAT), ("Completion", COMPLETION)]
_PLAIN_PROMPTS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
)

SETTINGS = (
    "precision", "max_new_tokens", "temperature", "top_p", "repetition_penalty", "seed", "system",
)  # fmt: skip
"""The fields of the folded settings, in the order of their components."""


@dataclass(frozen=True)
class Setup:
    """What the choices of the tab are, and what is chosen."""

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
    """The choices for these runs; what was chosen is kept where it still can be.

    Without a model it is that of the newest finished run. Where nobody but the base is chosen, the
    newest sweep's first runs are, and where there are none, the adapters that ship with ftlab.
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
    if not set(kept) - {BASE, NOBODY}:
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
    """The setup for a visitor who comes back: what was chosen is kept.

    The adapters that ship stand in for runs, so the first ones that are done take their place.
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
    """Held-out prompts of the panes' tasks; one of each where there are several."""
    tasks = list(dict.fromkeys(source.task for source in sources if source.task))
    each = EXAMPLES if len(tasks) == 1 else 1
    prompts = [
        ExamplePrompt(_short(task if len(tasks) > 1 else None, text), text)
        for task in tasks[:EXAMPLES]
        for text in held_out.prompts(task, each)
    ]
    return prompts or [ExamplePrompt(text, text) for text in _PLAIN_PROMPTS]


def _short(task: TaskReference | None, prompt: str) -> str:
    """What is wanted, cut to a button's width: the last sentence, or the line above a long text."""
    lines = prompt.strip().splitlines() or [""]
    wanted = lines[0] if len(lines) > 1 and len(lines[-1]) > LONG_TEXT else lines[-1]
    sentence = re.split(r"(?<=[.!?])\s+", wanted)[-1]
    words = textwrap.shorten(sentence, 28 if task else 46, placeholder=" …") or "…"
    return f"{task.label}: {words}" if task else words


# ---- what is asked


def make_request(
    prompt: str | None,
    model: str | None,
    mode: Any,
    values: dict[str, Any],
    panes: Sequence[str] = (),
) -> GenerateRequest:
    """The request of a form or of the API; a value of the wrong kind is left to the validation."""
    return GenerateRequest(
        panes=tuple(panes),
        prompt=prompt or "",
        model=model or None,
        precision=values["precision"],
        mode="chat" if mode in (SINGLE, CHAT) else mode,
        system=values["system"] or "",
        max_new_tokens=_whole(values["max_new_tokens"]),
        temperature=values["temperature"],
        top_p=values["top_p"],
        repetition_penalty=values["repetition_penalty"],
        seed=_whole(values["seed"]),
    )


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def describe_settings(values: dict[str, Any]) -> str:
    """As in "Base in 16 bits, greedy, 96 new tokens" or "…, temperature 0.8, seed 0"."""
    parts = [f"Base in {PRECISIONS.get(values['precision'], '?')}"]
    temperature = values["temperature"]
    if temperature:
        parts.append(f"temperature {temperature:g}")
        parts += [f"top-p {values['top_p']:g}"] if values["top_p"] not in (None, 1) else []
        parts.append(f"seed {_whole(values['seed'])}")
    else:
        parts.append("greedy")
    if values["repetition_penalty"] not in (None, 1):
        parts.append(f"repetition penalty {values['repetition_penalty']:g}")
    parts.append(f"{_whole(values['max_new_tokens'])} new tokens")
    if (values["system"] or "").strip():
        parts.append("own system prompt")
    return ", ".join(parts)


PRECISION_NOTE = (
    "In 32 bits the same seed gives the same answer whatever the other panes hold. In 16 and 4 "
    "bits sums are rounded by how many rows are computed together, so an answer may differ."
)


# ---- what is shown


def errors_of(errors: Sequence[FieldError], *fields: str) -> str:
    """The sentences on these fields, to stand beside them."""
    return field_error(error.message for error in errors if error.field in fields)


def engine_html(client: PlaygroundClient) -> str:
    """What the engine holds now."""
    held = client.resident_bytes()
    if held is None:
        return chip("engine not loaded", "mute", "It starts with the first prompt.")
    hint = "Memory of the generating process; it is given back after five idle minutes."
    return chip(f"engine holds {format_bytes(held)}", "measured", hint)


# ---- adapters from elsewhere


def bring_files(
    files: Sequence[str], runs_folder: Path, model: str, access: Access = EVERYTHING
) -> PaneSource:
    """Keeps a zip, or an adapter's two files as they were chosen, to answer on `model`.

    Raises `FtlabError` for what is no adapter, and for one that does not fit the base. One that
    fits and names another base is kept: a person may vouch for it.
    """
    source = _bring(files, runs_folder, access, model)
    problem = "" if base_doubt(source, model) else wrong_base(source, model)
    if problem:
        raise FtlabError(problem)
    return source


def free_place(chosen: Sequence[str | None], count: int) -> tuple[int, int] | None:
    """The pane for a newcomer, and how many are open with it: the first where nobody answers.

    Where every open pane is taken one more is opened; where all are, somebody has to choose.
    """
    place = next((place for place in range(count) if not chosen[place]), count)
    return (place, max(count, place + 1)) if place < MAX_PANES else None


NO_PANE = -1
"""The choice of no pane at all, where six are taken."""


def room_choices(
    chosen: Sequence[str | None], choices: Sequence[tuple[str, str]]
) -> list[tuple[str, int]]:
    """Whom a newcomer may take the pane of, as in "2: SQL specialist"; or nobody's."""
    titles = {value: title.partition(" · ")[0] for title, value in choices}
    panes = [(f"{n + 1}: {titles.get(pane or '', pane)}", n) for n, pane in enumerate(chosen)]
    return [*panes, ("None, keep it in the lists", NO_PANE)]


def _bring(files: Sequence[str], runs_folder: Path, access: Access, model: str) -> PaneSource:
    paths = [Path(file) for file in files]
    if len(paths) == 1 and paths[0].suffix.lower() not in (".json", ".safetensors"):
        return bring_adapter(paths[0], runs_folder, access=access, base=model)
    with tempfile.TemporaryDirectory() as folder:
        for path in paths:
            shutil.copyfile(path, Path(folder) / path.name)
        missing = [n for n in (CONFIG_FILE, WEIGHTS_FILE) if not (Path(folder) / n).is_file()]
        if missing:
            raise FtlabError(
                f"{missing[0]} is not among the files; choose {CONFIG_FILE} and {WEIGHTS_FILE} "
                "together, or a .zip with both."
            )
        label = "Adapter brought along"
        return bring_adapter(Path(folder), runs_folder, label, access, model)
