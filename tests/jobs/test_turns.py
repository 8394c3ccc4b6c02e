"""People take turns: on each device the owners of waiting runs are served one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftlab.basics import devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.people import Person, asked_by
from ftlab.jobs.launch import checked, enqueue_again, enqueue_sweep
from ftlab.methods.variant import Variant
from ftlab.records.result import RunResult
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from tests.fake_nvml import GB, FakeCard, use_cards
from tests.simulated import Machine

CPU_SWEEP = SweepRequest(variants=(Variant("lora"),), seeds=(0, 1, 2, 3), device="cpu")


def queued(folder: Path, owner: str, request: SweepRequest = CPU_SWEEP) -> list[RunSpec]:
    with asked_by(Person(owner)):
        return enqueue_sweep(checked(request), folder)


def worked(folder: Path, *sweeps: list[RunSpec], devices: tuple[str, ...] = ("cpu",)) -> Machine:
    seconds = {spec.run_id: 60.0 for sweep in sweeps for spec in sweep}
    machine = Machine(seconds, devices)
    machine.work(folder)
    return machine


def owners(machine: Machine, *sweeps: list[RunSpec]) -> list[str]:
    """Of the runs, in the order of their starts."""
    known = {spec.run_id: spec.owner for sweep in sweeps for spec in sweep}
    return [known[run_id] for run_id, *_ in machine.used]


def test_the_sweep_of_a_second_person_does_not_wait_for_all_of_the_first(tmp_path: Path) -> None:
    first, second = queued(tmp_path, "ada"), queued(tmp_path, "bob")
    machine = worked(tmp_path, first, second)
    found = owners(machine, first, second)
    assert found == found[:2] * 5
    assert set(found) == {"ada", "bob"}
    alone = [run_id for run_id, *_ in machine.used if run_id.startswith(second[0].sweep_id)]
    assert sorted(alone) == sorted(spec.run_id for spec in second)


def test_each_persons_runs_keep_the_order_that_they_have_alone(tmp_path: Path) -> None:
    alone = queued(tmp_path / "alone", "ada")
    wanted = [run_id.split("-", 3)[3] for run_id, *_ in worked(tmp_path / "alone", alone).used]
    first, second = queued(tmp_path / "both", "ada"), queued(tmp_path / "both", "bob")
    machine = worked(tmp_path / "both", first, second)
    for sweep in (first, second):
        own = [run_id.split("-", 3)[3] for run_id, *_ in machine.used
               if run_id.startswith(sweep[0].sweep_id)]  # fmt: skip
        assert own == wanted


def test_three_people_and_the_operator_take_turns_whatever_they_queued(tmp_path: Path) -> None:
    many = [queued(tmp_path, "ada") for _ in range(3)]
    others = [queued(tmp_path, owner) for owner in ("bob", "cyd", "")]
    found = owners(worked(tmp_path, *many, *others), *many, *others)
    assert found[:20] == found[:4] * 5
    assert set(found[:4]) == {"ada", "bob", "cyd", ""}
    assert set(found[20:]) == {"ada"}


class TestSeveralCards:
    """Where runs may use several devices, each device has its own turns."""

    @pytest.fixture(autouse=True)
    def two_cards(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        devices.list_devices.cache_clear()
        use_cards(monkeypatch, *(FakeCard("C", f"GPU-{n}", free=23 * GB) for n in (111, 222)))
        yield
        devices.list_devices.cache_clear()

    def test_on_each_card_the_people_alternate(self, tmp_path: Path) -> None:
        request = SweepRequest(variants=(Variant("lora"),), seeds=tuple(range(7)))
        first, second = (queued(tmp_path, owner, request) for owner in ("ada", "bob"))
        machine = worked(tmp_path, first, second, devices=("cuda:0", "cuda:1"))
        known = {spec.run_id: spec.owner for spec in (*first, *second)}
        for card in ("cuda:0", "cuda:1"):
            own = [known[run_id] for run_id, device, *_ in machine.used if device == card]
            assert len(own) == 8
            assert all(one != next for one, next in itertools.pairwise(own)), own

    def test_a_run_over_both_cards_gets_them_though_others_queue_small_ones(
        self, tmp_path: Path
    ) -> None:
        small = SweepRequest(variants=(Variant("lora"),), seeds=tuple(range(9)))
        large = SweepRequest(
            variants=(Variant("lora"),), settings=TrainingSettings(shard=2, batch_size=2)
        )
        first, second = queued(tmp_path, "ada", small), queued(tmp_path, "bob", large)
        found = owners(worked(tmp_path, first, second, devices=("cuda:0", "cuda:1")), first, second)
        assert "bob" in found[:4], found

    def test_who_has_a_card_to_oneself_takes_no_turn_on_it(self, tmp_path: Path) -> None:
        own = SweepRequest(variants=(Variant("lora"),), seeds=tuple(range(3)), device="cuda:1")
        other = SweepRequest(variants=(Variant("lora"),), seeds=tuple(range(3)), device="cuda:0")
        first, second = queued(tmp_path, "ada", own), queued(tmp_path, "bob", other)
        machine = worked(tmp_path, first, second, devices=("cuda:0", "cuda:1"))
        assert machine.now == 240, "four runs of a minute on each card"


def test_a_queue_is_full_at_the_limit_of_one_person_alone(tmp_path: Path) -> None:
    limited = Person("ada", changes_all=False, most_queued=7)
    with asked_by(limited):
        enqueue_sweep(checked(CPU_SWEEP), tmp_path)  # 5 runs, the base included
        with pytest.raises(FtlabError, match=r"5 runs of yours wait or run already; with 5 more"):
            enqueue_sweep(checked(CPU_SWEEP), tmp_path)
    assert len(RunStore(tmp_path).runs()) == 5, "nothing of the refused sweep was written"
    assert len(queued(tmp_path, "bob")) == 5
    with asked_by(limited):
        for run in RunStore(tmp_path).runs():
            if run.spec.owner == "ada":
                run.directory.write_result(RunResult("done"))
        assert len(enqueue_sweep(checked(CPU_SWEEP), tmp_path)) == 5


def test_runs_that_are_asked_for_again_belong_to_who_asks(tmp_path: Path) -> None:
    specs = queued(tmp_path, "ada")
    with asked_by(Person("bob")):
        (again,) = enqueue_again(specs, tmp_path)
    assert {spec.owner for spec in again} == {"bob"}


def test_more_runs_of_a_sweep_are_added_by_its_owner_or_an_admin_and_stay_the_owners(
    tmp_path: Path,
) -> None:
    specs = queued(tmp_path, "ada")
    more = checked(SweepRequest(variants=(Variant("lora"),), seeds=(9,), device="cpu"))
    with (
        asked_by(Person("bob", changes_all=False)),
        pytest.raises(FtlabError, match="belongs to ada"),
    ):
        enqueue_sweep(more, tmp_path, onto=specs)
    with asked_by(Person("root")):
        (added,) = enqueue_sweep(more, tmp_path, onto=specs)
    assert added.owner == "ada"
