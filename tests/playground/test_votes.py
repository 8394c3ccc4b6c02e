"""Blind votes: stored, read and counted with their uncertainty."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground.votes import Tally, Vote, read_votes, record_vote, shuffled, tally, verdict

SWEEP = "20261125-120000-ab12"
OTHER = "20261126-090000-cd34"
LABELS = {"base": "Base", "lora": "LoRA", "full": "Full"}


def make_vote(
    winner: int | None = 0,
    panes: Sequence[str] = ("lora", "base"),
    sweep_ids: Sequence[str] = (SWEEP,),
    answer: str = "SELECT 1",
    at: float = 1.0,
) -> Vote:
    return Vote(
        at=at,
        panes=tuple(panes),
        labels=tuple(LABELS.get(pane, pane) for pane in panes),
        winner=winner,
        prompt="How many?",
        answers=(answer,) * len(panes),
        model="bundled",
        precision="bf16",
        sweep_ids=tuple(sweep_ids),
    )


def votes_file(runs_folder: Path, sweep_id: str = SWEEP) -> Path:
    return runs_folder / ".ftlab" / "votes" / f"{sweep_id}.jsonl"


def only(tallies: Sequence[Tally], pane: str) -> Tally:
    return next(one for one in tallies if one.pane == pane)


def test_a_vote_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    vote = make_vote(winner=None, answer='Zeilen\n\u2028 „so“ \x85 {"\ud83d"} 👍')
    record_vote(tmp_path, vote)
    assert read_votes(tmp_path, [SWEEP]) == [vote]


@pytest.mark.parametrize(
    ("sweeps", "files", "read_by"),
    [
        ((SWEEP, OTHER, SWEEP), (SWEEP, OTHER), [(SWEEP, OTHER), (OTHER,)]),
        ((), ("no-sweep",), [()]),
    ],
)
def test_a_vote_is_stored_once_for_each_of_its_sweeps(
    sweeps: tuple[str, ...], files: Sequence[str], read_by: list[tuple[str, ...]], tmp_path: Path
) -> None:
    vote = make_vote(sweep_ids=sweeps)
    record_vote(tmp_path, vote)
    for file in files:
        assert len(votes_file(tmp_path, file).read_text(encoding="utf-8").splitlines()) == 1
    for asked in read_by:
        assert read_votes(tmp_path, asked) == [vote]
    assert read_votes(tmp_path, ["20261127-090000-ef56"]) == []


def test_votes_come_oldest_first_whatever_their_file(tmp_path: Path) -> None:
    for at, sweep in ((3.0, SWEEP), (1.0, OTHER), (2.0, SWEEP)):
        record_vote(tmp_path, make_vote(at=at, sweep_ids=[sweep]))
    assert [vote.at for vote in read_votes(tmp_path, [SWEEP, OTHER])] == [1.0, 2.0, 3.0]


def test_each_new_vote_has_an_id_of_its_own() -> None:
    ids = {make_vote().id for _ in range(100)}
    assert len(ids) == 100
    assert all(int(one, 16) >= 0 for one in ids)


def test_incomplete_and_invalid_lines_are_skipped(tmp_path: Path) -> None:
    first, second = make_vote(at=1), make_vote(at=2)
    record_vote(tmp_path, first)
    row = json.loads(votes_file(tmp_path).read_text(encoding="utf-8")) | {"id": "beef"}
    changes: list[dict[str, object]] = [{"winner": 5}, {"labels": []}, {"panes": "b"}, {"at": "?"}]
    lines = [json.dumps(row | change) for change in changes]
    with votes_file(tmp_path).open("a", encoding="utf-8") as file:
        file.write("\n".join([*lines, "[1]", '{"id": "torn", "answers": ["SEL']))
    record_vote(tmp_path, second)
    assert read_votes(tmp_path, [SWEEP]) == [first, second]


@pytest.mark.parametrize("sweep_id", ["../../etc", "a/b", "", "UPPER-CASE", "x" * 200, "a\nbcd"])
def test_a_sweep_id_that_is_no_file_name_is_refused_before_anything_is_written(
    tmp_path: Path, sweep_id: str
) -> None:
    with pytest.raises(FtlabError, match="is no sweep id"):
        record_vote(tmp_path, make_vote(sweep_ids=[SWEEP, sweep_id]))
    with pytest.raises(FtlabError, match="is no sweep id"):
        read_votes(tmp_path, [sweep_id])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"winner": 2}, "place 2, but the places are 0 to 1"),
        ({"winner": -1}, "place -1, but the places are 0 to 1"),
        ({"answers": ("one",)}, "2 panes, 2 labels and 1 answers"),
    ],
)
def test_an_inconsistent_vote_is_refused(
    change: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(FtlabError, match=said):
        record_vote(tmp_path, replace(make_vote(), **change))  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".ftlab").write_text("a file where a folder belongs", encoding="utf-8")
    with pytest.raises(FtlabError, match="cannot be kept in"):
        record_vote(tmp_path, make_vote())


def test_processes_that_vote_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.playground.test_votes import make_vote\n"
        "from ftlab.playground.votes import record_vote\n"
        "for _ in range(50): record_vote(Path(sys.argv[1]), make_vote(answer='x' * 20_000))"
    )
    voters = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [voter.wait() for voter in voters] == [0, 0]
    assert len(read_votes(tmp_path, [SWEEP])) == 100


def test_wins_are_counted_for_each_pane_and_the_best_comes_first() -> None:
    votes = [make_vote(0)] * 7 + [make_vote(1)] * 3
    lora, base, full = tally(votes, ["full", "base", "lora"])
    assert (lora.pane, lora.votes, lora.wins, lora.ties, lora.share) == ("lora", 10, 7, 0, 0.7)
    assert (lora.low, lora.high) == pytest.approx((0.397, 0.892), abs=5e-4)
    assert (base.wins, base.share, base.label) == (3, 0.3, "Base")
    assert (full.label, full.share, full.low, full.high) == ("full", None, 0, 1)
    assert not full.shows_difference


@pytest.mark.parametrize("panes", [("lora", "base"), ("lora", "base", "full")])
def test_a_tie_is_an_equal_part_of_a_win_for_each_pane_shown(panes: tuple[str, ...]) -> None:
    votes = [make_vote(None, panes), make_vote(0, panes)]
    tallies = tally(votes, panes)
    part = 1 / len(panes)
    assert only(tallies, "lora").share == pytest.approx((1 + part) / 2)
    assert only(tallies, "base").share == pytest.approx(part / 2)
    assert only(tallies, "base").ties == 1
    assert sum(one.share or 0 for one in tallies) == pytest.approx(1)
    assert {one.chance for one in tallies} == {part}


def test_a_pane_is_judged_by_the_votes_it_stood_in_alone() -> None:
    votes = [make_vote(1), make_vote(0, ("full", "base")), make_vote(0, ("lora", "base", "full"))]
    lora = only(tally(votes, ["lora"]), "lora")
    assert (lora.votes, lora.wins) == (2, 1)
    assert lora.chance == pytest.approx((1 / 2 + 1 / 3) / 2)


@pytest.mark.parametrize("winner", [0, 1])
def test_a_run_in_two_panes_stood_in_the_vote_once(winner: int) -> None:
    lora = only(tally([make_vote(winner, ("lora", "lora", "base"))], ["lora", "base"]), "lora")
    assert (lora.votes, lora.wins, lora.share) == (1, 1, 1.0)
    assert lora.chance == pytest.approx(2 / 3)
    assert tally([make_vote(0, ("lora", "lora"))], ["lora"])[0].votes == 0, "one run in all panes"


DOUBT = ": no difference shown yet."


@pytest.mark.parametrize(
    ("wins", "ties", "losses", "panes", "said"),
    [
        (0, 0, 0, 2, "No votes yet."),
        (7, 0, 3, 2, "LoRA wins 7 of 10 votes (95 % interval 40 % to 89 %)" + DOUBT),
        (7, 0, 3, 4, "LoRA wins 7 of 10 votes (95 % interval 40 % to 89 %)."),
        (9, 0, 1, 2, "LoRA wins 9 of 10 votes (95 % interval 60 % to 98 %)."),
        (1, 0, 0, 2, "LoRA wins 1 of 1 vote (95 % interval 21 % to 100 %)" + DOUBT),
        (
            6, 2, 2, 2,
            "LoRA wins 6 of 10 votes and ties 2, a share of 70 % (95 % interval 40 % to 89 %)"
            + DOUBT,
        ),
        (
            5, 0, 5, 2,
            "LoRA and Base are level at 50 % of 10 votes (95 % interval 24 % to 76 %)"
            + DOUBT,
        ),
    ],
)  # fmt: skip
def test_the_verdict_tells_whether_a_difference_is_shown(
    wins: int, ties: int, losses: int, panes: int, said: str
) -> None:
    names = ("lora", "base", "full", "other")[:panes]
    winners = [0] * wins + [None] * ties + [1] * losses
    assert verdict(tally([make_vote(winner, names) for winner in winners], names)) == said


@pytest.mark.parametrize(("wins", "shown"), [(2, False), (3, False), (4, True)])
def test_the_best_of_four_needs_more_than_a_few_lucky_votes(wins: int, shown: bool) -> None:
    """Some pane of four wins three votes of three in one case of sixteen by chance alone."""
    votes = [make_vote(0, ("lora", "base", "full", "other"))] * wins
    assert only(tally(votes, ["lora", "base"]), "lora").shows_difference is shown


def test_a_shuffle_is_an_order_of_all_panes_that_its_seed_decides() -> None:
    orders = [shuffled(6, seed) for seed in range(200)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert orders == [shuffled(6, seed) for seed in range(200)]
    assert {order[0] for order in orders} == set(range(6))
