"""What serving many adapters took: kept in the runs folder, and found by base, method and size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records import serving
from ftlab.records.serving import (
    ServingPoint,
    ServingRecord,
    keep_record,
    record_of,
    serving_folder,
    serving_records,
    shipped_file,
)

RECORD = ServingRecord(
    model="m", precision="bf16", label="LoRA", method="lora", file_bytes=1_000, new_tokens=32,
    adapters=(ServingPoint(1, 280_000_000, 0.5, 0.1, 2), ServingPoint(64, 420_000_000, 9, 0.2, 8)),
    full_models=(ServingPoint(1, 280_000_000, 0.2, 0, 2), ServingPoint(2, None, 0.4, 0.0, 4.0)),
    made_at=1_000.0, environment={"device": "CPU"},
)  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "shipped_file", lambda: tmp_path / "shipped.json")


def test_records_are_read_back_newest_first_and_the_shipped_one_last(tmp_path: Path) -> None:
    assert serving_records(tmp_path) == []
    later = replace(RECORD, made_at=90_000.0)
    for record in (RECORD, later):
        keep_record(record, tmp_path)
    shipped = replace(RECORD, model="shipped")
    path = keep_record(shipped, tmp_path / "other")
    path.replace(tmp_path / "shipped.json")
    text = path.read_text() if path.exists() else (tmp_path / "shipped.json").read_text()
    for number, damaged in enumerate(
        ("{", text.replace("8.0", "0.0"), text.replace("9.0", "NaN"), text.replace("64", "-1"))
    ):
        (serving_folder(tmp_path) / f"damaged-{number}.json").write_text(damaged)
    assert serving_records(tmp_path) == [later, RECORD, replace(shipped, origin="recorded")]


def test_the_shipped_measurement_can_be_read() -> None:
    (record,) = [one for one in [serving._RECORD.validate_json(shipped_file().read_bytes())] if one]
    assert [point.count for point in record.adapters] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("model", "method", "size", "is_found"),
    [
        ("m", "lora", 1_009, True),
        ("m", "lora", 1_020, False),
        ("m", "dora", 1_000, False),
        ("n", "lora", 1_000, False),
        ("m", "lora", float("nan"), False),
    ],
)
def test_a_measurement_is_that_of_adapters_with_the_same_base_method_and_size(
    model: str, method: str, size: float, is_found: bool
) -> None:
    assert record_of([RECORD], model, method, size) == (RECORD if is_found else None)


def test_of_several_measurements_the_one_of_the_most_adapters_counts_and_then_the_first() -> None:
    few = replace(RECORD, adapters=RECORD.adapters[:1])
    again = replace(RECORD, made_at=9.0)
    assert record_of([few, RECORD, again, few], "m", "lora", 1_000) is RECORD
    assert record_of([few, again, RECORD], "m", "lora", 1_000) is again


def test_the_sentence_names_the_most_of_both_and_leaves_out_what_was_not_measurable() -> None:
    assert RECORD.sentence == (
        "64 LoRA adapters on one base took 420 MB and gave 8 answers a second; 2 full models gave "
        "0.5 answers a second."
    )
    assert replace(RECORD, full_models=()).sentence.endswith("8 answers a second.")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".ftlab").write_text("a file")
    with pytest.raises(FtlabError, match="cannot be written"):
        keep_record(RECORD, tmp_path)
