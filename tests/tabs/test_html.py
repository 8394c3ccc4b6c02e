"""The shared pieces of HTML, and the header."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import gradio as gr
import pytest

from ftlab.methods.registry import METHODS
from ftlab.models.files import DTYPE_BYTES
from ftlab.records.store import RunStore
from ftlab.tabs import header, widgets
from tests.fakes import make_run

HOSTILE = '<img src=x onerror=alert(1)>"'


@pytest.mark.parametrize(
    "piece",
    [
        widgets.chip(HOSTILE, title=HOSTILE),
        widgets.named("lora", HOSTILE),
        widgets.heading(HOSTILE, sub=HOSTILE),
        widgets.blank(HOSTILE, HOSTILE),
        widgets.field_error([HOSTILE]),
        widgets.note_html(HOSTILE, "status"),
        widgets.table([HOSTILE], [[HOSTILE]]),
    ],
)
def test_text_from_outside_stays_text(piece: str) -> None:
    assert "<img" not in piece
    assert "&lt;img" in piece


def test_heading_and_table_keep_markup_and_number_and_percent_sign_stay_together() -> None:
    kept = widgets.Markup("<i>kept</i>")
    assert kept in widgets.heading(kept)
    assert f'<td class="l">{kept}</td><td>1</td>' in widgets.table(["a", "n"], [[kept, "1"]])
    assert "5\u00a0%" in widgets.heading("5 % of all")


def test_a_warning_is_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(widgets.gr, "Warning", lambda text, **kw: shown.append(text))
    widgets.warn(f"There is no file '{HOSTILE}'.")
    assert "<img" not in shown[0]
    assert "&lt;img" in shown[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_swatch_has_the_colour_of_its_method(method: str) -> None:
    assert METHODS[method].look.colour in widgets.swatch(method)
    assert METHODS[method].look.colour in widgets.named(method, "mine")


def test_without_words_there_is_no_element() -> None:
    assert widgets.field_error([]) == widgets.note_html("") == ""


@pytest.mark.parametrize(("count", "words"), [(0, "0 runs"), (1, "1 run"), (1200, "1,200 runs")])
def test_plural(count: int, words: str) -> None:
    assert widgets.plural(count, "run") == words


def test_the_header_says_what_runs_and_what_waits(tmp_path: Path) -> None:
    assert "nothing running" in header.header_html([])
    make_run(tmp_path, "lora", "running")
    make_run(tmp_path, "full", "queued")
    bar = header.header_html(RunStore(tmp_path).runs())
    assert "1 running" in bar
    assert "1 queued" in bar
    assert "GB" in bar
    assert "SmolLM2-135M-Instruct (bundled)" in bar


def _write_safetensors(path: Path, dtype: str, shape: list[int]) -> None:
    size = math.prod(shape) * DTYPE_BYTES[dtype]
    entry = {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}, "__metadata__": {}}
    text = json.dumps(entry).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_parameters_are_counted_from_the_files_headers(tmp_path: Path) -> None:
    _write_safetensors(tmp_path / "a.safetensors", "BF16", [3, 5])
    _write_safetensors(tmp_path / "b.safetensors", "F32", [7])
    assert header.count_parameters(tmp_path) == 22
    for packed in ("U8", "I8"):
        _write_safetensors(tmp_path / "b.safetensors", packed, [7])
        assert header.count_parameters(tmp_path) is None
    (tmp_path / "b.safetensors").write_bytes(b"torn")
    assert header.count_parameters(tmp_path) is None


def test_the_file_that_gradio_draws_figures_with_is_known() -> None:
    folder = Path(gr.__file__).parent / "templates" / "frontend"
    assert (folder / widgets.drawing_library()).is_file()
