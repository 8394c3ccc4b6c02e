"""What the Playground tab shows and asks, worked out by plain functions without components."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from ftlab.errors import FieldError, InvalidRequest
from ftlab.methods.registry import BASE_METHOD, label_of, look_of
from ftlab.models.reference import BUNDLED_ID, model_label
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.protocol import (
    BASE,
    MAX_PANES,
    WAITING,
    GenerateRequest,
    PaneUpdate,
    cannot_answer,
    same_name,
)
from ftlab.runs.store import Run
from ftlab.ui.html import chip, escape, field_error, named
from ftlab.units import format_number

NOBODY = ""
"""The value of a pane that nobody answers in."""

EXAMPLES = 3
SECONDS_BETWEEN_SCREENS = 0.1
"""Text that comes faster is shown together: a page that is kept busy does not hear its Stop."""
_PLAIN_PROMPTS = (
    "What is the capital of France?",
    "Name three colours.",
    "Write one sentence about the sea.",
)
_CARET = '<span class="caret"></span>'
_RUNNING = chip("answering", "running")
_PENDING = chip("waiting", "running")
_STATUS = re.compile(r'<small class="status">.*?</small>')
_RUN_NUMBER = re.compile(r"\d{8}-\d{6}-(\w+-\d+)-\w+")
_STOPPED = chip("stopped", "mute")


# ---- which panes there are


@dataclass(frozen=True)
class Setup:
    """What the choices of the tab are, and what is chosen."""

    models: list[tuple[str, str]]
    model: str
    choices: list[tuple[str, str]]
    panes: tuple[str, ...]

    @property
    def has_runs(self) -> bool:
        return len(self.choices) > 2  # the base and nobody are always there


def setup(runs: Sequence[Run], model: str | None = None, panes: Sequence[str | None] = ()) -> Setup:
    """The choices for these runs; what was chosen is kept where it still can be.

    Without a model it is that of the newest finished run. Where no run is chosen, the newest
    sweep's first ones are.
    """
    able = [run for run in runs if not cannot_answer(run)]
    names = {same_name(run.spec.model): run.spec.model for run in reversed(able)}
    chosen = same_name(model) if model else next(iter(names), BUNDLED_ID)
    if chosen not in names:
        chosen = next(iter(names), BUNDLED_ID)
    own = [run for run in able if same_name(run.spec.model) == chosen]
    choices = [(label_of(BASE_METHOD), BASE), ("Nobody", NOBODY)]
    choices += [(run_label(run), run.run_id) for run in reversed(own)]
    known = {value for _, value in choices}
    kept = [pane if pane in known else NOBODY for pane in panes]
    kept = [str(pane) for pane in kept] + [NOBODY] * (MAX_PANES - len(kept))
    if not set(kept) - {BASE, NOBODY}:
        newest = own[-1].spec.sweep_id if own else ""
        first = [run.run_id for run in own if run.spec.sweep_id == newest][: MAX_PANES - 1]
        kept = [BASE, *first, *[NOBODY] * (MAX_PANES - 1 - len(first))]
    models = [(model_label(name), name) for name in names or [chosen]]
    return Setup(models, chosen, choices, tuple(kept))


def run_label(run: Run) -> str:
    """As in "LoRA r=4 · SQL · 25 Nov 14:02 · ab12-03": short enough for a quarter of the page.

    The time of the run id is said once, and its method is in the variant's name.
    """
    number = _RUN_NUMBER.fullmatch(run.run_id)
    made = time.strftime("%d %b %H:%M", time.localtime(run.spec.created_at))
    return " · ".join(
        [run.spec.label, run.spec.task.label, made, number[1] if number else run.run_id]
    )


def example_prompts(runs: Sequence[Run], panes: Sequence[str | None]) -> list[str]:
    """The first held-out prompts of the first run chosen; plain ones where there is no run."""
    by_id = {run.run_id: run for run in runs}
    for pane in panes:
        run = by_id.get(str(pane))
        samples = run.directory.samples() if run else []
        prompts = [str(row["prompt"][-1]["content"]) for row in samples if row.get("prompt")]
        if prompts:
            return list(dict.fromkeys(prompts))[:EXAMPLES]
    return list(_PLAIN_PROMPTS)


def short_prompt(prompt: str) -> str:
    """The last sentence, which holds the question, cut to a button's width."""
    sentences = re.split(r"(?<=[.!?])\s+|\n+", prompt.strip())
    return textwrap.shorten(sentences[-1], 46, placeholder=" …") or "…"


# ---- what is asked


def make_request(
    prompt: str | None,
    model: str | None,
    panes: Sequence[str | None],
    max_new_tokens: Any,
    temperature: Any,
    seed: Any,
) -> GenerateRequest:
    """The request of a form or of the API; a value of the wrong kind is left to the validation."""
    return GenerateRequest(
        panes=tuple(pane for pane in panes if pane),
        prompt=prompt or "",
        model=model or None,
        max_new_tokens=_whole(max_new_tokens),
        temperature=temperature,
        seed=_whole(seed),
    )


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_runs(runs: list[str] | str) -> list[str]:
    """Pane names from a list, or from text as in "base, RUN_ID"."""
    names = runs.split(",") if isinstance(runs, str) else runs
    return [name.strip() for name in map(str, names) if name.strip()]


def describe_settings(max_new_tokens: Any, temperature: Any, seed: Any) -> str:
    """As in "Greedy, 96 new tokens" or "Temperature 0.8, 96 new tokens, seed 0"."""
    tokens = f"{_whole(max_new_tokens)} new tokens"
    if not temperature:
        return f"Greedy, {tokens}"
    return f"Temperature {temperature:g}, {tokens}, seed {_whole(seed)}"


# ---- what is shown


@dataclass
class Screen:
    """The tab while one prompt is answered: sentences beside the fields, and HTML for each pane."""

    prompt: str = ""
    settings: str = ""
    choice: str = ""
    panes: list[str] = field(default_factory=lambda: [""] * MAX_PANES)


def show_errors(errors: Sequence[FieldError], panes: list[str]) -> Screen:
    """Each sentence beside the field it is about."""

    def of(*fields: str) -> str:
        return field_error(error.message for error in errors if error.field in fields)

    settings = of("max_new_tokens", "temperature", "seed")
    return Screen(of("prompt"), settings, of("panes", "model"), panes)


def stream(
    client: PlaygroundClient,
    runs: Sequence[Run],
    request: GenerateRequest,
    panes: Sequence[str | None],
) -> Iterator[Screen]:
    """The screen after each update. `panes` are all of the tab's, those with nobody in them too."""
    by_id = {run.run_id: run for run in runs}
    try:
        updates = client.generate(request)
    except InvalidRequest as error:
        yield show_errors(error.errors, [idle_html(pane, by_id) for pane in panes])
        return
    asked = PaneUpdate(0, "status", WAITING)
    shown = [
        pane_html(pane, by_id.get(pane), asked) if pane else idle_html(pane, by_id)
        for pane in panes
    ]
    yield Screen(panes=list(shown))
    places = [place for place, pane in enumerate(panes) if pane]
    drawn = time.monotonic()
    with closing(updates):
        for update in updates:
            place = places[update.pane]
            name = str(panes[place])
            shown[place] = pane_html(name, by_id.get(name), update, request.max_new_tokens)
            if update.kind != "text" or time.monotonic() - drawn >= SECONDS_BETWEEN_SCREENS:
                yield Screen(panes=list(shown))
                drawn = time.monotonic()


def idle_html(pane: str | None, by_id: dict[str, Run]) -> str:
    """A pane before anything was asked."""
    if not pane:
        return '<div class="answer"><small>Choose who answers here.</small></div>'
    return pane_html(pane, by_id.get(pane), None)


def pane_html(name: str, run: Run | None, update: PaneUpdate | None, limit: int = 0) -> str:
    """One pane: who answers, the proof, the answer, and its numbers."""
    method = run.spec.method if run else BASE_METHOD
    label = run.spec.label if run else label_of(BASE_METHOD) if name == BASE else name
    who = f'<span class="who" title="{escape(name)}">{named(method, label)}</span>'
    note = f'<p class="meta">{escape(update.note)}</p>' if update and update.note else ""
    return (
        f'<div class="proof" style="--c:{look_of(method).colour}">{who}{_proof(name, update)}</div>'
        f'<div class="answer">{_answer(update)}</div>{note}'
        f'<div class="foot">{_state(update, limit)}<span class="grow"></span>{_speed(update)}</div>'
    )


def stopped_html(shown: str | None) -> str:
    """A pane's HTML once its answer was stopped."""
    html = _STATUS.sub("", (shown or "").replace(_CARET, ""))
    return html.replace(_RUNNING, _STOPPED).replace(_PENDING, _STOPPED)


def _proof(name: str, update: PaneUpdate | None) -> str:
    if name == BASE:
        return chip("no adapter: weights as shipped", "mute")
    sha = update.adapter_sha256 if update else ""
    if not sha:
        return ""
    swap = update.swap_seconds if update else None
    put_on = f"; put on in {format_number(swap)} s" if swap is not None else ""
    return chip(f"sha {sha[:4]}…{sha[-4:]}", "seal", f"SHA-256 of the weights file: {sha}{put_on}")


def _answer(update: PaneUpdate | None) -> str:
    if update is None:
        return ""
    if update.kind == "error":
        return field_error([update.text])
    if update.kind == "status":
        return f'<small class="status">{escape(update.text)}</small>'
    if update.kind == "done" and not update.text:
        return "<small>The answer is empty.</small>"
    return f"{escape(update.text)}{_CARET if update.kind == 'text' else ''}"


def _state(update: PaneUpdate | None, limit: int) -> str:
    if update is None:
        return chip("nothing asked yet", "mute")
    if update.kind == "error":
        return chip("no answer", "bad")
    if update.kind != "done":
        return _RUNNING if update.kind == "text" else _PENDING
    if limit and update.tokens >= limit:
        return chip(f"{update.tokens} tokens, the limit", "warn")
    return chip(f"{update.tokens} tokens", "ok")


def _speed(update: PaneUpdate | None) -> str:
    if update is None or update.kind != "done":
        return ""
    speed = format_number(update.tokens_per_second, 1)
    first = format_number(update.first_token_seconds)
    return f"<span><b>{speed}</b> tok/s</span><span>first <b>{first}</b> s</span>"
