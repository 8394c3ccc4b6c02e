"""The bundled tasks and general text: sizes, separation, and that memorising does not win."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, recorded_folder
from ftlab.tasks import registry
from ftlab.tasks.reference import TaskReference, validate
from ftlab.tasks.registry import (
    HELD_OUT_AT_FIRST,
    TASKS,
    bundled_data,
    general_fingerprint,
    general_passages,
    get_task,
    shipped_file,
)
from ftlab.tasks.spec import Example, TaskData

ALL = pytest.mark.parametrize("task_id", list(TASKS))


@cache
def data(task_id: str) -> TaskData:
    return bundled_data(get_task(task_id))


def parts(task: TaskData) -> tuple[tuple[Example, ...], ...]:
    return task.train, task.tuning, task.held_out


def memorised(task: TaskData) -> list[str]:
    """The completion of the training prompt that shares most words with each test prompt."""
    train = [Counter(re.findall(r"\w+", example.question.lower())) for example in task.train]
    sizes = [words.total() for words in train]
    containing: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, words in enumerate(train):
        for word, count in words.items():
            containing[word].append((place, count))
    answers = []
    for example in task.held_out:
        words = Counter(re.findall(r"\w+", example.question.lower()))
        common = [0] * len(train)
        for word, count in words.items():
            for place, other in containing[word]:
                common[place] += min(count, other)
        shares = [n / max(words.total(), size) for n, size in zip(common, sizes, strict=True)]
        answers.append(task.train[shares.index(max(shares))].completion)
    return answers


@ALL
def test_a_task_has_enough_examples(task_id: str) -> None:
    task = data(task_id)
    assert len(task.train) >= 2_000
    assert len(task.tuning) >= 200
    assert len(task.held_out) >= 1_000


@ALL
def test_no_prompt_is_in_two_sets_or_twice_in_one(task_id: str) -> None:
    prompts = [example.prompt for part in parts(data(task_id)) for example in part]
    assert len(prompts) == len(set(prompts))


@ALL
def test_later_held_out_examples_change_the_fingerprint_of_runs_that_score_them_alone(
    task_id: str,
) -> None:
    task = data(task_id)
    fewer = replace(task, held_out=task.held_out[:HELD_OUT_AT_FIRST])
    assert fewer.fingerprint(64) == task.fingerprint(64)
    assert fewer.fingerprint(500) != task.fingerprint(500), "a run that scores them sees others"
    other = replace(task, held_out=task.held_out[1:])
    assert other.fingerprint(64) != task.fingerprint(64)


@ALL
def test_the_examples_are_those_that_the_shipped_adapters_learnt(task_id: str) -> None:
    record = json.loads((assets_folder() / "adapters" / task_id / "record.json").read_bytes())
    assert data(task_id).fingerprint(HELD_OUT_AT_FIRST) == record["environment"]["data_hash"]


@ALL
def test_a_bundled_task_has_the_examples_of_one_seed_only(task_id: str) -> None:
    assert validate(TaskReference("bundled", task_id)) == []
    (error,) = validate(TaskReference("bundled", task_id, seed=5))
    assert error.field == "task.seed"
    assert "seed is 5" in error.message
    assert "give 0" in error.message


def test_a_file_that_was_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks").mkdir()
    changed = tmp_path / "tasks" / "medical.jsonl"
    changed.write_bytes(shipped_file("medical").read_bytes().replace(b"angina", b"asthma", 1))
    monkeypatch.setattr(registry, "assets_folder", lambda: tmp_path)
    with pytest.raises(FtlabError, match=r"medical\.jsonl' has changed: .*SHA-256.* again"):
        bundled_data(get_task("medical"))
    with pytest.raises(FtlabError, match=r"sql\.jsonl', .* cannot be read .*install ftlab again"):
        bundled_data(get_task("sql"))


def test_a_module_put_beside_the_others_is_a_task(tmp_path: Path) -> None:
    (tmp_path / "haiku.py").write_text(
        "from ftlab.tasks.spec import CHRF\n"
        "from ftlab.tasks.spec import TaskSpec\n"
        "TASK = TaskSpec('haiku', 'Haiku', 'Three lines.', CHRF)\n",
        encoding="utf-8",
    )
    code = (
        "import sys\n"
        "from ftlab.tasks import bundled\n"
        "bundled.__path__.append(sys.argv[1])\n"
        "from ftlab.tasks.reference import parse_task\n"
        "from ftlab.tasks.registry import TASKS\n"
        "print(*TASKS, parse_task('haiku').label)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["sql", "shakespeare", "medical", "haiku", "Haiku"]


@ALL
def test_the_reference_answers_score_one(task_id: str) -> None:
    examples = data(task_id).held_out
    scores = get_task(task_id).metric.score_each(examples, [e.completion for e in examples])
    assert min(scores) == pytest.approx(1.0)


@ALL
def test_an_empty_answer_scores_nothing(task_id: str) -> None:
    examples = data(task_id).held_out[:5]
    assert get_task(task_id).metric.score_each(examples, [""] * 5) == [0.0] * 5


@pytest.mark.slow
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


# ---------------------------------------------------------------- general text


def test_there_are_forty_short_passages_of_general_text_and_none_twice() -> None:
    passages = general_passages()
    assert len(passages) == len(set(passages)) == 40
    assert all(100 < len(passage) < 250 for passage in passages)


def _phrases(text: str, words: int = 5) -> set[tuple[str, ...]]:
    split = text.lower().split()
    return {tuple(split[i : i + words]) for i in range(len(split) - words + 1)}


@ALL
def test_no_phrase_of_general_text_stands_in_a_bundled_task(task_id: str) -> None:
    seen = set().union(*(_phrases(passage) for passage in general_passages()))
    for example in (*data(task_id).train, *data(task_id).held_out):
        text = " ".join([*(message.content for message in example.prompt), example.completion])
        assert not seen & _phrases(text), text


def test_the_fingerprint_of_general_text_changes_with_any_passage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = general_fingerprint()
    passages = general_passages()
    monkeypatch.setattr(registry, "general_passages", lambda: (*passages[:-1], passages[-1] + " "))
    assert general_fingerprint() != before


def test_general_text_is_that_of_the_newest_recording() -> None:
    newest = max(recorded_folder().iterdir())
    results = [json.loads(file.read_bytes()) for file in newest.glob("*/result.json")]
    assert {result["environment"]["general_text_hash"] for result in results} == {
        general_fingerprint()
    }
