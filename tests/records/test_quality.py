"""Changes with their intervals, and the sentence on a score that fell."""

from __future__ import annotations

import pytest

from ftlab.records.differences import PairedDifference, mean_of, score_against_whole, why_score_fell

FELL = PairedDifference(-0.1, -0.17, -0.03, 40)
ROSE = PairedDifference(0.4, 0.2, 0.6, 40)
LEVEL = PairedDifference(0.01, -0.05, 0.07, 40)


def rows(*pairs: tuple[float, float], verdict: str = "", answer: str = "x") -> list[dict]:
    told = {"answer_after": answer, "verdict_after": verdict}
    return [{"score_before": before, "score_after": after} | told for before, after in pairs]


@pytest.mark.parametrize(
    ("samples", "loss", "general", "words"),
    [
        (
            rows((1, 0), (1, 0), (0, 1), (1, 1), verdict="no SQL"), ROSE, None,
            "The score fell by 0.10 (95 % interval 0.03 to 0.17) against the untouched model: 2 of "
            "4 answers got worse and 1 better; 2 of the worse ones: no SQL. ",
        ),
        (
            rows((1, 0), (1, 0), verdict="no SQL", answer=" \n"), ROSE, None,
            "2 of the worse ones are empty",
        ),
        (
            rows((1, 0), verdict="no SQL") + rows((1, 0), verdict="runs, differs"), ROSE, None,
            "2 of 2 answers got worse and 0 better. ",
        ),
        (
            rows((1, 0)), ROSE, ROSE,
            "The test loss rose by 0.40 and the loss on unrelated text rose by 0.40: the "
            "learning rate (3e-4) is likely too high, or the steps are too many.",
        ),
        (
            rows((1, 0)), FELL, None,
            "The test loss fell by 0.10 nonetheless: the wanted answers became more likely, "
            "but not so likely that it writes them by itself; more steps may help.",
        ),
        (
            rows((1, 0)), LEVEL, LEVEL,
            "The test loss shows no change: likely too few steps, or too low a learning rate "
            "(3e-4).",
        ),
        (rows((1, 0)), LEVEL, ROSE, "(3e-4) is likely too high"),
    ],
    ids=[
        "most of the worse answers share a verdict", "empty answers before their verdict",
        "few share a verdict", "losses rose", "the loss fell", "no loss changed", "forgotten text",
    ],
)  # fmt: skip
def test_a_score_that_fell_is_explained_by_answers_and_losses(
    samples: list[dict], loss: PairedDifference, general: PairedDifference | None, words: str
) -> None:
    assert words in why_score_fell(FELL, loss, general, samples, 3e-4)


def test_a_quantised_run_says_what_it_is_compared_with() -> None:
    words = score_against_whole("nf4", PairedDifference(0.25, 0.1, 0.4, 40))
    assert "the untouched model in nf4" in words
    assert "changed by +0.25 (95 % interval +0.10 to +0.40)" in words
    assert "no run of it that is not quantised" in score_against_whole("nf4", None)


def test_a_mean_needs_every_value() -> None:
    assert mean_of([1.0, 3.0]) == 2.0
    assert mean_of([1.0, 3.0], [3, 1]) == 1.5
    assert mean_of([1.0, None]) is None
    assert mean_of([]) is None
