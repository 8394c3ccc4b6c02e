"""Generators of the bundled tasks: they make the shipped files again, and keep the sets apart."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from ftlab.maintain.medical_examples import cases
from ftlab.maintain.shakespeare_examples import lexicon
from ftlab.maintain.tasks import GENERATORS, example_file, main
from ftlab.tasks.registry import TASKS, shipped_file
from ftlab.tasks.spec import Split

SPLITS: tuple[Split, ...] = ("train", "tuning", "held_out")


def test_the_command_makes_the_shipped_files_again_byte_for_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(tmp_path)])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"{name}: {TASKS[name].sha256}" for name in GENERATORS]
    for name in GENERATORS:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == shipped_file(name).read_bytes()


def test_the_order_of_sets_in_a_process_changes_no_file(tmp_path: Path) -> None:
    other = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    subprocess.run(
        [sys.executable, "-m", "ftlab.maintain.tasks", str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": other},
        check=True,
    )
    for name in GENERATORS:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == shipped_file(name).read_bytes()


def test_every_bundled_task_has_a_generator() -> None:
    assert set(GENERATORS) == set(TASKS)


@pytest.mark.parametrize("task_id", GENERATORS)
def test_two_seeds_give_different_examples(task_id: str) -> None:
    other = example_file(task_id, seed=1)
    assert hashlib.sha256(other).hexdigest() != TASKS[task_id].sha256


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
