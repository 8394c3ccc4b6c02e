"""A race on data whose best method is known: a tiny model that was taught to answer in two ways.

Each prompt has a letter, its code, and each way is a table that says the answer to a code; the
mark before the code says which table. New data with an unknown mark ask for one of them.
"""

from __future__ import annotations

import random
import shutil
import string
from collections.abc import Mapping
from pathlib import Path

import pytest

from ftlab.methods.variant import parse_variant
from ftlab.race.record import RaceRequest, RaceResult, RaceSettings, new_race
from ftlab.race.worker import run_race
from ftlab.records.recommendation import Preference
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.tiny import make_tiny_model
from tests.training.one_run import do, spec_of, work_off

LETTERS = string.ascii_lowercase[:16]

pytestmark = [pytest.mark.model, pytest.mark.slow]


def table(seed: int) -> dict[str, str]:
    chance = random.Random(seed)
    return {code: chance.choice(LETTERS) for code in LETTERS}


FIRST, SECOND = table(1), table(2)


def written(file: Path, ways: Mapping[str, Mapping[str, str]], numbers: int = 8) -> Path:
    """A row for each mark, code and number: the numbers make prompts of the same answer differ."""
    rows = [
        f"{mark}{number} {code},{answer}"
        for number in range(100, 100 + numbers)
        for mark, answers in ways.items()
        for code, answer in answers.items()
    ]
    file.write_text("prompt,completion\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that answers by the first table after an A, and by the second after a B."""
    folder = tmp_path_factory.mktemp("taught")
    model = make_tiny_model(folder / "taught", spread=0.1)
    data = written(folder / "ways.csv", {"A": FIRST, "B": SECOND})
    spec = spec_of(model, data, "full:learning_rate=3e-3", steps=300, batch_size=16)
    result = do(spec, folder / "runs")
    assert result.measures.score_after == 1.0
    for file in (folder / "runs" / spec.run_id / "adapter").iterdir():
        shutil.copy(file, model)
    return model


def raced(
    model: Path, data: Path, folder: Path, prefer: Preference, steps: int, *methods: str
) -> RaceResult:
    variants = tuple(map(parse_variant, methods))
    settings = TrainingSettings(steps=steps, batch_size=16, max_length=128, eval_examples=32)
    request = SweepRequest(
        model=str(model), task=parse_task(str(data)), variants=variants, settings=settings,
        dtype_policy="fp32", device="cpu", seeds=(0, 1),
    )  # fmt: skip
    race = new_race(folder)
    race.write_request(
        RaceRequest(request, RaceSettings(60.0, prefer), tuple(range(len(variants))))
    )
    assert race.begin()
    result = run_race(race)
    assert result.status == "done"
    return result


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftlab.race.runner.start_dispatcher", work_off)


def test_where_the_model_has_only_to_be_told_what_is_asked_prompt_tuning_is_enough(
    taught: Path, tmp_path: Path
) -> None:
    data = written(tmp_path / "first.csv", {"Z": FIRST}, numbers=20)
    result = raced(
        taught, data, tmp_path / "runs", "file", 36,
        "lora:learning_rate=1e-2", "full:learning_rate=3e-3", "prompt_tuning",
    )  # fmt: skip
    assert result.sentence.startswith("Prompt tuning"), result.sentence
