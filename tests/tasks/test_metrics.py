"""What an answer scores; in some cases it is longer than the reference, in others shorter."""

from __future__ import annotations

import pytest
from sacrebleu.metrics import CHRF as SACREBLEU

from ftlab.basics.errors import FtlabError
from ftlab.tasks.spec import (
    CHRF,
    EXACT_MATCH,
    ROUGE_L,
    Example,
    Message,
    get_text_metric,
)


def example(reference: str) -> Example:
    return Example((Message("user", "Q"),), reference)


@pytest.mark.parametrize(("reference", "answer"), [("the cat sat", "cat"), ("cat", "the cat sat")])
def test_chrf_weighs_what_is_missing_more_than_what_is_too_much(
    reference: str, answer: str
) -> None:
    found = CHRF.score(example(reference), f" {answer}\n")
    assert found == pytest.approx(SACREBLEU().sentence_score(answer, [reference]).score / 100)
    assert found != pytest.approx(SACREBLEU().sentence_score(reference, [answer]).score / 100)


def test_rouge_l_is_the_f_of_the_longest_common_sequence_of_words() -> None:
    reference, answer = example("the cat sat on the mat"), "the cat the mat ran quickly off home"
    precision, recall = 4 / 8, 4 / 6
    assert ROUGE_L.score(reference, answer) == pytest.approx(
        2 * precision * recall / (precision + recall)
    )


def test_an_exact_match_is_word_for_word_white_space_aside() -> None:
    examples = [example("a b"), example("a b"), example("c")]
    answers = [" a\n b ", "a c", "c"]
    assert EXACT_MATCH.score_each(examples, answers) == [1.0, 0.0, 1.0]
    assert EXACT_MATCH.describe(examples[0], answers[0]) == "equal"
    assert EXACT_MATCH.describe(examples[1], answers[1]) == "differs"


def test_a_metric_goes_by_its_key_and_chrf_is_the_default() -> None:
    assert get_text_metric(None) is CHRF
    assert get_text_metric("rouge_l") is ROUGE_L
    with pytest.raises(FtlabError, match="bleu"):
        get_text_metric("bleu")
