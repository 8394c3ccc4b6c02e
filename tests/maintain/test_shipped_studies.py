"""The studies that ship: whole, of their protocols, and told as docs/evidence.md tells them."""

from __future__ import annotations

import pytest

from ftlab.charts.transfer import transfer_figure
from ftlab.maintain import claims as claims_command
from ftlab.maintain import transfer as transfer_command
from ftlab.records import claims, transfer
from ftlab.records.claims import ClaimsRecord
from ftlab.records.transfer import TransferRecord
from tests.documents import ROOT

EVIDENCE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def of_transfer() -> TransferRecord:
    record = transfer.read_transfer()
    assert record is not None
    return record


@pytest.fixture(scope="module")
def of_claims() -> ClaimsRecord:
    record = claims.read_claims()
    assert record is not None
    return record


def test_what_a_small_run_predicts_was_measured_whole_by_the_protocol_that_ships(
    of_transfer: TransferRecord,
) -> None:
    assert of_transfer.protocol == transfer.read_protocol()
    assert of_transfer.missing == []
    assert of_transfer.machines
    assert of_transfer.commit
    assert transfer.record_file().stat().st_size < MOST_BYTES


def test_each_claim_was_tried_whole_by_the_protocol_that_ships(of_claims: ClaimsRecord) -> None:
    assert of_claims.protocol == claims.read_protocol()
    assert of_claims.is_complete
    assert of_claims.machines
    assert of_claims.commit
    assert claims.record_file().stat().st_size < MOST_BYTES


@pytest.mark.slow
def test_the_correlations_follow_from_the_rows(of_transfer: TransferRecord) -> None:
    assert of_transfer.agreements == transfer.agreements(of_transfer.protocol, of_transfer.rows)


def test_the_document_has_their_numbers(
    of_transfer: TransferRecord, of_claims: ClaimsRecord
) -> None:
    for command, words in (
        (transfer_command, transfer_command.document(of_transfer)),
        (claims_command, claims_command.document(of_claims)),
    ):
        told = EVIDENCE.partition(command.BEGIN)[2].partition(command.END)[0]
        assert told.strip() == words


@pytest.mark.parametrize("which", transfer.WHICH)
@pytest.mark.parametrize("column", [column.id for column in transfer.read_protocol().columns])
def test_each_point_of_the_figure_has_a_label(
    of_transfer: TransferRecord, column: str, which: transfer.Which
) -> None:
    figure = transfer_figure(of_transfer, column, which)
    assert len(figure.layout.annotations) == len(of_transfer.protocol.methods)
