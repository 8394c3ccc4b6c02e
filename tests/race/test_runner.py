"""What a race reads from the runs that it queues, and what it answers from that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.race.answer import Took, answer
from ftlab.race.record import RaceDirectory, new_race
from ftlab.race.runner import QueuedRunner, Reading, StoppedError, trial_settings
from ftlab.records.differences import FEWEST_EXAMPLES
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from tests.fakes import make_checkpoint, make_run
from tests.race.invented import InventedRunner, conducted, race_request

SAMPLES = [
    {"index": 0, "loss_before": 3.0, "loss_after": 1.0, "tokens": 5},
    {"index": 1, "loss_before": 4.0, "loss_after": 2.0, "tokens": 7},
]


def test_candidates_train_at_a_constant_rate_and_are_measured_on_few_tuning_examples() -> None:
    asked = TrainingSettings(steps=30, warmup_steps=4, eval_examples=64, batch_size=3)
    found = trial_settings(asked, (5, 15))
    assert (found.steps, found.checkpoint_every, found.schedule) == (15, 15, "constant")
    assert (found.warmup_steps, found.eval_examples, found.batch_size) == (1, 32, 3)
    assert (found.eval_split, found.eval_answers) == ("tuning", False)
    few = trial_settings(replace(asked, warmup_steps=0, eval_examples=12), (5, 15))
    assert (few.warmup_steps, few.eval_examples) == (0, 12)


@pytest.fixture
def race(tmp_path: Path) -> RaceDirectory:
    found = new_race(tmp_path)
    found.write_request(race_request("lora", "ia3"))
    return found


def queued(race: RaceDirectory, candidate: int, *runs: RunDirectory) -> None:
    ids = [run.run_id for run in runs]
    race.report({"event": "queued", "kind": "trial", "runs": ids, "candidate": candidate})


def test_a_reading_has_the_losses_after_training_and_costs_measured_here_alone(
    race: RaceDirectory, tmp_path: Path
) -> None:
    base = make_run(tmp_path, "base", measures={"eval_loss_before": 2.5, "eval_loss_after": None})
    measures = {
        "eval_loss_before": 2.4, "eval_loss_after": 1.25, "step_seconds": 0.5,
        "net_peak_memory_bytes": 900, "trainable_params": 70,
    }  # fmt: skip
    here, elsewhere = (
        make_run(tmp_path, method, steps=15, samples=SAMPLES, measures=measures)
        for method in ("lora", "ia3")
    )
    queued(race, 0, base, here)
    queued(race, 1, elsewhere)
    runner = QueuedRunner(race, race.request(), (5, 15), 0.0, {here.run_id})
    first, second = runner.train([0, 1], 15, until=60.0)
    costs = {"step_seconds": 0.5, "net_peak_bytes": 900.0, "trainable": 70.0}
    assert first == Reading(0, 1.25, (1.0, 2.0), (5.0, 7.0), costs)
    assert second == replace(first, candidate=1, costs={"trainable": 70.0})
    assert runner.base_loss == 2.5


def test_of_a_candidate_that_leaves_only_the_checkpoints_go(
    race: RaceDirectory, tmp_path: Path
) -> None:
    leaves, stays = (make_run(tmp_path, method) for method in ("lora", "ia3"))
    for candidate, run in enumerate((leaves, stays)):
        make_checkpoint(run)
        queued(race, candidate, run)
    QueuedRunner(race, race.request(), (5, 15)).leave(0)
    assert (leaves.checkpoints.exists(), stays.checkpoints.exists()) == (False, True)
    assert leaves.result() is not None


def test_a_candidate_is_queued_with_the_first_seed_and_pauses_at_its_rung(
    race: RaceDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.race.runner.start_dispatcher", lambda folder: None)
    race.cancel_file.touch()
    runner = QueuedRunner(race, race.request(), (5, 15))
    with pytest.raises(StoppedError):
        list(runner.train([1], 5, until=60.0))
    base, run = RunStore(tmp_path).runs()
    assert (base.spec.is_base, run.spec.method, run.spec.seed) == (True, "ia3", 0)
    assert run.directory.pauses_after() == 5
    assert run.spec.settings.eval_split == "tuning"


def test_an_answer_says_how_many_were_looked_at_and_whether_they_were_enough(
    tmp_path: Path,
) -> None:
    request = race_request("lora", "ia3", "lora:r=4")
    race, _ = conducted(
        request, InventedRunner(lambda one, step: None if one == 1 else 1.0 + one / 4)
    )
    found = answer(race, Took("", "", 12.34), RunStore(tmp_path))
    assert (found.candidates, found.tried, found.seconds) == (3, 2, 12.3)
    assert found.sentence == (
        "Nothing is recommended: there was no time to score on the test examples. "
        "LoRA has the lowest loss on the tuning examples so far, 1.000."
    )
    assert found.details == (
        "2 of 3 candidates (2 methods at neighbouring rates and sizes) were compared on the "
        "tuning examples; none was chosen by the test examples.",
    )
    for count, doubted in ((FEWEST_EXAMPLES - 1, True), (FEWEST_EXAMPLES, False)):
        race.readings[0] = Reading(0, 1.0, (1.0,) * count, (1.0,) * count)
        race.readings = {0: race.readings[0]}
        details = answer(race, Took("", "", 1.0), RunStore(tmp_path)).details
        assert details[-1].startswith(f"There are {count} tuning examples, so") is doubted


def test_an_answer_says_why_runs_of_the_final_ended_without_a_score(tmp_path: Path) -> None:
    race, _ = conducted(race_request("lora", "ia3"), InventedRunner(lambda one, step: 1.0))
    make_run(tmp_path, "lora", "diverged", reason="The loss rose.")
    run = make_run(tmp_path, "ia3", "cancelled", reason="Cancelled by the person.")
    found = answer(race, Took("", run.spec().sweep_id, 1.0), RunStore(tmp_path))
    assert "no model could be scored on the test examples. The loss rose. LoRA" in found.sentence
