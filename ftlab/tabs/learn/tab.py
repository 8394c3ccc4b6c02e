"""The Learn tab: shows what each method does, with interactive examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.basics.words import shorten
from ftlab.tabs.address import address_of
from ftlab.tabs.context import QUIET, AppContext, Asked, Links, TabSpec, each_opened, taken
from ftlab.tabs.learn import (
    change,
    claims,
    full,
    merge,
    methods,
    nf4,
    photo_filter,
    soft_prompt,
    transfer,
)
from ftlab.tabs.widgets import H, warn


@dataclass(frozen=True)
class Lesson:
    """`build` fills the lesson's own inner tab; it is computed when that is opened."""

    id: str
    name: str
    build: Callable[[AppContext, Links], None]


def _alone(build: Callable[[AppContext], None]) -> Callable[[AppContext, Links], None]:
    """A lesson that leads to no other tab."""
    return lambda context, links: build(context)


def _build_lora(context: AppContext) -> None:
    """The first lesson: computed as Learn is opened too, since it is shown then."""
    entered = each_opened()
    with gr.Row(elem_classes="ft-work ft-lesson"):
        with gr.Column(scale=1, min_width=320, elem_classes="ft-sheet"):
            photo_filter.build(entered, context.access)
        with gr.Column(scale=1, min_width=320, elem_classes="ft-sheet"):
            change.build(context, entered)


LESSONS = (
    Lesson("lora", "LoRA: a photo filter", _alone(_build_lora)),
    Lesson("full", "Full fine-tuning", _alone(full.build)),
    Lesson("prompt_tuning", "Prompt tuning", _alone(soft_prompt.build)),
    Lesson("qlora", "QLoRA: 16 levels", _alone(nf4.build)),
    Lesson("merging", "Merging", _alone(merge.build)),
    Lesson("methods", "All methods", _alone(methods.build)),
    Lesson("small_and_large", "Small and large", _alone(transfer.build)),
    Lesson("claims", "Claims of papers", claims.build),
)


def build(context: AppContext, links: Links) -> None:
    """Builds the tab, with one inner tab per lesson."""
    with gr.Tabs(elem_classes="ft-lessons", overflow_behavior="wrap") as row:
        for lesson in LESSONS:
            with gr.Tab(lesson.name, id=lesson.id):
                H(f"<i {address_of(lesson=lesson.id)}></i>", elem_classes="ft-carrier")
                lesson.build(context, links)

    def follow(link: Asked[str] | None) -> Any:
        asked = taken(link)
        if asked is None:
            return gr.skip()
        known = [lesson.id for lesson in LESSONS]
        if asked and asked not in known:
            warn(f"There is no lesson '{shorten(asked, 60)}'; the lessons are {', '.join(known)}.")
        return gr.Tabs(selected=asked if asked in known else known[0])

    link = links.asked["lesson"]
    link.change(follow, link, row, **QUIET)


TAB = TabSpec("Learn", 6, build, address=("lesson",))
