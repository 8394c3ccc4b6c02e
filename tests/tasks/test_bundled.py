"""The bundled tasks: sizes, separation, determinism, and that memorising does not win."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from ftlab.errors import FtlabError
from ftlab.tasks.early_modern import lexicon
from ftlab.tasks.medical_cases import cases
from ftlab.tasks.registry import TASKS, get_task
from ftlab.tasks.spec import Example, TaskData
from ftlab.tasks.splits import Split

SPLITS: tuple[Split, ...] = ("train", "tuning", "held_out")
ALL = pytest.mark.parametrize("task_id", list(TASKS))


@cache
def data(task_id: str) -> TaskData:
    return get_task(task_id).load(0)


def parts(task: TaskData) -> tuple[tuple[Example, ...], ...]:
    return task.train, task.tuning, task.held_out


def memorised(task: TaskData) -> list[str]:
    """The completion of the training prompt that shares most words with each held-out prompt."""
    train = [(Counter(re.findall(r"\w+", e.question.lower())), e.completion) for e in task.train]
    answers = []
    for example in task.held_out:
        words = Counter(re.findall(r"\w+", example.question.lower()))

        def overlap(item: tuple[Counter[str], str], words: Counter[str] = words) -> float:
            other = item[0]
            common = sum(min(n, other[w]) for w, n in words.items() if w in other)
            return common / max(words.total(), other.total())

        answers.append(max(train, key=overlap)[1])
    return answers


@ALL
def test_a_task_has_enough_examples(task_id: str) -> None:
    task = get_task(task_id).load(3)
    assert len(task.train) >= 2_000
    assert len(task.tuning) >= 200
    assert len(task.held_out) >= 200


@ALL
def test_no_prompt_is_in_two_sets_or_twice_in_one(task_id: str) -> None:
    prompts = [example.prompt for part in parts(data(task_id)) for example in part]
    assert len(prompts) == len(set(prompts))


@ALL
def test_two_seeds_give_different_data(task_id: str) -> None:
    assert get_task(task_id).load(1).fingerprint() != data(task_id).fingerprint()


def test_the_same_seed_gives_the_same_data_in_another_process() -> None:
    code = (
        "from ftlab.tasks.registry import TASKS\n"
        "for t in TASKS.values(): print(t.load(0).fingerprint())"
    )
    for hash_seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert printed.split() == [data(task_id).fingerprint() for task_id in TASKS]


@ALL
def test_the_reference_answers_score_one(task_id: str) -> None:
    examples = data(task_id).held_out
    scores = get_task(task_id).metric.score_each(examples, [e.completion for e in examples])
    assert min(scores) == pytest.approx(1.0)


@ALL
def test_an_empty_answer_scores_nothing(task_id: str) -> None:
    examples = data(task_id).held_out[:5]
    assert get_task(task_id).metric.score_each(examples, [""] * 5) == [0.0] * 5


@pytest.mark.parametrize(
    ("task_id", "most"), [("sql", 0.1), ("shakespeare", 0.6), ("medical", 0.6)]
)
def test_copying_the_nearest_training_answer_does_not_win(task_id: str, most: float) -> None:
    task = data(task_id)
    scores = get_task(task_id).metric.score_each(task.held_out, memorised(task))
    mean = sum(scores) / len(scores)
    print(f"{task_id}: memoriser {mean:.3f}")
    assert mean < most


@ALL
def test_examples_are_short(task_id: str) -> None:
    longest = {"sql": 170, "shakespeare": 130, "medical": 320}[task_id]
    for part in parts(data(task_id)):
        assert max(len(example.question) for example in part) <= longest


def test_shakespeare_splits_have_no_content_word_in_common() -> None:
    words = []
    for split in SPLITS:
        own = lexicon(split)
        verbs = [verb.base for verb in own.verbs]
        words += [*own.people, *own.things, *own.adjectives, *own.places, *verbs]
    nouns_also_verbs = {"guard", "answer", "guest"}  # one split, two parts of speech
    repeated = {word for word, count in Counter(words).items() if count > 1}
    assert repeated <= nouns_also_verbs


def test_medical_splits_share_no_condition_complaint_finding_or_drug() -> None:
    seen: dict[str, Split] = {}
    for split in SPLITS:
        for case in cases(split):
            drugs = [" ".join(drug.split()[:-2]) for drug in case.drugs]
            for value in [case.condition, *case.complaints, *case.findings, *drugs]:
                assert seen.setdefault(value, split) == split, value


def test_an_unknown_task_names_the_nearest_and_all_others() -> None:
    with pytest.raises(FtlabError, match="did you mean 'shakespeare'") as error:
        get_task("shakespear")
    assert "sql, shakespeare, medical" in str(error.value)


def test_importing_the_tasks_loads_no_heavy_library() -> None:
    code = (
        "import sys; import ftlab.tasks.reference\n"
        "heavy = 'torch transformers gradio datasets pandas pyarrow sacrebleu rouge_score'\n"
        "print([m for m in heavy.split() if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert printed == "[]"
