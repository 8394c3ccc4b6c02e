"""Blind votes on answers, stored by the sweep of the runs that gave the answers.

`.ftlab/votes/<sweep id>.jsonl` in the runs folder has one vote per line. `no-sweep.jsonl` has the
votes between panes that belong to no sweep. A vote between runs of two sweeps is in both files.
"""

from __future__ import annotations

import json
import math
import os
import random
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from ftlab.basics.errors import FtlabError
from ftlab.basics.people import asking
from ftlab.basics.words import join_names, plural
from ftlab.jobs.control import control_folder
from ftlab.records.differences import binomial_tail, wilson_interval
from ftlab.records.run import RUN_ID, check_writable, read_json_lines

NO_SWEEP = "no-sweep"
"""The name of the file for votes that belong to no sweep."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One choice between answers to the same prompt, made without seeing which pane gave them.

    `panes` are names as in `panes.find_source`, in the order shown; `labels` and `answers` run
    parallel to them, so the vote stays readable after a run is deleted. `winner` is an index into
    them, `None` for "no difference". `at` is seconds since the epoch. `sweep_ids` are the unique
    sweep ids of the panes' sources. `owner` is the login of the person who voted; `record_vote`
    sets it.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    at: float = field(default_factory=time.time)
    panes: tuple[str, ...]
    labels: tuple[str, ...]
    winner: int | None
    prompt: str
    answers: tuple[str, ...]
    model: str
    precision: str
    sweep_ids: tuple[str, ...] = ()
    owner: str = ""


@dataclass(frozen=True)
class Tally:
    """The results of one pane in the votes that include it.

    `share` is its share of the wins and `low` to `high` the 95 % Wilson interval of `share`, all in
    [0, 1]. A tie counts as an equal fraction of a win for each pane shown, so half a win with two
    panes. `chance` is the share expected if the answers could not be told apart. `share` is `None`
    without votes.
    """

    pane: str
    label: str
    votes: int
    wins: int
    ties: int
    share: float | None
    low: float
    high: float
    chance: float

    @property
    def shows_difference(self) -> bool:
        """Whether the best pane would rarely (5 %) get such a share by chance alone.

        An exact binomial test, corrected for 1 / chance panes, since any of them could be the best
        (Dunn 1961, Multiple Comparisons Among Means). Points from ties are rounded down.
        """
        if not self.votes:
            return False
        points = math.floor((self.share or 0) * self.votes + 1e-9)
        return binomial_tail(points, self.votes, self.chance) <= 0.05 * self.chance


_VOTE: TypeAdapter[Vote] = TypeAdapter(Vote)


def shuffled(count: int, seed: int) -> tuple[int, ...]:
    """Returns the indices 0 to `count` - 1 in the order in which a blind vote shows them."""
    places = list(range(count))
    random.Random(seed).shuffle(places)
    return tuple(places)


def record_vote(runs_folder: Path, vote: Vote) -> None:
    """Appends the vote to the file of each of its sweeps; safe for several processes at once.

    Raises `FtlabError` for an inconsistent vote, a sweep id that is not a valid file name, and a
    folder that cannot be written.
    """
    check_writable(runs_folder)
    problem = _problem(vote)
    if problem:
        raise FtlabError(problem)
    files = _files(runs_folder, vote.sweep_ids)
    owned = replace(vote, owner=asking().name)
    line = json.dumps(asdict(owned)).encode() + b"\n"  # ASCII, so it contains no other line end
    try:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            _append(file, line)
    except OSError as error:
        raise FtlabError(
            f"The vote cannot be kept in '{files[0].parent}' ({error.strerror}); free some space "
            "or make the folder writable, then vote again."
        ) from None


def read_votes(runs_folder: Path, sweep_ids: Iterable[str]) -> list[Vote]:
    """Returns the unique votes of those sweeps that the person who asks sees, oldest first; without
    sweep ids, of no sweep.

    Incomplete or invalid lines are skipped. Raises `FtlabError` for a malformed sweep id and for a
    file that exists but cannot be read.
    """
    votes: dict[str, Vote] = {}
    for file in _files(runs_folder, sweep_ids):
        try:
            rows = read_json_lines(file)
        except OSError as error:
            raise FtlabError(
                f"The votes in '{file}' cannot be read ({error.strerror}); make the file readable."
            ) from None
        for row in rows:
            try:
                vote = _VOTE.validate_python(row)
            except ValidationError:
                continue
            if not _problem(vote) and asking().sees(vote.owner):
                votes[vote.id] = vote
    return sorted(votes.values(), key=lambda vote: (vote.at, vote.id))


def tally(votes: Iterable[Vote], panes: Iterable[str]) -> list[Tally]:
    """Returns one tally per distinct pane name, largest share first, those without a vote last.

    A vote that shows a run in two panes counts once for the run, with twice the chance to win. A
    vote in which all panes show the same run is ignored.
    """
    choices = [vote for vote in votes if len(set(vote.panes)) > 1]
    tallies = [_tally(choices, pane) for pane in dict.fromkeys(panes)]
    return sorted(tallies, key=lambda one: (one.share is None, -(one.share or 0), -one.votes))


def verdict(tallies: Sequence[Tally]) -> str:
    """Describes the first of the sorted tallies in one sentence.

    "No difference shown yet" compares its wins with chance, not with the second pane's wins.
    """
    heard = [one for one in tallies if one.share is not None]
    if not heard:
        return "No votes yet."
    best = heard[0]
    level = [
        one
        for one in heard
        if one.votes == best.votes and math.isclose(one.share or 0, best.share or 0, abs_tol=1e-9)
    ]
    interval = f"95 % interval {_percent(best.low)} to {_percent(best.high)}"
    votes = plural(best.votes, "vote")
    if len(level) > 1:
        names = join_names([one.label for one in level])
        said = f"{names} are level at {_percent(best.share)} of {votes}"
    else:
        said = f"{best.label} wins {best.wins} of {votes}"
        if best.ties:
            said += f" and ties {best.ties}, a share of {_percent(best.share)}"
    return f"{said} ({interval})" + ("." if best.shows_difference else ": no difference shown yet.")


def _problem(vote: Vote) -> str:
    """An error sentence if the vote is inconsistent; else ""."""
    count = len(vote.panes)
    if not count or not count == len(vote.labels) == len(vote.answers):
        return (
            f"The vote has {count} panes, {len(vote.labels)} labels and {len(vote.answers)} "
            "answers; give one label and one answer for each pane."
        )
    if vote.winner is not None and not 0 <= vote.winner < count:
        return (
            f"The winner is at place {vote.winner}, but the places are 0 to {count - 1}; "
            "name one of them, or none for a tie."
        )
    return ""


def _files(runs_folder: Path, sweep_ids: Iterable[str]) -> list[Path]:
    names = list(dict.fromkeys(sweep_ids)) or [NO_SWEEP]
    for name in names:
        if not RUN_ID.fullmatch(name):  # run ids begin with the sweep id: same allowed characters
            raise FtlabError(
                f"'{name[:120]}' is no sweep id: it may have small letters, digits, '-' and '_' "
                "alone; correct it in the run's spec.json."
            )
    return [control_folder(runs_folder) / "votes" / f"{name}.jsonl" for name in names]


def _append(file: Path, line: bytes) -> None:
    """Appends in a single write with O_APPEND, so lines of several processes do not mix."""
    handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line  # the previous line was cut off: start a new line
        if os.write(handle, line) != len(line):
            raise OSError(0, "only a part could be written")
    finally:
        os.close(handle)


def _tally(votes: Sequence[Vote], pane: str) -> Tally:
    own = [vote for vote in votes if pane in vote.panes]
    chances = [vote.panes.count(pane) / len(vote.panes) for vote in own]
    wins = sum(vote.winner is not None and vote.panes[vote.winner] == pane for vote in own)
    ties = [chance for vote, chance in zip(own, chances, strict=True) if vote.winner is None]
    # As MT-bench does for two (FastChat's show_result.py: "each tie counts as 0.5 win + 0.5 loss").
    # The points of every vote add up to one, which the comparison with chance requires.
    points = wins + sum(ties)
    low, high = wilson_interval(points, len(own))
    return Tally(
        pane=pane,
        label=own[-1].labels[own[-1].panes.index(pane)] if own else pane,
        votes=len(own),
        wins=wins,
        ties=len(ties),
        share=points / len(own) if own else None,
        low=low,
        high=high,
        chance=sum(chances) / len(own) if own else 0.0,
    )


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.0f} %"
