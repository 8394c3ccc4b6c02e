"""The study of what a small run predicts: protocol, which runs count, what both tables share."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs.launch import checked
from ftlab.methods.registry import label_of
from ftlab.methods.variant import Variant
from ftlab.records.store import RunStore
from ftlab.records.transfer import (
    Protocol,
    TransferRecord,
    far_apart,
    measured,
    read_protocol,
    read_transfer,
    write_transfer,
)
from tests.fakes import make_run

PROTOCOL = read_protocol()
SCORES = Path(__file__).with_name("peft_metamathqa_scores.csv")


def few(seeds: tuple[int, ...] = (0, 1)) -> Protocol:
    """Six methods of the registry, over two seeds."""
    names = ("full", "lora", "ia3", "boft", "p_tuning", "shira")
    methods = tuple(method for method in PROTOCOL.methods if method.id in names)
    return replace(PROTOCOL, methods=methods, seeds=seeds, draws=200)


def run_all(
    folder: Path,
    protocol: Protocol,
    better: Sequence[str] = (),
    environment: Mapping[str, Any] | None = None,
) -> None:
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
                environment=environment,
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


def study(folder: Path, protocol: Protocol, better: Sequence[str] = ()) -> TransferRecord:
    run_all(folder, protocol, better)
    return measured(protocol, RunStore(folder).runs())


def test_tables_of_the_same_order_agree_and_one_of_the_opposite_order_disagrees(
    tmp_path: Path,
) -> None:
    record = study(tmp_path, few())
    assert record.missing == []
    assert len(record.rows["lora"]["score_after"]) == 2
    found = record.agreements
    assert found["score"]["default"].rho == pytest.approx(1)
    assert found["loss"]["default"].rho == pytest.approx(1), "less loss is a better score"
    assert found["forgetting"]["default"].rho == pytest.approx(-1)
    assert found["score"]["best"].rho < 1, "IA3's best row has another place"


def test_only_methods_with_every_seed_under_the_same_settings_count(tmp_path: Path) -> None:
    run_all(tmp_path, few((0,)))
    runs = RunStore(tmp_path).runs()
    for protocol in few(), replace(few((0,)), steps=99), replace(few((0,)), task="shakespeare"):
        record = measured(protocol, runs)
        assert len(record.missing) == 6
        assert (record.rows, record.agreements) == ({}, {})


def test_every_machine_and_version_that_measured_is_named(tmp_path: Path) -> None:
    for folder, device, torch in ("a", "This CPU", "2.13"), ("b", "That CPU", "2.14"):
        run_all(
            tmp_path / folder, few((0,) if folder == "a" else (1,)),
            environment={"device": device, "packages": {"torch": torch, "peft": "0.21"}},
        )  # fmt: skip
    runs = [run for folder in ("a", "b") for run in RunStore(tmp_path / folder).runs()]
    record = measured(few(), runs)
    assert record.machines == ("That CPU", "This CPU")
    assert record.versions == {"torch": "2.13 and 2.14", "peft": "0.21"}


def test_the_first_run_of_a_method_and_seed_counts_and_odd_versions_are_no_error(
    tmp_path: Path,
) -> None:
    run_all(tmp_path / "own", few(), environment={"packages": "none"})
    run_all(tmp_path / "opened", few(), better=["full"], environment={"packages": {"torch": 2}})
    runs = [run for folder in ("own", "opened") for run in RunStore(tmp_path / folder).runs()]
    record = measured(few(), runs)
    assert record.rows == measured(few(), runs[: len(runs) // 2]).rows
    assert record.versions == {}


def test_place_1_is_the_best_in_both_tables_whatever_is_compared(tmp_path: Path) -> None:
    record = study(tmp_path, few())
    for id in "score", "loss":
        placed = record.placed(record.column(id), "default")
        assert [one.our_rank for one in placed] == [one.their_rank for one in placed]
        assert placed[0].theirs == max(one.theirs for one in placed)
    opposite = record.placed(record.column("forgetting"), "default")
    assert opposite[0].our_rank == 1
    assert opposite[0].theirs == max(one.theirs for one in opposite), (
        "the most there, the least here"
    )


def test_the_places_that_single_seeds_have_surround_the_place_of_the_mean(tmp_path: Path) -> None:
    protocol = few()
    record = study(tmp_path, protocol)
    rows = dict(record.rows)
    first, second = rows["lora"]["score_after"]
    rows["lora"] = dict(rows["lora"]) | {"score_after": (first - 1, second + 1)}
    shown = replace(record, rows=rows).placed(record.column("score"), "default")
    lora = next(one for one in shown if one.method == "lora")
    assert lora.seed_places == (1, 6)


def test_methods_far_from_their_published_place_are_named(tmp_path: Path) -> None:
    worst = min(few().methods, key=lambda method: method.default.test_accuracy)
    record = study(tmp_path, few(), [worst.id])
    said = far_apart(record.placed(record.column("score"), "default"))
    assert said == (
        f"{label_of(worst.id)} stands 5 places or more higher here than in the published table."
    )
    same = study(tmp_path / "same", few())
    assert far_apart(same.placed(same.column("score"), "default")) == ""


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = study(tmp_path, few())
    write_transfer(record, tmp_path / "out" / "found.json")
    assert read_transfer(tmp_path / "out" / "found.json") == record
    assert read_transfer(tmp_path / "none.json") is None
