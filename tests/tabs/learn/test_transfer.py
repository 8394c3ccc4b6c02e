"""Learn: whether a small run predicts the large one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ftlab.charts.transfer import transfer_figure
from ftlab.methods.registry import METHODS, look_of
from ftlab.records.claims import ClaimsRecord, Estimated, Tried
from ftlab.records.claims import read_protocol as read_claims_protocol
from ftlab.records.metrics import METRICS
from ftlab.records.rank_agreement import RankAgreement
from ftlab.records.transfer import TransferRecord
from ftlab.tabs.learn.transfer import FOUR_BITS, finding, not_carried, of_four_bits, view
from tests.records.test_transfer import few, study


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> TransferRecord:
    return study(tmp_path_factory.mktemp("study"), few())


@pytest.mark.parametrize(
    ("agreed", "words"),
    [
        (RankAgreement(0.9, 0.6, 1.0, 20), "agree more than by chance"),
        (RankAgreement(0.3, -0.1, 0.6, 20), "is not shown"),
        (RankAgreement(-0.9, -1.0, -0.6, 20), "are opposite"),
    ],
)
def test_the_finding_claims_no_more_than_the_interval_shows(
    agreed: RankAgreement, words: str
) -> None:
    said = finding(agreed, METRICS["score_after"])
    assert words in said
    assert agreed.sentence in said


def test_every_method_is_a_labelled_point_in_its_colour(record: TransferRecord) -> None:
    figure = transfer_figure(record, "score", "default")
    _, *points = figure.data
    assert len(points) == 6
    colours = {point.name: point.marker.color for point in points}
    assert colours["LoRA"] == look_of("lora").colour
    labels = {note.text for note in figure.layout.annotations}
    assert labels == {METHODS[method.id].short_label for method in few().methods}
    low, high = figure.layout.yaxis.range
    assert low > high, "place 1 is at the top"


def test_what_does_not_carry_over_is_said_with_its_numbers(record: TransferRecord) -> None:
    said = not_carried(record)
    assert "0.050 and 0.030 in the published table" in said
    assert said.endswith("This does not carry over.")
    agreeing = {
        method: {key: tuple(-value for value in values) for key, values in columns.items()}
        for method, columns in record.rows.items()
    }
    assert not_carried(replace(record, rows=agreeing)).endswith("This carries over.")
    without = {method: columns for method, columns in record.rows.items() if method != "full"}
    assert not_carried(replace(record, rows=without)) == ""


@pytest.mark.parametrize(
    ("interval", "carries"),
    [
        ((0.18, 0.05, 0.31), "no loss with 7B to 65B. This does not carry over."),
        ((-0.01, -0.03, 0.01), "no loss with 7B to 65B."),
    ],
)
def test_what_qlora_loses_here_is_said_though_the_published_table_has_no_row_of_it(
    record: TransferRecord, interval: tuple[float, float, float], carries: str
) -> None:
    loss = Estimated("loss of QLoRA above LoRA's", "loss", *interval, (None, 0.02))
    protocol = read_claims_protocol()
    assert FOUR_BITS in {claim.id for claim in protocol.claims}
    claims = ClaimsRecord(protocol, (Tried(FOUR_BITS, (loss,)),), {})
    said = of_four_bits(claims)
    assert f"{interval[0]:+.0%} ({interval[1]:+.0%} to {interval[2]:+.0%})" in said
    assert said.endswith(carries)
    assert "QLoRA has no row" in view(record, claims, "loss", "default")[2]
    assert of_four_bits(None) == ""


def test_each_choice_shows_its_finding_figure_and_table(record: TransferRecord) -> None:
    for column in "score", "loss", "forgetting":
        words, figure, table = view(record, None, column, "best")
        assert METRICS[record.column(column).ours].name in words
        assert figure is not None
        assert table.count("<tr>") == 7
    assert "make transfer" in view(None, None, "score", "default")[0]


def test_too_few_methods_are_said(record: TransferRecord) -> None:
    words, figure, _ = view(replace(record, agreements={}), None, "score", "default")
    assert "Too few methods" in words
    assert figure is None
