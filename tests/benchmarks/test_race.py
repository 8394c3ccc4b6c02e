"""Races replayed against the recorded sweeps end with a method that is not shown to be worse."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.race.recorded import read_recording
from tests.benchmarks.race import RECORDED, SHARE, minutes_for, replay

REPETITIONS = 10


@pytest.mark.slow
@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_nine_of_ten_races_of_a_third_of_the_sweeps_time_pick_a_method_that_is_not_shown_worse(
    file: Path,
) -> None:
    recording = read_recording(file)
    assert len({variant.method for variant in recording.variants}) == 12
    minutes = minutes_for(recording)
    races = [replay(recording, minutes, seed) for seed in range(REPETITIONS)]
    assert sum(not race.worse for race in races) >= 0.9 * REPETITIONS
    assert max(race.seconds for race in races) <= SHARE * recording.seconds
