"""The Learn tab: shows what each method does, with interactive examples."""

from __future__ import annotations

import gradio as gr

from ftlab.tabs.context import AppContext, Links, TabSpec, opened
from ftlab.tabs.learn import change, full, merge, methods, nf4, photo_filter, soft_prompt

_LORA = "LoRA: a photo filter"
_OTHERS = (
    ("Full fine-tuning", full.build),
    ("Prompt tuning", soft_prompt.build),
    ("QLoRA: 16 levels", nf4.build),
    ("Merging", merge.build),
    ("All methods", methods.build),
)


def build(context: AppContext, links: Links) -> None:
    """Builds the tab, with one inner tab per lesson; a lesson is computed when it is opened."""
    entered = [opened()]
    with gr.Tabs(elem_classes="ft-lessons", overflow_behavior="wrap"):
        with gr.Tab(_LORA) as first:
            entered.append(first.select)
            with gr.Row(elem_classes="ft-work ft-lesson"):
                with gr.Column(scale=1, min_width=320, elem_classes="ft-sheet"):
                    photo_filter.build(entered, context.access)
                with gr.Column(scale=1, min_width=320, elem_classes="ft-sheet"):
                    change.build(context, entered)
        for name, build_panel in _OTHERS:
            with gr.Tab(name):
                build_panel(context)


TAB = TabSpec("Learn", 6, build)
