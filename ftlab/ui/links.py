"""How one tab leads into another: a point of a figure to its run, a run to Experiment's form."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

RESULTS, EXPERIMENT = "results", "experiment"


@dataclass(frozen=True)
class Links:
    """Written by the tab that leads, listened to (`.change`) by the one that is led to.

    `run` holds the id of the run to open in Results; `clone` a tuple of run ids whose settings
    Experiment takes over. Whoever writes one also returns `gr.Tabs(selected=…)` to `tabs`. An
    empty value asks for nothing: it lets the same run be asked for twice.
    """

    tabs: gr.Tabs
    run: gr.State
    clone: gr.State

    @classmethod
    def between(cls, tabs: gr.Tabs) -> Links:
        return cls(tabs, run=gr.State(""), clone=gr.State(()))
