"""`transfer`: runs what is missing, and says and writes what both tables agree on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.maintain.__main__ import main
from ftlab.maintain.transfer import BEGIN, END
from ftlab.methods.variant import Variant
from ftlab.records.store import RunStore, sweep_data
from ftlab.records.transfer import _PROTOCOL, Protocol, read_transfer
from ftlab.share.pack import pack_sweep
from ftlab.share.unpack import open_packed
from tests.fakes import SWEEP
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


def test_what_was_measured_on_another_machine_counts_once_its_packed_sweep_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = few()
    run_all(tmp_path / "there", protocol)
    data = sweep_data(RunStore(tmp_path / "there"), SWEEP)
    packed = pack_sweep(data, tmp_path / "sweep.zip")
    assert packed.left_out == ()
    open_packed(tmp_path / "sweep.zip", tmp_path / "runs")
    assert main(command(tmp_path, protocol, "--show")) == 0
    assert "6 of 6 methods are measured." in capsys.readouterr().out


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


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.usefixtures("in_this_process")
def test_only_missing_seeds_are_trained_and_what_a_killed_command_queued_is_ended_first(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (method for method in PROTOCOL.methods if method.id in ("ia3", "lora"))
    smallest = replace(
        PROTOCOL, methods=(one,), seeds=(0,), steps=1, eval_examples=2, model=str(tiny_model)
    )
    more = replace(smallest, methods=(one, two), seeds=(0, 1))
    assert main(command(tmp_path, smallest)) == 0
    assert "1 of 1 methods are measured." in capsys.readouterr().out
    queued = replace(more.request, seeds=(1,), variants=(Variant(two.id),))
    enqueue_sweep(checked(queued), tmp_path / "runs")
    for _ in range(2):
        assert main(command(tmp_path, more)) == 0
        assert "2 of 2 methods are measured." in capsys.readouterr().out
    runs = [run.spec for run in RunStore(tmp_path / "runs").runs() if not run.spec.is_base]
    assert sorted((spec.method, spec.seed) for spec in runs) == [
        ("ia3", 0), ("ia3", 1), ("lora", 0), ("lora", 1),
    ]  # fmt: skip
