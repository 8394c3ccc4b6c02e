"""The study that ships: whole, of its protocol, and told as docs/evidence.md tells it."""

from __future__ import annotations

import pytest

from ftlab.charts.transfer import transfer_figure
from ftlab.maintain import transfer as command
from ftlab.records import transfer
from ftlab.records.transfer import TransferRecord
from tests.documents import ROOT

EVIDENCE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def shipped() -> TransferRecord:
    record = transfer.read_transfer()
    assert record is not None
    return record


def test_what_a_small_run_predicts_was_measured_whole_by_the_protocol_that_ships(
    shipped: TransferRecord,
) -> None:
    assert shipped.protocol == transfer.read_protocol()
    assert shipped.missing == []
    assert shipped.machines
    assert shipped.commit
    assert transfer.record_file().stat().st_size < MOST_BYTES


def test_its_correlations_follow_from_its_rows(shipped: TransferRecord) -> None:
    assert shipped.agreements == transfer.agreements(shipped.protocol, shipped.rows)


def test_the_document_has_its_numbers(shipped: TransferRecord) -> None:
    told = EVIDENCE.partition(command.BEGIN)[2].partition(command.END)[0]
    assert told.strip() == command.document(shipped)


@pytest.mark.parametrize("which", transfer.WHICH)
@pytest.mark.parametrize("column", [column.id for column in transfer.read_protocol().columns])
def test_each_of_its_points_has_a_label(
    shipped: TransferRecord, column: str, which: transfer.Which
) -> None:
    figure = transfer_figure(shipped, column, which)
    assert len(figure.layout.annotations) == len(shipped.protocol.methods)
