"""Blind votes: kept whole, read once, and counted with their uncertainty."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
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


def test_a_vote_between_two_sweeps_is_with_both_and_read_once(tmp_path: Path) -> None:
    vote = make_vote(sweep_ids=(SWEEP, OTHER, SWEEP))
    record_vote(tmp_path, vote)
    for file in (votes_file(tmp_path), votes_file(tmp_path, OTHER)):
        assert len(file.read_text(encoding="utf-8").splitlines()) == 1
    assert read_votes(tmp_path, [SWEEP, OTHER]) == [vote]
    assert read_votes(tmp_path, [OTHER]) == [vote]


def test_a_vote_between_panes_of_no_sweep_is_kept_apart(tmp_path: Path) -> None:
    vote = make_vote(sweep_ids=())
    record_vote(tmp_path, vote)
    assert votes_file(tmp_path, "no-sweep").exists()
    assert read_votes(tmp_path, []) == [vote]
    assert read_votes(tmp_path, [SWEEP]) == []


def test_votes_come_oldest_first_whatever_their_file(tmp_path: Path) -> None:
    for at, sweep in ((3.0, SWEEP), (1.0, OTHER), (2.0, SWEEP)):
        record_vote(tmp_path, make_vote(at=at, sweep_ids=[sweep]))
    assert [vote.at for vote in read_votes(tmp_path, [SWEEP, OTHER])] == [1.0, 2.0, 3.0]


def test_each_new_vote_has_an_id_of_its_own() -> None:
    ids = {make_vote().id for _ in range(100)}
    assert len(ids) == 100
    assert all(int(one, 16) >= 0 for one in ids)


def test_a_torn_line_costs_no_other_vote(tmp_path: Path) -> None:
    first, second = make_vote(at=1), make_vote(at=2)
    record_vote(tmp_path, first)
    with votes_file(tmp_path).open("ab") as file:
        file.write(b'{"id": "torn", "answers": ["SEL')
    record_vote(tmp_path, second)
    assert read_votes(tmp_path, [SWEEP]) == [first, second]


@pytest.mark.parametrize("change", [{"winner": 5}, {"labels": []}, {"panes": "base"}, {"at": "?"}])
def test_a_line_that_holds_no_sound_vote_is_passed_over(
    tmp_path: Path, change: dict[str, object]
) -> None:
    vote = make_vote()
    record_vote(tmp_path, vote)
    file = votes_file(tmp_path)
    row = json.loads(file.read_text(encoding="utf-8"))
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row | {"id": "beef"} | change) + "\n[1]\n")
    assert read_votes(tmp_path, [SWEEP]) == [vote]


@pytest.mark.parametrize("sweep_id", ["../../etc", "a/b", "", "UPPER-CASE", "x" * 200, "a\nbcd"])
def test_a_sweep_id_that_is_no_file_name_is_refused_before_anything_is_written(
    tmp_path: Path, sweep_id: str
) -> None:
    with pytest.raises(FtlabError, match="is no sweep id"):
        record_vote(tmp_path, make_vote(sweep_ids=[SWEEP, sweep_id]))
    with pytest.raises(FtlabError, match="is no sweep id"):
        read_votes(tmp_path, [sweep_id])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("winner", [2, -1])
def test_a_winner_that_was_not_shown_is_refused(tmp_path: Path, winner: int) -> None:
    with pytest.raises(FtlabError, match=f"place {winner}, but the places are 0 to 1"):
        record_vote(tmp_path, make_vote(winner))


def test_panes_without_an_answer_each_are_refused(tmp_path: Path) -> None:
    vote = Vote(
        panes=("lora", "base"), labels=("LoRA", "Base"), winner=0, prompt="?", answers=("one",),
        model="bundled", precision="bf16",
    )  # fmt: skip
    with pytest.raises(FtlabError, match="2 panes, 2 labels and 1 answers"):
        record_vote(tmp_path, vote)


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
    base, lora = (only(tally(votes, ["base", "lora"]), pane) for pane in ("base", "lora"))
    assert tally(votes, ["base", "lora"]) == [lora, base]
    assert (lora.votes, lora.wins, lora.ties, lora.share) == (10, 7, 0, 0.7)
    assert (lora.low, lora.high) == pytest.approx((0.397, 0.892), abs=5e-4)
    assert (base.wins, base.share, base.label) == (3, 0.3, "Base")


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


def test_a_vote_between_panes_of_one_run_says_nothing() -> None:
    assert tally([make_vote(0, ("lora", "lora"))], ["lora"])[0].votes == 0


def test_a_pane_without_votes_has_no_share_and_comes_last() -> None:
    tallies = tally([make_vote(1)] * 3, ["full", "lora", "base"])
    assert [one.pane for one in tallies] == ["base", "lora", "full"]
    assert (tallies[-1].share, tallies[-1].label) == (None, "full")
    assert (tallies[-1].low, tallies[-1].high) == (0, 1)
    assert not tallies[-1].shows_difference


def test_three_panes_may_all_be_tied_in_every_vote() -> None:
    tallies = tally([make_vote(None, ("lora", "base", "full"))] * 50, LABELS)
    assert all(one.share == pytest.approx(1 / 3) for one in tallies)


@pytest.mark.parametrize(
    ("winners", "said"),
    [
        ([], "No votes yet."),
        (
            [0] * 7 + [1] * 3,
            "LoRA wins 7 of 10 votes (95 % interval 40 % to 89 %): no difference shown yet.",
        ),
        ([0] * 9 + [1], "LoRA wins 9 of 10 votes (95 % interval 60 % to 98 %)."),
        ([0], "LoRA wins 1 of 1 vote (95 % interval 21 % to 100 %): no difference shown yet."),
        (
            [0] * 6 + [None] * 2 + [1] * 2,
            "LoRA wins 6 of 10 votes and ties 2, a share of 70 % (95 % interval 40 % to 89 %): "
            "no difference shown yet.",
        ),
        (
            [0] * 5 + [1] * 5,
            "LoRA and Base are level at 50 % of 10 votes (95 % interval 24 % to 76 %): "
            "no difference shown yet.",
        ),
    ],
)
def test_the_verdict_says_whether_a_difference_is_shown(
    winners: list[int | None], said: str
) -> None:
    votes = [make_vote(winner) for winner in winners]
    assert verdict(tally(votes, ["lora", "base"])) == said


def test_chance_is_less_with_more_panes() -> None:
    panes = ("lora", "base", "full", "other")
    votes = [make_vote(place, panes) for place in [0] * 7 + [1, 2, 3]]
    assert verdict(tally(votes, panes)) == "LoRA wins 7 of 10 votes (95 % interval 40 % to 89 %)."


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
