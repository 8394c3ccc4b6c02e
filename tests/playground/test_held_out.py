"""Test prompts found again, and answers to them scored."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from ftlab.playground import held_out
from ftlab.playground.held_out import HeldOut, HeldOutExample
from ftlab.tasks.reference import TaskReference, load
from ftlab.tasks.registry import TASKS, bundled_data
from ftlab.tasks.spec import Example

SQL = TaskReference("bundled", "sql")


@cache
def bundled(task_id: str) -> tuple[Example, ...]:
    return bundled_data(TASKS[task_id]).held_out


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[TaskReference]:
    """The references that are loaded, in order; they are really loaded too."""
    seen: list[TaskReference] = []

    def noting(reference: TaskReference) -> object:
        seen.append(reference)
        return load(reference)

    monkeypatch.setattr(held_out, "load", noting)
    return seen


def found(example: HeldOutExample | None) -> HeldOutExample:
    assert example is not None
    return example


@pytest.mark.parametrize("task_id", list(TASKS))
def test_a_bundled_prompt_is_found_without_naming_its_task(task_id: str) -> None:
    example = bundled(task_id)[7]
    it = found(HeldOut().find(f"\n  {example.question} \n", []))
    assert it.example == example
    assert it.task is TASKS[task_id]
    assert it.label == TASKS[task_id].label


def test_only_held_out_prompts_are_found() -> None:
    data, own = bundled_data(TASKS["sql"]), HeldOut()
    for prompt in (data.train[0].question, data.tuning[0].question, "Tell me a joke.", "", "  "):
        assert own.find(prompt, [SQL]) is None


def test_a_run_with_another_data_seed_has_its_own_held_out_prompts(task_file: Path) -> None:
    plain = TaskReference("file", str(task_file))
    seeded = replace(plain, seed=5)
    others = HeldOut().prompts(plain, 99)
    prompt = next(p for p in HeldOut().prompts(seeded, 99) if p not in others)
    assert HeldOut().find(prompt, [plain]) is None
    assert found(HeldOut().find(prompt, [seeded])).example.question == prompt


def test_the_tasks_given_are_searched_before_the_bundled_ones(tmp_path: Path) -> None:
    question = bundled("sql")[0].question
    file = tmp_path / "own.csv"
    rows = [f'"{question} {i}","{i}"' for i in range(2)] + [f'"{question}","my own answer"']
    for seed in range(20):  # one of three rows is held out: whichever the seed draws
        file.write_text("\n".join(["prompt,completion", *rows]), encoding="utf-8")
        own = TaskReference("file", str(file), seed=seed)
        if load(own)[1].held_out[0].completion == "my own answer":
            break
    it = found(HeldOut().find(question, [own]))
    assert (it.example.completion, it.label) == ("my own answer", "own.csv")
    assert found(HeldOut().find(question, [])).label == "SQL"


def test_the_last_turn_of_a_chat_is_what_is_found(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    turns = (
        '[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, '
        '{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Again N?"}, '
        '{"role": "assistant", "content": "N"}]'
    )
    lines = [f'{{"messages": {turns.replace("N", str(n))}}}' for n in range(3)]
    file.write_text("\n".join(lines), encoding="utf-8")
    task = TaskReference("file", str(file))
    (prompt,) = HeldOut().prompts(task, 5)
    it = found(HeldOut().find(prompt, [task]))
    assert prompt.startswith("Again")
    assert len(it.example.prompt) == 4


def test_the_first_held_out_prompts_are_offered_in_order() -> None:
    assert HeldOut().prompts(SQL, 3) == [e.question for e in bundled("sql")[:3]]


@pytest.mark.parametrize(
    "task",
    [
        TaskReference("file", "/nowhere/gone.csv"),
        TaskReference("file", "/nowhere/\0.csv"),
        TaskReference("bundled", "unheard-of"),
    ],
)
def test_a_task_that_cannot_be_loaded_is_skipped(task: TaskReference) -> None:
    example = bundled("medical")[0]
    assert found(HeldOut().find(example.question, [task])).example == example
    assert HeldOut().prompts(task, 3) == []


def test_a_damaged_file_is_skipped_and_not_read_again(
    tmp_path: Path, loads: list[TaskReference]
) -> None:
    file = tmp_path / "torn.json"
    file.write_text('[{"prompt": ', encoding="utf-8")
    task = TaskReference("file", str(file))
    own = HeldOut()
    assert own.find("anything", [task]) is None
    assert own.find("anything else", [task]) is None
    assert loads.count(task) == 1


def test_a_task_of_the_hub_is_never_loaded(loads: list[TaskReference]) -> None:
    hub = TaskReference("hub", "owner/name")
    assert HeldOut().find("anything", [hub]) is None
    assert HeldOut().prompts(hub, 3) == []
    assert hub not in loads


def test_a_task_is_loaded_once_until_its_file_changes(
    task_file: Path, loads: list[TaskReference]
) -> None:
    task = TaskReference("file", str(task_file))
    own = HeldOut()
    (before,) = own.prompts(task, 1)
    assert own.find(before, [task])
    assert loads == [task]
    lines = [f"Say {n},{n}" for n in range(40)]
    task_file.write_text("prompt,completion\n" + "\n".join(lines) + "\n", encoding="utf-8")
    os.utime(task_file, ns=(1, 1))
    assert own.prompts(task, 1)[0].startswith("Say ")
    assert own.find(before, [task]) is None
    assert loads.count(task) == 2


def test_the_number_of_cached_tasks_is_limited(loads: list[TaskReference]) -> None:
    own = HeldOut(most=2)
    first, second, third = (TaskReference("bundled", task_id) for task_id in TASKS)
    for task in (first, second, first, third, first):  # the second is the one unused for longest
        own.prompts(task, 1)
    assert loads == [first, second, third]
    own.prompts(second, 1)
    assert loads == [first, second, third, second]


def test_an_sql_answer_is_scored_and_what_it_gives_is_shown() -> None:
    it = found(HeldOut().find(bundled("sql")[0].question, []))
    right = HeldOut.score(it, f"```sql\n{it.example.completion};\n```")
    assert (right.score, right.metric, right.verdict) == (1.0, "SQL score", "runs, equal")
    assert right.tables is not None
    assert right.tables.found == right.tables.expected
    wrong = HeldOut.score(it, "I do not know.")
    assert (wrong.score, wrong.verdict) == (0.0, "no SQL")
    assert wrong.tables is not None
    assert wrong.tables.found is None


@pytest.mark.parametrize(("task_id", "metric"), [("shakespeare", "chrF"), ("medical", "ROUGE-L")])
def test_an_answer_in_words_is_scored_without_tables(task_id: str, metric: str) -> None:
    it = found(HeldOut().find(bundled(task_id)[0].question, []))
    right = HeldOut.score(it, it.example.completion)
    assert (right.score, right.metric, right.tables) == (pytest.approx(1.0), metric, None)
    words = it.example.completion.split()
    part = HeldOut.score(it, " ".join(words[: len(words) // 2]))
    assert 0 < part.score < 1
    assert HeldOut.score(it, "").score == 0


def test_finding_and_scoring_load_no_torch() -> None:
    code = (
        "import sys\n"
        "import ftlab.playground.votes, ftlab.playground.text_difference\n"
        "from ftlab.playground.held_out import HeldOut\n"
        "from ftlab.tasks.reference import TaskReference\n"
        "from ftlab.tasks.registry import TASKS\n"
        "own = HeldOut()\n"
        "for task_id in TASKS:\n"
        "    for prompt in own.prompts(TaskReference('bundled', task_id), 2):\n"
        "        print(own.score(own.find(prompt, []), 'SELECT 1').metric)\n"
        "print([m for m in ('torch', 'transformers', 'peft', 'gradio') if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed == ["SQL score"] * 2 + ["chrF"] * 2 + ["ROUGE-L"] * 2 + ["[]"]
