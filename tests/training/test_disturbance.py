"""Disturbed means that it cost time: what a run says of what went on beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ftlab.basics.locks import TimedSteps
from ftlab.training import machine
from ftlab.training import run as run_module
from ftlab.training.machine import (
    BY_ITSELF,
    BY_OTHER_RUNS,
    BY_WAITING,
    RATES_OF_A_STEP,
    CardWatch,
    Disturbance,
    KeptRates,
    Slowdown,
    same_step,
    slowdowns_of,
    waited_seconds,
)
from ftlab.training.run import RunRecord
from ftlab.training.trainer import StepMeter
from tests.training.one_run import do, spec_of

RECORDED: dict[str, Any] = json.loads(
    Path(__file__).with_name("step_times.json").read_text(encoding="utf-8")
)
"""30 steps of LoRA on the bundled model on two cores of an EPYC, beside a process that was busy for
so many percent of every 20 ms; `tests.benchmarks.contention` makes such runs."""

IDLE = sum(RECORDED["0"]["seconds"][1:]) / sum(RECORDED["0"]["work"][1:])


def judged(load: str, kept_rate: float | None, counts_waiting: bool) -> Disturbance:
    run = RECORDED[load]
    waited = run["waited"] if counts_waiting else [None] * len(run["seconds"])
    found = slowdowns_of(run["seconds"], run["work"], waited, kept_rate)
    return Disturbance(0.8, run["others"], found)


@pytest.mark.parametrize("load", ["0", "25", "50", "100"])
@pytest.mark.parametrize(
    ("kept_rate", "counts_waiting"),
    [(IDLE, True), (None, True), (IDLE, False)],
    ids=["Linux", "Linux, the first run of its kind", "a system that counts no waiting"],
)
def test_a_process_on_one_core_is_a_disturbance_and_an_idle_machine_is_none(
    load: str, kept_rate: float | None, counts_waiting: bool
) -> None:
    found = judged(load, kept_rate, counts_waiting)
    assert found.is_disturbed == (load != "0"), found
    assert found.is_quiet == (load == "0")
    assert bool(found.sentence) == (load != "0")


def test_the_estimate_is_what_the_load_cost() -> None:
    for load, run in RECORDED.items():
        worst = judged(load, IDLE, counts_waiting=True).worst
        assert worst is not None
        cost = sum(run["seconds"]) / sum(RECORDED["0"]["seconds"])
        assert worst.times == pytest.approx(cost, rel=0.06)


def steps(noise: float, seed: int, slow: range = range(0), times: float = 1.0) -> Any:
    draw = np.random.default_rng(seed)
    work = draw.integers(28, 45, 30) * 8
    seconds = (0.2 + 0.0023 * work) * np.exp(noise * draw.standard_normal(30))
    seconds[slow] *= times
    return seconds.tolist(), work.tolist(), [None] * 30, None


def test_steps_that_differ_by_themselves_are_no_disturbance() -> None:
    worst = [slowdowns_of(*steps(0.08, seed))[0].times for seed in range(200)]
    assert sum(times > 1.10 for times in worst) <= 2
    assert sum(worst) / len(worst) < 1.05


@pytest.mark.parametrize("slow", [range(3, 15), range(10, 20), range(20, 30)])
def test_a_while_beside_something_else_shows_against_the_quiet_steps(slow: range) -> None:
    (found,) = slowdowns_of(*steps(0.03, 1, slow, times=1.6))
    assert found.by == BY_ITSELF
    assert found.times == pytest.approx(1 + 0.6 * len(slow) / 29, abs=0.06)
    assert Disturbance(0.5, 0.4, (found,)).sentence == (
        f"Times are too long: training took {found.times:.2f} times as long as its own quiet steps "
        "say (other processes used 40% of the cores)."
    )


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_of_few_steps_only_what_is_known_from_elsewhere_is_said(count: int) -> None:
    found = slowdowns_of([1.0] * count, [100] * count, [0.5] * count, 0.008)
    expected = [] if count < 2 else [Slowdown(1.25, BY_OTHER_RUNS), Slowdown(2.0, BY_WAITING)]
    assert list(found) == [Slowdown(pytest.approx(one.times), one.by) for one in expected]
    assert not Disturbance(0.5, 0.0, found).is_quiet or count < 2


def test_a_slower_machine_is_no_neighbour_so_its_rate_is_kept_all_the_same() -> None:
    found = Disturbance(0.9, 0.0, (Slowdown(1.02, BY_ITSELF), Slowdown(1.4, BY_OTHER_RUNS)))
    assert found.is_disturbed
    assert found.is_quiet
    assert not Disturbance(0.9, 0.06, found.slowdowns).is_quiet
    assert not Disturbance(0.9, 0.0, found.slowdowns, card="another process").is_quiet


def test_a_training_whose_threads_slept_to_leave_the_cores_to_others_says_so() -> None:
    found = Disturbance(0.5, 0.01, (Slowdown(1.02, BY_ITSELF),), slept=0.4)
    assert found.is_disturbed
    assert found.sentence == (
        "Times are too long: in 40% of the steps threads left the cores to others."
    )
    assert not replace(found, slept=0.05).is_disturbed
    assert not replace(found, slept=0.05).is_quiet, "its rate is no rule for later runs"
    assert replace(found, slept=0.0).is_quiet


@pytest.mark.skipif(waited_seconds() is None, reason="this kernel does not count waiting")
def test_a_thread_that_shares_its_core_with_another_process_is_known_to_have_waited() -> None:
    program = "print('.', flush=True)\nwhile True: pass"
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # of this thread, and of the process that it starts
    beside = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert beside.stdout is not None
        beside.stdout.readline()
        before, began = own_wait(), time.perf_counter()
        while time.perf_counter() - began < 0.5:
            pass
        waited = own_wait() - before
    finally:
        beside.kill()
        beside.communicate()
        os.sched_setaffinity(0, cores)
    assert waited > 0.25 * 0.5
    assert (waited_seconds() or 0) >= waited, "the longest wait of a thread counts"


def own_wait() -> float:
    """Seconds that this thread waited for a core."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


OWN = os.getpid()


@dataclass
class FakeDriver:
    """What a card's driver says at each look: processes by their share, and why it is slowed."""

    busy: list[dict[int, int]] = field(default_factory=list)
    slowed: list[str] = field(default_factory=list)
    asked_since: list[int] = field(default_factory=list)
    moment: int = 1_000

    def computing(self, uuid: str, since: int = 0) -> tuple[dict[int, int], int]:
        self.asked_since.append(since)
        self.moment += 1
        if not since:
            return {99: 100}, self.moment  # before the run
        return self.busy.pop(0) if self.busy else {}, self.moment

    def why_slowed(self, uuid: str) -> str:
        return self.slowed.pop(0) if self.slowed else ""


def watched(driver: FakeDriver, looks: int) -> str:
    now = [0.0]
    watch = CardWatch("GPU-1", driver, lambda: now[0])
    for _ in range(looks):
        now[0] += 0.6
        watch.look()
        now[0] += 0.1
        watch.look()  # too soon: asks nothing
    assert driver.asked_since == [0, *range(1_001, 1_001 + looks)]
    return watch.sentence


@pytest.mark.parametrize(
    ("driver", "looks", "said"),
    [
        (FakeDriver([{OWN: 90, 7: 40}, {OWN: 90}, {OWN: 80, 8: 20, 7: 9}]),
         3, "2 other processes computed on the card (7, 8)"),
        # In a container the busiest process is assumed to be this one.
        (FakeDriver([{4_000_001: 95}, {4_000_001: 90, 12: 30}]),
         2, "1 other process computed on the card (12)"),
        (FakeDriver([{OWN: 90, 7: 2}, {}]), 2, ""),  # a desktop
        (FakeDriver(slowed=["it was too hot", "", "it was too hot", ""]),
         4, "the card lowered its clocks in 50% of the checks because it was too hot"),
    ],
)  # fmt: skip
def test_other_work_on_a_card_and_lowered_clocks_disturb(
    driver: FakeDriver, looks: int, said: str
) -> None:
    assert watched(driver, looks) == said
    found = Disturbance(0.9, 0.0, (Slowdown(1.0, BY_ITSELF),), said)
    assert found.is_disturbed == bool(said)
    assert found.sentence == (f"Times are too long: {said}." if said else "")


def test_of_a_cpu_no_driver_is_asked() -> None:
    watch = CardWatch("", driver=None)
    watch.look()
    assert watch.sentence == ""


def test_the_rate_of_a_step_is_the_middle_one_of_the_last_five(tmp_path: Path) -> None:
    rates = KeptRates(tmp_path / "rates.json")
    assert rates.rate("step") is None
    for rate in (9.0, 1.0, 5.0, 2.0, 3.0, 4.0):
        rates.keep("step", rate)
    assert rates.rate("step") == 3.0
    assert rates.rate("another") is None
    assert len(json.loads((tmp_path / "rates.json").read_text())["step"]) == RATES_OF_A_STEP


@pytest.mark.fault("the file of the steps' rates is torn or hostile")
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"step": 1}', '{"step": ["1"]}', '{"step": [0.0]}', '{"step": [-1.0, NaN]}',
     '{"step": [true]}', "[" * 100_000, '{"step": [1e999]}', "\x00"],
)  # fmt: skip
def test_a_file_of_rates_that_cannot_be_read_is_as_none_and_is_written_anew(
    text: str, tmp_path: Path
) -> None:
    file = tmp_path / "rates.json"
    file.write_text(text, encoding="utf-8")
    rates = KeptRates(file)
    assert rates.rate("step") is None
    rates.keep("step", 2.0)
    assert rates.rate("step") == 2.0


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    rates = KeptRates(tmp_path / "file" / "rates.json")
    rates.keep("step", 2.0)
    assert rates.rate("step") is None


def test_the_next_run_of_the_same_step_is_held_against_the_ones_before(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    spec = spec_of(tiny_model, task_file, steps=4, eval_answers=False)
    first = do(spec, tmp_path / "a")
    rates = KeptRates()
    step = same_step(spec, first.environment)
    rates.keep(step, 1e-9)  # as if it had once taken next to no time
    second = do(spec, tmp_path / "b")
    assert second.measures.disturbed
    assert second.measures.slowdown is not None
    assert second.measures.slowdown > 10
    assert any("the same steps took here before" in note for note in second.notes)


@pytest.mark.parametrize("others", [0.0, 0.5])
def test_only_a_run_that_was_alone_keeps_its_rate_without_the_first_step(
    others: float, tiny_model: Path, task_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path))
    spec, environment = spec_of(tiny_model, task_file), {"device": "a CPU"}
    before_a_resume, here = [1.0] * 5, [9.0, *[1.0] * 10]
    steps = StepMeter(
        before_a_resume + here, work=[100, *[200] * 10], waited=[None] * 11,
        slept=[False] * 11,
    )  # fmt: skip
    load: Any = SimpleNamespace(read=lambda: (0.25, others))
    record = RunRecord(environment=environment)
    found = run_module._disturbance(spec, record, steps, load, CardWatch(""))
    assert (found.own, found.others, found.slept) == (0.25, others, 0.0)
    assert KeptRates().rate(same_step(spec, environment)) == (None if others else 0.005)


def test_the_load_is_the_share_of_the_cores_of_this_process_and_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = {"wall": 50.0, "own": 7.0, "others": 30.0}
    clock = SimpleNamespace(perf_counter=lambda: at["wall"], process_time=lambda: at["own"])
    monkeypatch.setattr(machine, "time", clock)
    monkeypatch.setattr(machine, "work_of_others", lambda: at["others"])
    monkeypatch.setattr(machine, "cpu_count", lambda: 4)
    meter = machine.LoadMeter()
    at.update(wall=60.0, own=15.0, others=34.0)
    assert meter.read() == pytest.approx((8 / 40, 4 / 40))


def test_other_processes_know_that_steps_are_timed(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    seen: dict[str, bool] = {}
    steps = TimedSteps("cpu")
    do(
        spec_of(tiny_model, task_file),
        tmp_path,
        report=lambda event: seen.update({event["event"]: steps.seconds() is not None}),
    )
    assert seen == {"phase": False, "step": True, "evaluate": False}


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"seed": 1}, True),
        ({"steps": 5}, True),
        ({"batch_size": 2}, False),
        ({"r": 2}, False),
    ],
    ids=str,
)
def test_a_step_is_the_same_whatever_the_seed_and_the_number_of_steps(
    change: dict[str, Any], is_same: bool, tiny_model: Path, task_file: Path
) -> None:
    facts = {"device": "a CPU", "threads": 2, "packages": {"torch": "2"}, "model_hash": "1"}
    variant = f"lora:r={change.get('r', 1)}"
    settings = {k: v for k, v in change.items() if k in ("steps", "batch_size")}
    plain = spec_of(tiny_model, task_file, "lora:r=1")
    other = spec_of(tiny_model, task_file, variant, **settings)
    other = replace(other, seed=change.get("seed", other.seed))
    assert (same_step(plain, facts) == same_step(other, facts)) == is_same
    assert same_step(plain, facts) != same_step(plain, facts | {"threads": 1})
