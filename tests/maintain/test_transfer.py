"""`transfer`: the protocol, which runs are still missing, and what both tables agree on."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs.launch import checked
from ftlab.maintain import transfer
from ftlab.maintain.__main__ import main
from ftlab.maintain.transfer import (
    Protocol,
    agreements,
    lines,
    measured_rows,
    read_protocol,
)
from ftlab.methods.variant import Variant
from ftlab.records.store import RunStore
from tests.fakes import make_run

PROTOCOL = read_protocol()
SCORES = Path(__file__).with_name("peft_metamathqa_scores.csv")


def few(seeds: tuple[int, ...] = (0, 1)) -> Protocol:
    """Six methods of the registry, over two seeds."""
    names = ("full", "lora", "ia3", "boft", "p_tuning", "shira")
    methods = tuple(method for method in PROTOCOL.methods if method.id in names)
    return replace(PROTOCOL, methods=methods, seeds=seeds, draws=200)


def run_all(folder: Path, protocol: Protocol, better: Sequence[str] = ()) -> None:
    """Runs of the methods that order them as PEFT's default rows do; `better` have a full score."""
    for method in protocol.methods:
        for seed in protocol.seeds:
            row = method.default
            measures = {
                "score_after": 1.0 if method.id in better else row.test_accuracy + 0.001 * seed,
                "eval_loss_after": 2 - row.test_accuracy,
                "general_loss_change": -row.forgetting,
            }
            make_run(
                folder, method.id, seed=seed, measures=measures, task=protocol.request.task,
                settings=protocol.request.settings, model=protocol.request.model,
            )  # fmt: skip


def test_the_published_numbers_are_those_of_pefts_table() -> None:
    with SCORES.open(encoding="utf-8") as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    for method in PROTOCOL.methods:
        for row in (method.default, method.best):
            theirs = table[row.name]
            assert row.test_accuracy == round(float(theirs["test_accuracy"]), 4)
            assert row.forgetting == round(float(theirs["forgetting"]), 4)
        assert method.best.test_accuracy >= method.default.test_accuracy


def test_twenty_methods_can_be_run_over_three_seeds_and_enough_examples() -> None:
    variants = tuple(Variant(method.id) for method in PROTOCOL.methods)
    assert len({variant.method for variant in variants}) == len(variants) == 20
    request = checked(replace(PROTOCOL.request, variants=variants))
    assert len(request.seeds) == 3
    assert request.settings.eval_examples >= 200


def test_tables_of_the_same_order_agree_and_one_of_the_opposite_order_disagrees(
    tmp_path: Path,
) -> None:
    protocol = few()
    run_all(tmp_path, protocol)
    rows = measured_rows(protocol, RunStore(tmp_path).runs())
    assert set(rows) == {method.id for method in protocol.methods}
    assert len(rows["lora"]["score_after"]) == 2
    found = agreements(protocol, rows)
    assert found["score"]["default"].rho == pytest.approx(1)
    assert found["loss"]["default"].rho == pytest.approx(1), "less loss is a better score"
    assert found["forgetting"]["default"].rho == pytest.approx(-1)
    assert found["score"]["best"].rho < 1, "IA3's best row has another place"


def test_only_methods_with_every_seed_under_the_same_settings_count(tmp_path: Path) -> None:
    run_all(tmp_path, few((0,)))
    runs = RunStore(tmp_path).runs()
    assert measured_rows(few(), runs) == {}
    assert measured_rows(replace(few((0,)), steps=99), runs) == {}
    assert measured_rows(replace(few((0,)), task="shakespeare"), runs) == {}
    said = lines(few(), {}, agreements(few(), {}))
    assert said[0] == "0 of 6 methods are measured."
    assert "Missing: full, lora" in said[1]


def command(folder: Path, protocol: Protocol, *more: str) -> list[str]:
    file = folder / "protocol.json"
    file.write_bytes(transfer._PROTOCOL.dump_json(protocol))
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
    written: dict[str, Any] = json.loads(out.read_text())
    assert written["agreements"]["score"]["default"]["count"] == 6
    assert written["protocol"]["methods"][0]["id"] == "full"
    assert "lora" in written["rows"]


def test_without_any_run_the_missing_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, few(), "--show")) == 1
    assert "0 of 6 methods are measured." in capsys.readouterr().out


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
