"""Sends requests to an engine and collects the updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftlab.playground.panes import find_source
from ftlab.playground.requests import GenerateRequest, PaneUpdate

if TYPE_CHECKING:
    import torch

    from ftlab.playground.attach import Attached
    from ftlab.playground.engine import Engine


def attached(engine: Engine, name: str) -> Attached:
    """The source of that name, attached without the engine's cache."""
    from ftlab.playground.attach import attach

    return attach(engine.base, find_source(engine.runs_folder, name))


def logits(model: Any) -> torch.Tensor:
    """The logits of ten fixed tokens."""
    import torch

    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.arange(10)[None]).logits
    return found


def updates_of(engine: Engine, request: GenerateRequest) -> list[PaneUpdate]:
    updates: list[PaneUpdate] = []
    engine.answer(request, updates.append, lambda: None)
    return updates


def finals(engine: Engine, request: GenerateRequest, *panes: str) -> list[PaneUpdate]:
    """The last update of each pane; every pane ends exactly once."""
    if panes:
        request = replace(request, panes=panes)
    ends = [update for update in updates_of(engine, request) if update.is_final]
    assert sorted(update.pane for update in ends) == list(range(len(request.panes)))
    return sorted(ends, key=lambda update: update.pane)


def texts(engine: Engine, request: GenerateRequest, *panes: str) -> list[str]:
    """The answers; all panes have one."""
    found = finals(engine, request, *panes)
    assert [update.kind for update in found] == ["done"] * len(found), [u.text for u in found]
    return [update.text for update in found]


def answers_of(
    engine: Engine, request: GenerateRequest, prompts: Sequence[str]
) -> dict[tuple[int, int], PaneUpdate]:
    """The last updates by prompt and pane; each of them ends exactly once."""
    ends: dict[tuple[int, int], PaneUpdate] = {}

    def send(prompt: int, update: PaneUpdate) -> None:
        if update.is_final:
            assert (prompt, update.pane) not in ends
            ends[prompt, update.pane] = update

    engine.answer_each(request, prompts, send, lambda: None)
    assert len(ends) == len(prompts) * len(request.panes)
    return ends
