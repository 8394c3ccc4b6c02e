"""What the server keeps of each open page: its states, and no copy of its components.

Gradio keeps the configuration and the last value of every component for each page, so that a deep
link can rebuild it. The gate refuses deep links, so nothing here needs them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState, StateHolder


class StatesOnly(SessionState):
    """The values of a page's `gr.State` components."""

    def __init__(self, blocks: gr.Blocks) -> None:
        # Gradio copies the components that are in `blocks`: none.
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks=()))  # type: ignore[arg-type]

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Sessions(StateHolder):
    """The states of every open page, by its session; gradio drops the oldest ones."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = StatesOnly(self.blocks)
        return super().__getitem__(session_id)
