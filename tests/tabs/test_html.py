"""The shared pieces of HTML, and the header."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest

from ftlab.methods.registry import METHODS, look_of
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
    ],
)
def test_text_from_outside_stays_text(piece: str) -> None:
    assert "<img" not in piece
    assert "&lt;img" in piece


def test_names_wear_the_methods_colour() -> None:
    assert look_of("lora").colour in widgets.named("lora", "mine")


def test_a_heading_keeps_the_markup_it_is_given() -> None:
    assert "<i>kept</i>" in widgets.heading(widgets.Markup("<i>kept</i>"))


def test_a_heading_keeps_number_and_percent_sign_together() -> None:
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


def test_no_wrong_field_leaves_nothing_behind() -> None:
    assert widgets.field_error([]) == ""


@pytest.mark.parametrize(("count", "words"), [(0, "0 runs"), (1, "1 run"), (1200, "1,200 runs")])
def test_plural(count: int, words: str) -> None:
    assert widgets.plural(count, "run") == words


def test_the_header_says_what_runs_and_what_waits(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "running")
    make_run(tmp_path, "full", "queued")
    bar = header.header_html(RunStore(tmp_path).runs())
    assert "1 running" in bar
    assert "1 queued" in bar
    assert "GB" in bar
    assert "SmolLM2-135M-Instruct (bundled)" in bar


def test_the_header_of_an_idle_machine() -> None:
    assert "nothing running" in header.header_html([])


def _write_safetensors(path: Path, dtype: str, shape: list[int]) -> None:
    size = math.prod(shape) * DTYPE_BYTES[dtype]
    entry = {"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}, "__metadata__": {}}
    text = json.dumps(entry).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_parameters_are_counted_from_the_files_headers(tmp_path: Path) -> None:
    _write_safetensors(tmp_path / "a.safetensors", "BF16", [3, 5])
    _write_safetensors(tmp_path / "b.safetensors", "F32", [7])
    assert header.count_parameters(tmp_path) == 22


@pytest.mark.parametrize("dtype", ["U8", "I8"])
def test_packed_weights_are_not_counted(tmp_path: Path, dtype: str) -> None:
    _write_safetensors(tmp_path / "a.safetensors", dtype, [3, 5])
    assert header.count_parameters(tmp_path) is None


def test_a_broken_weight_file_has_no_count(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"torn")
    assert header.count_parameters(tmp_path) is None
