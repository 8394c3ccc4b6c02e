"""What a base run adds to a trained run: the numbers before, and the changes by example."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.records.base_runs import (
    GAVE_NOTHING,
    GENERAL_TEXT_HASH,
    WAITS,
    General,
    against_base,
    untouched_point,
)
from ftlab.records.result import dump_result
from ftlab.records.spec import RunSpec
from tests.fakes import make_run

TOKENS = [3, 1, 1, 5]
LOSSES_BEFORE, LOSSES_AFTER = [2.0, 3.0, 4.0, 1.0], [1.0, 3.5, 1.0, 1.0]
SCORES_BEFORE, SCORES_AFTER = [0.0, 1.0, 0.0, 0.25], [1.0, 0.5, 1.0, 1.0]
GENERAL = General([2.0, 5.0], [30, 10], "text")


def base_run(folder: Path, precision: Any = None, status: Any = "done", **more: Any) -> None:
    samples = [
        {"index": index, "score_before": score, "loss_before": loss}
        for index, (score, loss) in enumerate(zip(SCORES_BEFORE, LOSSES_BEFORE, strict=True))
    ]
    measures = {"eval_loss_before": 1.8, "score_before": 0.3125, "general_loss_before": 2.0}
    directory = make_run(
        folder, "base", status, base_precision=precision, samples=samples[::-1],
        measures=measures, environment={GENERAL_TEXT_HASH: "text"}, **more,
    )  # fmt: skip
    result = directory.result()
    if result is not None:
        result = replace(result, general_losses=(1.0, 4.0))
        directory.result_file.write_bytes(dump_result(result))


def trained(folder: Path, method: str = "lora") -> RunSpec:
    return make_run(folder, method, "queued").spec()


def rows(scores: list[float] = SCORES_AFTER) -> list[dict[str, Any]]:
    return [
        {"index": index, "score_after": score, "loss_after": loss, "tokens": tokens}
        for index, (score, loss, tokens) in enumerate(
            zip(scores, LOSSES_AFTER, TOKENS, strict=True)
        )
    ]


def test_changes_are_after_minus_before_by_example_and_of_losses_by_token(tmp_path: Path) -> None:
    base_run(tmp_path)
    found = against_base(trained(tmp_path), tmp_path, rows(), GENERAL)
    measures = dict(found.measures)
    assert (measures["eval_loss_before"], measures["score_before"]) == (1.8, 0.3125)
    assert measures["score_gain"] == pytest.approx((1 - 0.5 + 1 + 0.75) / 4)
    assert measures["loss_change"] == pytest.approx((3 * -1 + 0.5 - 3 + 0) / 10)
    assert measures["general_loss_change"] == pytest.approx(1.0)
    for key in ("score_gain", "loss_change"):
        assert measures[f"{key}_low"] < measures[key] < measures[f"{key}_high"]
    assert [row["loss_before"] for row in found.rows] == LOSSES_BEFORE, "each beside its example"
    assert [row["score_after"] for row in found.rows] == SCORES_AFTER
    assert found.notes == []


def test_another_unrelated_text_is_not_compared(tmp_path: Path) -> None:
    base_run(tmp_path)
    other = replace(GENERAL, text="another")
    found = against_base(trained(tmp_path), tmp_path, rows(), other)
    assert "general_loss_change" not in found.measures
    assert "score_gain" in found.measures


@pytest.mark.parametrize(
    ("status", "note"), [("queued", WAITS), ("running", WAITS), ("failed", GAVE_NOTHING)]
)
def test_without_numbers_of_the_base_run_a_note_says_why(
    status: str, note: str, tmp_path: Path
) -> None:
    base_run(tmp_path, status=status)
    found = against_base(trained(tmp_path), tmp_path, own := rows(), GENERAL)
    assert (found.measures, found.rows, found.notes) == ({}, own, (note,))


def test_a_quantised_run_is_also_compared_with_the_base_that_is_not_and_waits_for_it(
    tmp_path: Path,
) -> None:
    for folder, status in ((tmp_path / "done", "done"), (tmp_path / "open", "queued")):
        base_run(folder, "nf4")
        base_run(folder, None, status)
    found = against_base(trained(tmp_path / "done", "qlora"), tmp_path / "done", rows(), GENERAL)
    (note,) = found.notes
    assert "the one that is not quantised the score changed by +0.56" in note
    waits = against_base(trained(tmp_path / "open", "qlora"), tmp_path / "open", rows(), GENERAL)
    assert waits.notes == (WAITS,)
    plain = trained(tmp_path / "done")
    assert against_base(plain, tmp_path / "done", rows(), GENERAL).notes == []


def test_the_first_point_of_a_curve_is_the_untouched_model_on_its_examples(tmp_path: Path) -> None:
    base_run(tmp_path)
    point = untouched_point(trained(tmp_path), tmp_path, TOKENS[:2])
    assert point == {
        "event": "evaluation", "step": 0, "loss": (3 * 2.0 + 3.0) / 4, "score": 0.5,
    }  # fmt: skip
    nothing = untouched_point(replace(trained(tmp_path), base_run_id=None), tmp_path, TOKENS[:2])
    assert (nothing["loss"], nothing["score"]) == (None, None)


def test_a_score_that_fell_is_explained(tmp_path: Path) -> None:
    samples = [{"index": index, "score_before": 1.0, "loss_before": 1.0} for index in range(12)]
    make_run(tmp_path, "base", samples=samples)
    own = [
        {"index": index, "score_after": 0.0, "loss_after": 2.0, "tokens": 1} for index in range(12)
    ]
    found = against_base(trained(tmp_path), tmp_path, own, GENERAL)
    assert found.notes[0].startswith("The score fell by 1.00")
    better = [row | {"score_after": 1.5} for row in own]
    assert against_base(trained(tmp_path), tmp_path, better, GENERAL).notes == []
