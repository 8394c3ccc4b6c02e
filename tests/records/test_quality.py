"""Changes with their intervals, and the sentence on a score that fell."""

from __future__ import annotations

from ftlab.records.differences import PairedDifference, mean_of, score_against_whole, why_score_fell

FELL = PairedDifference(-0.1, -0.17, -0.03, 40)
ROSE = PairedDifference(0.4, 0.2, 0.6, 40)
LEVEL = PairedDifference(0.01, -0.05, 0.07, 40)


def rows(*pairs: tuple[float, float], verdict: str = "", answer: str = "x") -> list[dict]:
    return [
        {
            "score_before": before,
            "score_after": after,
            "answer_after": answer,
            "verdict_after": verdict,
        }
        for before, after in pairs
    ]


def test_a_fallen_score_is_told_with_its_interval_and_the_answers_that_got_worse() -> None:
    samples = rows((1, 0), (1, 0), (0, 1), (1, 1), verdict="no SQL")
    words = why_score_fell(FELL, ROSE, None, samples, 3e-4)
    assert words.startswith("The score fell by 0.10 (95 % interval 0.03 to 0.17) against the")
    assert "2 of 4 answers got worse and 1 better; 2 of the worse ones: no SQL." in words


def test_empty_answers_are_told_before_their_verdict() -> None:
    samples = rows((1, 0), (1, 0), verdict="no SQL", answer=" \n")
    assert "2 of the worse ones are empty" in why_score_fell(FELL, ROSE, None, samples, 3e-4)


def test_verdicts_that_few_of_the_worse_answers_share_are_not_told() -> None:
    samples = rows((1, 0), verdict="no SQL") + rows((1, 0), verdict="runs, differs")
    assert "of the worse ones" not in why_score_fell(FELL, ROSE, None, samples, 3e-4)


def test_losses_that_rose_point_to_the_learning_rate() -> None:
    words = why_score_fell(FELL, ROSE, ROSE, rows((1, 0)), 3e-4)
    assert words.endswith(
        "The held-out loss rose by 0.40 and the loss on unrelated text rose by 0.40: the learning "
        "rate (3e-4) is likely too high, or the steps are too many."
    )


def test_a_loss_that_fell_nonetheless_points_to_more_steps() -> None:
    words = why_score_fell(FELL, FELL, None, rows((1, 0)), 3e-4)
    assert "The held-out loss fell by 0.10 nonetheless: the wanted answers became more" in words
    assert "too high" not in words


def test_a_loss_that_shows_nothing_points_to_too_little_training_unless_text_was_forgotten() -> (
    None
):
    assert "too few steps" in why_score_fell(FELL, LEVEL, LEVEL, rows((1, 0)), 3e-4)
    assert "too high" in why_score_fell(FELL, LEVEL, ROSE, rows((1, 0)), 3e-4)


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
