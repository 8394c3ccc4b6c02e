"""Learn: claims of papers, with their verdicts, and a press that tries one on another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.charts.claims import claim_figure
from ftlab.jobs.launch import checked, plan_sweep
from ftlab.records.claims import (
    ClaimsRecord,
    Estimated,
    Tried,
    read_protocol,
    to_try,
    tried_claims,
)
from ftlab.records.store import RunStore
from ftlab.tabs.learn.claims import view
from tests.records.test_claims import run_sweep, small

PROTOCOL = read_protocol()


@pytest.fixture
def record(tmp_path: Path) -> ClaimsRecord:
    for id in "rates", "scores":
        run_sweep(tmp_path, small(), id)
    return tried_claims(small(), RunStore(tmp_path).runs())


def test_a_claim_is_shown_with_verdict_figure_and_runs(record: ClaimsRecord) -> None:
    words, figure, how = view(record.protocol, record, "less")
    assert "LoRA learns less" in words
    assert record.tried[0].verdict in words
    assert "A paper" in words
    assert figure is not None
    assert how.count("<tr>") == 3, "a head, and the two methods"
    assert "0.003" in how
    assert "40 held out" in how


@pytest.mark.parametrize("claim", [claim.id for claim in PROTOCOL.claims])
def test_a_claim_without_runs_says_so_and_what_would_be_run(claim: str) -> None:
    words, figure, how = view(PROTOCOL, None, claim)
    assert "has not been tried yet" in words
    assert figure is None
    assert "<code>lora" in how
    assert view(PROTOCOL, None, "gone")[0] == view(PROTOCOL, None, PROTOCOL.claims[0].id)[0]


@pytest.mark.parametrize("claim", PROTOCOL.claims, ids=lambda claim: claim.id)
def test_each_claim_can_be_tried_on_another_model_as_one_sweep(claim) -> None:  # type: ignore[no-untyped-def]
    request = checked(to_try(PROTOCOL, claim))
    assert len(request.variants) >= 2
    assert request.settings.eval_split == "held_out"
    runs = [spec for spec in plan_sweep(request) if not spec.is_base]
    assert len(runs) == len(request.variants) * len(request.seeds)


def test_a_rate_that_was_left_out_is_named_with_the_claims_whose_ladder_has_it() -> None:
    label = "LoRA lr=0.02"
    tried = tuple(
        Tried(claim.id, (Estimated("loss", "loss", 0.1, -0.1, 0.3, (None, 0.02)),) * 9)
        for claim in PROTOCOL.claims
    )
    record = ClaimsRecord(PROTOCOL, tried, {}, diverged=(label,))
    assert label in view(PROTOCOL, record, "ten_times")[2]
    assert label not in view(PROTOCOL, record, "soft_prompts")[2], "it has LoRA at its best rate"


def test_each_estimate_has_its_own_axis_with_the_band_of_the_claim() -> None:
    ratio = Estimated("ratio", "rate ratio", 9.0, 6.0, 13.0, (5, 20))
    loss = Estimated("loss", "loss", 0.1, -0.1, 0.3, (None, 0.02))
    figure = claim_figure(Tried("x", (ratio, loss)))
    first_band, first, second_band, second = figure.data
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.ticktext) == ["5", "10", "20"]
    assert figure.layout.xaxis2.type == "linear"
    assert sorted(set(first_band.x)) == [5, 20]
    assert max(second_band.x) == 0.02
    assert min(second_band.x) == pytest.approx(figure.layout.xaxis2.range[0])
    assert (first.x[0], first.error_x.array[0], first.error_x.arrayminus[0]) == (9, 4, 3)
    assert second.xaxis == "x2"
