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


@pytest.mark.parametrize(("before", "written"), [("import ftlab.tabs", False), ("", True)])
def test_a_component_has_its_events_and_gets_a_stub_file_only_without_ftlab(
    tmp_path: Path, before: str, written: bool
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    subprocess.run(
        [sys.executable, "-c", f"{before}\nimport own\nown.Own.said, own.Own.change"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        check=True,
        timeout=120,
    )
    assert (tmp_path / "own.pyi").exists() == written
