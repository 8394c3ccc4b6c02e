"""The exhaustive sweep is recorded once, and races are replayed against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.maintain.__main__ import main
from ftlab.race.conduct import rungs
from ftlab.race.recorded import read_recording
from ftlab.records.store import RunStore
from tests.benchmarks import race as benchmark
from tests.commands.test_tune import SMALL
from tests.training.one_run import work_off


@pytest.mark.slow
@pytest.mark.model
def test_a_sweep_is_recorded_without_doing_anything_twice_and_a_race_replayed(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("ftlab.race.runner.start_dispatcher", work_off)
    runs, file = tmp_path / "runs", tmp_path / "recording.json"
    command = [
        "race_sweep", "--model", str(tiny_model), "--task", str(task_file), "--seeds", "0,1",
        "--methods", "lora,ia3", "--runs-dir", str(runs), "--write", str(file), *SMALL,
    ]  # fmt: skip
    assert main(command) == 0
    recording = read_recording(file)
    assert [one.label for one in recording.variants[:2]] == ["LoRA", "IA3"]
    assert len(recording.variants) == 6
    steps = rungs(recording.steps)
    assert {(one.candidate, one.step) for one in recording.readings} == {
        (candidate, step) for candidate in range(6) for step in steps
    }
    assert all(len(one.losses) == 4 for one in recording.readings)
    assert len([one for one in recording.scores if one.seed == 0]) == 6
    assert len([one for one in recording.scores if one.seed == 1]) == 3
    count = len(RunStore(runs).runs())
    assert main(command) == 0
    assert len(RunStore(runs).runs()) == count
    assert read_recording(file).readings == recording.readings

    # A tiny sweep is over in seconds: a third of them may be too few for one candidate.
    assert benchmark.main([str(file), "--repetitions", "2", "--share", "5"]) == 0
    assert "2 of 2 races of" in capsys.readouterr().out
