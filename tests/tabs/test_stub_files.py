"""gradio is imported without the stub files that it writes beside each component's source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

OWN = """
import gradio as gr

class Own(gr.Textbox):
    EVENTS = ["said"]

    def get_block_name(self):
        return "textbox"
"""


@pytest.mark.slow
def test_a_component_has_its_events_and_gets_no_stub_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    subprocess.run(
        [sys.executable, "-c", "import ftlab.tabs, own\nown.Own.said, own.Own.change"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        check=True,
        timeout=120,
    )
    assert not (tmp_path / "own.pyi").exists()
