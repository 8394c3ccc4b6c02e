"""`transfer`: runs what is missing, and says and writes what both tables agree on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.maintain.__main__ import main
from ftlab.maintain.transfer import BEGIN, END
from ftlab.records.store import RunStore
from ftlab.records.transfer import _PROTOCOL, Protocol, read_transfer
from tests.records.test_transfer import PROTOCOL, few, run_all


def command(folder: Path, protocol: Protocol, *more: str) -> list[str]:
    file = folder / "protocol.json"
    file.write_bytes(_PROTOCOL.dump_json(protocol))
    return ["transfer", "--protocol", str(file), "--runs-dir", str(folder / "runs"), *more]


def test_what_is_there_is_shown_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = few()
    run_all(tmp_path / "runs", protocol)
    out = tmp_path / "found.json"
    assert main(command(tmp_path, protocol, "--show", "--write", str(out))) == 0
    assert "score against the published default rows' test_accuracy: Spearman 1.00" in (
        capsys.readouterr().out
    )
    written = read_transfer(out)
    assert written is not None
    assert written.agreements["score"]["default"].count == 6
    assert "lora" in written.rows


def test_the_tables_are_written_between_the_marks_of_a_document(tmp_path: Path) -> None:
    protocol = few()
    run_all(tmp_path / "runs", protocol)
    document = tmp_path / "evidence.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert main(command(tmp_path, protocol, "--show", "--document", str(document))) == 0
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| column here |")
    assert text.endswith(f"{END}\nafter\n")
    assert "| score | test_accuracy | 1.00 (95 % interval" in text
    assert "### By forgetting" in text
    assert "old" not in text


def test_without_any_run_the_missing_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, few(), "--show")) == 1
    said = capsys.readouterr().out
    assert "0 of 6 methods are measured." in said
    assert "Missing: full, lora" in said


@pytest.mark.parametrize("text", ["", "{", json.dumps({"question": "?"})])
def test_a_protocol_that_cannot_be_read_is_named(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.json").write_text(text)
    arguments = ["--protocol", str(tmp_path / "p.json"), "--show", "--runs-dir", str(tmp_path)]
    assert main(["transfer", *arguments]) == 2
    assert "p.json cannot be read" in capsys.readouterr().err


@pytest.mark.model
def test_what_is_missing_is_trained_and_nothing_is_done_twice(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (method for method in PROTOCOL.methods if method.id in ("ia3", "lora"))
    for methods in (one,), (one, two), (one, two):
        protocol = replace(
            PROTOCOL, methods=methods, seeds=(0,), steps=1, eval_examples=2, model=str(tiny_model)
        )
        assert main(command(tmp_path, protocol)) == 0
        count = len(methods)
        assert f"{count} of {count} methods are measured." in capsys.readouterr().out
    runs = [run for run in RunStore(tmp_path / "runs").runs() if not run.spec.is_base]
    assert sorted(run.spec.method for run in runs) == ["ia3", "lora"]
