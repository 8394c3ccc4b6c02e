"""A machine with several like devices: its runs are shared out, one at a time on each."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ftlab.basics import devices, locks
from ftlab.basics.locks import DeviceLock, free_device
from ftlab.jobs.dispatcher import Dispatcher, in_starting_order
from ftlab.jobs.launch import checked, enqueue_sweep, requests_of, validate
from ftlab.methods.variant import Variant
from ftlab.records.result import RunResult
from ftlab.records.resume import begin_anew
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest, dump_spec, load_spec
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from tests.benchmarks.devices import simulate
from tests.fake_nvml import GB, FakeCard, use_cards
from tests.simulated import Machine, Worker

FOUR = tuple(FakeCard("Card", f"GPU-{number}{number}{number}", free=23 * GB) for number in range(4))
OTHER = FakeCard("Other", "GPU-999", 48 * GB, free=48 * GB)
IDS = ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
REQUEST = SweepRequest(variants=(Variant("lora"), Variant("full")), seeds=(0, 1, 2))


@pytest.fixture(autouse=True)
def four_cards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    devices.list_devices.cache_clear()
    use_cards(monkeypatch, *FOUR, OTHER)
    yield
    devices.list_devices.cache_clear()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def queued(folder: Path, request: SweepRequest = REQUEST) -> list[RunSpec]:
    return enqueue_sweep(checked(request), folder)


def devices_of(folder: Path) -> list[str]:
    """The device of each run, by run id."""
    return [run.spec.device for run in RunStore(folder).runs()]


def machine_for(specs: list[RunSpec], **seconds: float) -> Machine:
    """Runs take a minute, or the seconds of their method."""
    return Machine({one.run_id: seconds.get(one.method, 60.0) for one in specs}, IDS)


def test_auto_may_use_every_card_like_the_first_and_a_named_card_is_alone(runs: Path) -> None:
    assert {spec.may_use for spec in queued(runs)} == {IDS}
    assert {spec.may_use for spec in queued(runs, replace(REQUEST, device="cuda:4"))} == {
        ("cuda:4",)
    }
    assert {spec.may_use for spec in queued(runs, replace(REQUEST, device="cpu"))} == {("cpu",)}


def test_runs_of_one_sweep_are_shared_out_one_at_a_time_on_each_like_card(runs: Path) -> None:
    specs = queued(runs)
    machine = machine_for(specs)
    machine.work(runs)
    assert len(specs) == 7
    assert machine.now == 120, "seven runs of a minute on four cards"
    for device in IDS:
        times = sorted((begin, end) for _, own, begin, end in machine.used if own == device)
        assert times, "no card stood idle"
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))
    used = {run_id: device for run_id, device, _, _ in machine.used}
    recorded = {run.run_id: run.spec.device for run in RunStore(runs).runs()}
    assert recorded == used, "each run's record says where it ran"


def test_a_run_is_started_once_though_its_worker_takes_a_while_to_say_so(runs: Path) -> None:
    specs = queued(runs, replace(REQUEST, variants=(Variant("lora"),), seeds=(0,)))
    machine = machine_for(specs)
    machine.work(runs)
    assert [run_id for run_id, *_ in machine.used] == [specs[1].run_id, specs[0].run_id]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[None]:
    """Another process of ftlab uses the second card."""
    script = (
        "from ftlab.basics.locks import DeviceLock; import sys;"
        "DeviceLock('cuda:1').acquire(); print('mine', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"mine\n"
    yield
    holder.communicate(b"")


@pytest.mark.usefixtures("held")
def test_a_card_that_another_process_of_ftlab_uses_is_left_to_it(runs: Path) -> None:
    machine = machine_for(queued(runs))
    machine.work(runs)
    assert {device for _, device, _, _ in machine.used} == {"cuda:0", "cuda:2", "cuda:3"}


def test_a_card_whose_memory_another_program_holds_is_left_to_it(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machine_for(queued(runs))
    monkeypatch.setattr(locks, "free_bytes", lambda card: (4 if card.id == "cuda:2" else 23) * GB)
    machine.work(runs)
    assert {device for _, device, _, _ in machine.used} == {"cuda:0", "cuda:1", "cuda:3"}


def test_a_folder_of_locks_that_cannot_be_used_starts_runs_which_then_say_so(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = machine_for(queued(runs))
    (tmp_path / "file").touch()
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "file" / "locks"))
    machine.work(runs)
    assert len(machine.used) == 7


def test_a_card_that_is_gone_gets_no_run(runs: Path) -> None:
    machine = machine_for(queued(runs))
    machine.devices = IDS[:2]
    machine.work(runs)
    assert {device for _, device, _, _ in machine.used} == {"cuda:0", "cuda:1"}


def test_the_longest_runs_of_a_sweep_are_started_next(runs: Path) -> None:
    request = replace(REQUEST, variants=(Variant("lora"), Variant("dora"), Variant("full")))
    specs = queued(runs, replace(request, seeds=(0,)))
    base, lora, dora, full = specs
    seconds = {base.run_id: 5.0, lora.run_id: 10.0, dora.run_id: 20.0, full.run_id: 90.0}
    order = [
        run.run_id
        for run in in_starting_order(RunStore(runs).runs(), lambda run: seconds[run.run_id])
    ]
    assert order == [one.run_id for one in (lora, base, full, dora)], (
        "the first is seen early, and what all are compared with is measured soon"
    )


@pytest.mark.parametrize("seed", range(3))
def test_eight_devices_compute_for_nineteen_twentieths_of_the_time(seed: int, runs: Path) -> None:
    machine = simulate(runs, 8, 40, (20.0, 600.0), 6.0, seed)
    assert len(machine.used) == 40
    assert machine.busy_share() >= 0.95


def test_a_run_that_goes_on_may_do_so_on_another_card(runs: Path) -> None:
    specs = queued(runs, replace(REQUEST, variants=(Variant("lora"),), seeds=(0,)))
    machine_for(specs).work(runs)
    base, lora = [RunDirectory(runs / spec.run_id) for spec in specs]
    lora.complete_spec(replace(lora.spec(), device="cuda:3"))  # where it was cut off
    lora.result_file.unlink()
    lora.write_result(RunResult("cancelled"))
    begin_anew(lora)
    machine_for(specs).work(runs)
    assert lora.spec().device == "cuda:0"
    assert base.spec().device == "cuda:1"


def test_a_start_that_is_refused_on_one_card_is_recorded_on_the_card_where_it_succeeds(
    runs: Path,
) -> None:
    machine = machine_for(queued(runs, replace(REQUEST, variants=(Variant("lora"),), seeds=(0,))))
    taken, refused = DeviceLock("cuda:0"), []

    def refusing(directory: RunDirectory, device: str) -> Worker:
        if not refused:
            refused.append(device)
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return machine.start(directory, device)

    dispatcher = Dispatcher(runs, refusing, devices=lambda: devices.list_devices())
    assert taken.try_acquire()
    dispatcher.step()
    assert refused == ["cuda:1"]
    taken.release()
    dispatcher.step()
    assert devices_of(runs) == [device for _, device, *_ in sorted(machine.used)]
    assert "cuda:0" in devices_of(runs)


def test_where_others_use_every_card_a_run_waits_in_line_for_the_first(runs: Path) -> None:
    taken = [DeviceLock(one) for one in IDS]
    assert all(lock.try_acquire() for lock in taken)
    specs = queued(runs, replace(REQUEST, variants=(Variant("lora"),), seeds=(0,)))
    machine_for(specs).work(runs)
    assert devices_of(runs) == ["cuda:0", "cuda:0"], "its worker waits until the card is free"


def test_asking_for_the_same_runs_again_asks_for_any_card_again(runs: Path) -> None:
    machine = machine_for(queued(runs))
    machine.work(runs)
    (again,) = requests_of(run.spec for run in RunStore(runs).runs())
    assert again.device == "auto"
    assert len(again.variants) == 2
    assert again.seeds == (0, 1, 2)


def test_the_record_of_a_run_with_one_device_is_as_before(runs: Path) -> None:
    (alone, *_), (shared, *_) = queued(runs, replace(REQUEST, device="cpu")), queued(runs)
    assert b"devices" not in dump_spec(alone)
    assert load_spec(dump_spec(shared)) == shared


def test_the_playground_takes_a_free_card_and_without_one_the_first() -> None:
    taken = [DeviceLock(one) for one in IDS]
    assert taken[0].try_acquire()
    assert free_device().id == "cuda:1"
    assert all(lock.try_acquire() for lock in taken[1:])
    assert free_device().id == "cuda:0"


def test_auto_is_named_with_the_number_of_its_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.auto_label() == "4 × Card"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    devices.list_devices.cache_clear()
    assert devices.auto_label() == "Other"


@pytest.mark.parametrize(
    ("card", "is_like"),
    [
        (FakeCard("Card", "GPU-1", 24 * GB - 20_000_000), True),
        (FakeCard("Card", "GPU-1", 48 * GB), False),
        (FakeCard("Another", "GPU-1"), False),
        (FakeCard("Card", "GPU-1", capability=(7, 5)), False),
    ],
    ids=["some megabytes less", "more memory", "another model", "another generation"],
)
def test_cards_are_like_if_model_and_memory_are_equal(
    card: FakeCard, is_like: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.list_devices.cache_clear()
    use_cards(monkeypatch, FakeCard("Card", "GPU-0"), card)
    assert len(devices.like_devices("auto")) == 1 + is_like


@pytest.mark.parametrize(
    ("device", "settings", "part"),
    [
        ("auto", {"shard": 5, "batch_size": 8}, "this machine has 4 alike; choose 4 or fewer"),
        ("cuda:1", {"shard": 2}, "the device cuda:1 is one; choose the device auto"),
        ("auto", {"shard": 4, "batch_size": 3}, "choose batch size 4 or more, or fewer GPUs"),
        ("auto", {"shard": 2, "optimizer": "adamw_8bit"}, "choose adamw, or 1 GPU in a run"),
        ("auto", {"shard": 2, "measure_answering": True}, "switch Measure answering off"),
    ],
)
def test_a_run_that_cannot_be_divided_over_so_many_cards_is_refused_with_the_way_out(
    device: str, settings: dict, part: str
) -> None:
    request = SweepRequest(
        variants=(Variant("lora"),), settings=TrainingSettings(**settings), device=device
    )
    [error] = validate(request)
    assert error.field == "settings.shard"
    assert part in error.message
    assert not validate(replace(request, settings=TrainingSettings(shard=2), device="auto"))
    assert not validate(replace(request, settings=TrainingSettings(shard=3), device="cpu"))


def test_a_run_over_several_cards_gets_as_many_at_once_and_waits_its_turn(runs: Path) -> None:
    one = queued(runs, replace(REQUEST, variants=(Variant("lora"),), seeds=(0, 1)))
    settings = TrainingSettings(shard=3)
    two = queued(runs, replace(REQUEST, variants=(Variant("full"),), seeds=(0,), settings=settings))
    last = queued(runs, replace(REQUEST, variants=(Variant("dora"),), seeds=(0,)))
    machine = machine_for([*one, *two, *last])
    machine.work(runs)
    recorded = {run.run_id: run.spec for run in RunStore(runs).runs()}
    times = {run_id: (begin, end) for run_id, _, begin, end in machine.used}
    for spec in two:
        held = recorded[spec.run_id].held
        assert len(set(held)) == 3
        assert recorded[spec.run_id].device == held[0]
        begin, end = times[spec.run_id]
        for other, (began, ended) in times.items():
            shares = set(recorded[other].held) & set(held)
            assert other == spec.run_id or not shares or ended <= begin or end <= began, other
