"""Where runs are executed: what `--on` may name, which nodes take a run, and jobs of Slurm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ftlab.basics.devices import CPU, Device, list_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import DEVICES_VARIABLE, python_environment
from ftlab.jobs import node
from ftlab.jobs.control import note_cancel, start_dispatcher, trouble_of
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launch import checked, enqueue_sweep, requests_of
from ftlab.jobs.launchers import connect, slurm
from ftlab.jobs.launchers.cluster import NodeWatch, RayNode
from ftlab.jobs.launchers.launcher import (
    ON_VARIABLE,
    Ended,
    NotNow,
    launcher_named,
    read_job,
    where_runs_go,
)
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.jobs.launchers.ray_client import authenticate, why_not
from ftlab.jobs.node import Node, found_file
from ftlab.methods.variant import Variant
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.experiment.queue import executed_elsewhere
from ftlab.tasks.reference import parse_task
from tests.waiting import wait_until
from tests.workers import DIES, DONE, REQUEST, SLOW, as_started, statuses, step_until, worker

L40S = Device("cuda:0", "NVIDIA L40S", 48 * 10**9, "GPU-1", (8, 9))
A100 = Device("cuda:0", "NVIDIA A100", 80 * 10**9, "GPU-2", (8, 0))
PROCESSOR = Device(CPU, "CPU, 8 cores", 64 * 10**9)


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (ON_VARIABLE, "RAY_ADDRESS", DEVICES_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    list_devices.cache_clear()
    yield
    for name in (ON_VARIABLE, DEVICES_VARIABLE):  # `use` sets them
        os.environ.pop(name, None)
    list_devices.cache_clear()


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("head:8265", "neither the address of a Ray cluster's dashboard"),
        ("ray://head:10001", "neither the address of a Ray cluster's dashboard"),
        ("slurm:partitions=gpu", "'partitions=gpu' of --on is not NAME=VALUE"),
        ("slurm:minutes=soon", "must be a whole number above 0"),
    ],
)
def test_what_on_names_wrongly_is_refused_with_a_sentence(
    named: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(FtlabError, match=why):
        launcher_named(named, tmp_path)


def test_the_address_that_rays_own_tools_read_counts_unless_it_is_one_of_a_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # as in a Ray job
    assert where_runs_go() == ""
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265/")
    assert where_runs_go() == "http://head:8265"
    monkeypatch.setenv(ON_VARIABLE, "slurm")
    assert where_runs_go() == "slurm"


def test_a_token_is_wanted_unless_the_person_says_otherwise(tmp_path: Path) -> None:
    nowhere = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    with pytest.raises(FtlabError, match="There is no token for the Ray cluster"):
        authenticate(nowhere)
    for given in ({"RAY_AUTH_TOKEN": "x"}, {"RAY_AUTH_TOKEN_PATH": __file__}):
        environment = dict(given)
        authenticate(environment)
        assert environment["RAY_AUTH_MODE"] == "token"
    open_to_all = nowhere | {"RAY_AUTH_MODE": "disabled"}
    authenticate(open_to_all)
    assert open_to_all["RAY_AUTH_MODE"] == "disabled"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ConnectionError("Failed to connect to Ray"), "No Ray cluster answers at http://h:1;"),
        (RuntimeError("Authentication required: Unauthorized"), "wants a token"),
        (RuntimeError("Authentication failed: Forbidden"), "refuses this token"),
        (RuntimeError("Client Ray version 2 is not compatible"), "cannot be used: RuntimeError"),
    ],
)
def test_what_ray_answers_is_said_in_a_sentence(error: Exception, why: str) -> None:
    assert why in why_not("http://h:1", error)


@dataclass
class Nodes:
    """A cluster of fakes: what Ray lists, and what each check leaves and prints."""

    folder: Path
    resources: dict[str, dict[str, float]]
    found: dict[str, Node] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    error: Exception | None = None

    def watch(self) -> NodeWatch:
        return NodeWatch(self.folder, self._list, self._check, self.said.get)

    def _list(self) -> list[RayNode]:
        if self.error is not None:
            raise self.error
        return [RayNode(name, resources) for name, resources in self.resources.items()]

    def _check(self, name: str, arguments: tuple[str, ...]) -> str:
        kind, folder, mark, asked = arguments
        assert (kind, folder, asked) == ("check", str(self.folder), name)
        if name in self.found:
            found_file(self.folder, mark, name).write_bytes(node._NODE.dump_json(self.found[name]))
        return name


def seen(*devices: Device) -> Node:
    return Node("machine", "3.11.7", {}, (*devices, PROCESSOR), True, 10**12)


def spec(folder: Path, device: str) -> RunSpec:
    (found, *_) = enqueue_sweep(REQUEST, folder)
    return replace(found, device=device)


def test_a_node_takes_a_run_on_each_of_its_gpus_and_one_without_takes_one(tmp_path: Path) -> None:
    nodes = Nodes(
        tmp_path,
        {"cards": {"GPU": 2.0, "CPU": 8.0}, "plain": {"CPU": 8.0}},
        {"cards": seen(L40S, replace(L40S, id="cuda:1")), "plain": seen()},
    )
    places = nodes.watch().places()
    on_gpu, on_cpu = spec(tmp_path / "a", "cuda:0"), spec(tmp_path / "b", CPU)
    assert places.for_run(on_gpu, ()) == ("cards/0",)
    assert places.for_run(on_gpu, ("cards/0",)) == ("cards/1",)
    assert places.for_run(on_gpu, ("cards/0", "cards/1")) == ()
    assert places.for_run(on_cpu, ("cards/0", "cards/1")) == ("plain/0",)
    over_two = replace(on_gpu, settings=replace(on_gpu.settings, shard=2), devices=("cuda:0",) * 2)
    assert places.for_run(over_two, ()) == ("cards/0", "cards/1")
    assert places.for_run(over_two, ("cards/0",)) == ()
    assert places.wanted(over_two) == ["cards/0", "cards/1"]
    assert RayNode("cards", nodes.resources["cards"]).taken(2) == {"entrypoint_num_gpus": 2}
    assert RayNode("plain", nodes.resources["plain"]).taken(1) == {"entrypoint_num_cpus": 8.0}


def test_runs_of_one_folder_stay_on_the_card_that_the_app_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = connect.DEVICES.dump_json((L40S, PROCESSOR)).decode()
    monkeypatch.setenv(DEVICES_VARIABLE, told)
    found = {"new": seen(A100), "old": seen(L40S)}
    places = Nodes(tmp_path, {name: {"GPU": 1.0} for name in found}, found).watch().places()
    assert places.for_run(spec(tmp_path / "a", "cuda:0"), ()) == ("old/0",)
    assert places.for_run(spec(tmp_path / "a", "cuda:0"), ("old/0",)) == ()


NO_MODULE = "/usr/bin/python: No module named ftlab.jobs"


@pytest.mark.fault("runs folder not shared with a node")
@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("ftlab: The runs folder '/x' is not there on the machine b.\n", "The runs folder '/x'"),
        (NO_MODULE, "'python' lacks what ftlab needs"),
    ],
)
def test_a_node_that_is_unfit_is_named_once_and_the_others_go_on(
    said: str, why: str, tmp_path: Path
) -> None:
    resources = {"a": {"CPU": 2.0}, "b": {"CPU": 2.0}}
    watch = Nodes(tmp_path, resources, {"a": seen()}, {"b": said}).watch()
    places = watch.places()
    assert why in trouble_of(tmp_path)
    assert watch.is_settled
    on_cpu = spec(tmp_path / "runs", CPU)
    assert [places.for_run(on_cpu, busy) for busy in ((), ("a/0",))] == [("a/0",), ()]


def test_a_run_over_more_gpus_than_any_node_has_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.jobs.launchers.cluster._LOOK_SECONDS", 0.0)
    watch = Nodes(tmp_path, {"a": {"GPU": 2.0}}, {"a": seen(L40S)}).watch()
    on_gpu = spec(tmp_path / "runs", "cuda:0")
    over_four = replace(on_gpu, settings=replace(on_gpu.settings, shard=4))
    assert watch.places().for_run(over_four, ()) == ()
    watch.places()
    assert f"No node has the 4 GPUs that {on_gpu.run_id} is divided over" in trouble_of(tmp_path)


@pytest.mark.fault("head of the Ray cluster away")
def test_a_cluster_that_is_away_is_said_so_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.jobs.launchers.cluster._LOOK_SECONDS", 0.0)
    nodes = Nodes(tmp_path, {"a": {"CPU": 2.0}}, {"a": seen()})
    watch = nodes.watch()
    assert watch.places().for_run(spec(tmp_path / "runs", CPU), ()) == ("a/0",)
    nodes.error = FtlabError("No Ray cluster answers.")
    watch.places()
    assert trouble_of(tmp_path) == "No Ray cluster answers."
    nodes.error, nodes.resources = None, {}
    assert watch.places().for_run(spec(tmp_path / "runs", CPU), ()) == ()
    with pytest.raises(NotNow):
        watch.node_at("a/0")
    nodes.resources = {"a": {"CPU": 2.0}}
    assert watch.places().for_run(spec(tmp_path / "runs", CPU), ()) == ("a/0",)
    assert trouble_of(tmp_path) == ""


def test_a_node_says_what_to_mount_if_the_dispatchers_mark_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert node.main(["check", str(tmp_path), "mark", "n"]) == node.UNFIT
    assert "mount the storage that holds it on every machine" in capsys.readouterr().out
    assert node.main(["run", str(tmp_path / "no-run")]) == node.UNFIT
    assert "mount the storage that holds it on every machine" in capsys.readouterr().out


def test_all_cards_of_all_nodes_can_be_asked_for() -> None:
    found = [seen(L40S, replace(L40S, id="cuda:1")), seen(L40S)]
    devices = tuple(connect._gpus("http://h:1", found))
    assert [device.id for device in devices] == ["cuda:0", "cuda:1", "cuda:2"]
    assert connect._label((*devices, PROCESSOR)) == "3 × NVIDIA L40S"
    assert connect._label((PROCESSOR,)) == "CPU, 8 cores"


def test_unlike_cards_have_to_be_named() -> None:
    with pytest.raises(FtlabError, match=r"NVIDIA L40S, NVIDIA A100.*--on http://h:1#L40S"):
        list(connect._gpus("http://h:1", [seen(L40S), seen(A100)]))


@pytest.fixture
def slurm_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """submitit executes the jobs on this machine."""
    on = "slurm:cluster=local,at_once=2"
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    connect.use(on, tmp_path / "runs")
    return on


def test_slurm_offers_its_card_with_the_memory_of_the_table() -> None:
    reached = connect.reach("slurm:partition=gpu,card=l40s", Path())
    assert [device.id for device in reached.devices] == ["cuda:0", CPU]
    assert reached.words == "Slurm (partition=gpu,card=l40s): L40S"
    with pytest.raises(FtlabError, match="There is no card 'l40'"):
        connect.reach("slurm:card=l40", Path())


@pytest.mark.slow
@pytest.mark.model
def test_slurm_executes_a_run_as_this_machine_would(
    slurm_here: str, tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    settings = TrainingSettings(steps=2, batch_size=2, eval_examples=2, eval_answers=False)
    request = SweepRequest(
        model=str(tiny_model),
        task=parse_task(str(task_file)),
        variants=(Variant("lora"),),
        settings=settings,
        device=CPU,
    )
    folder = tmp_path / "runs"
    base, lora = enqueue_sweep(checked(request), folder)
    assert {run.queued_for for run in RunStore(folder).runs()} == {slurm_here}
    note_cancel(folder, [base.run_id])
    start_dispatcher(folder)
    wait_until(lambda: not any(run.is_open for run in RunStore(folder).runs()))
    assert statuses(folder) == ["done", "cancelled"]
    steps = [e for e in RunDirectory(folder / lora.run_id).metrics() if e["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2]


@dataclass
class Elsewhere:
    """A launcher whose jobs are scripts; with `is_lost` they end with their machines."""

    script: str
    on: str = "slurm"
    seconds_between_looks: float = 0.05
    is_lost: bool = False
    started: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.local = LocalLauncher(worker(lambda run_id: self.script))

    def places(self) -> slurm.SlurmPlaces:
        return slurm.SlurmPlaces(2)

    def start(self, directory: RunDirectory, places: tuple[str, ...], number: int) -> str:
        self.local.start(directory, (directory.spec().device,), number)
        self.started.append(f"{directory.run_id}.{number}")
        return self.started[-1]

    def status(self, job: str) -> Ended | None:
        end = self.local.status(job.rpartition(".")[0])
        return end and replace(end, is_lost=self.is_lost)

    def cancel(self, job: str, directory: RunDirectory) -> dict[str, int | None]:
        return dict(self.local.cancel(job.rpartition(".")[0], directory))

    def log(self, job: str) -> str:
        return "the node's words"


@pytest.fixture
def queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[RunDirectory]:
    monkeypatch.setenv(ON_VARIABLE, "slurm")
    specs = as_started(enqueue_sweep(REQUEST, tmp_path))
    return [RunDirectory(tmp_path / one.run_id) for one in specs]


@pytest.mark.usefixtures("queued")
def test_a_dispatcher_leaves_the_runs_of_another_launcher_alone(tmp_path: Path) -> None:
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    assert set(statuses(tmp_path)) == {"queued"}
    Dispatcher(tmp_path, Elsewhere(DONE)).work()
    assert set(statuses(tmp_path)) == {"done"}


@pytest.mark.slow
@pytest.mark.fault("machine of a run elsewhere gone")
def test_a_run_that_is_lost_with_its_machine_begins_anew_at_most_twice(
    queued: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = queued[0]
    monkeypatch.setattr("ftlab.jobs.dispatcher.LAST_WORD_SECONDS", 0.1)
    launcher = Elsewhere(DIES, is_lost=True)
    Dispatcher(tmp_path, launcher).work()
    assert set(statuses(tmp_path)) == {"failed"}
    assert [job for job in launcher.started if job.startswith(first.run_id)] == [
        f"{first.run_id}.{number}" for number in (1, 2, 3)
    ]


@pytest.mark.fault("dispatcher gone while a run is at work elsewhere")
def test_a_new_dispatcher_takes_over_the_jobs_and_starts_none_twice(
    queued: list[RunDirectory], tmp_path: Path
) -> None:
    launcher = Elsewhere(SLOW)
    step_until(Dispatcher(tmp_path, launcher), lambda: queued[0].worker() is not None)
    begun = list(launcher.started)
    after = Dispatcher(tmp_path, launcher)
    after._find_jobs()
    after.step()
    assert launcher.started == begun
    note_cancel(tmp_path, [run.run_id for run in queued])
    step_until(after, lambda: set(statuses(tmp_path)) == {"cancelled"})


def test_a_worker_that_cannot_write_its_log_is_told_by_its_jobs_output(
    queued: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.jobs.dispatcher.LAST_WORD_SECONDS", 0.1)
    Dispatcher(tmp_path, Elsewhere("import sys; sys.exit(3)")).work()
    result = queued[0].result()
    assert result is not None
    assert "status 3 and no result. Its last line: the node's words" in result.reason


@pytest.mark.fault("result of another machine seen late")
def test_a_result_that_is_seen_late_is_waited_for(
    queued: list[RunDirectory], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.jobs.dispatcher.LATE_SECONDS", 120.0)
    run = queued[0]
    launcher = Elsewhere("pass")
    dispatcher = Dispatcher(tmp_path, launcher)
    step_until(dispatcher, lambda: read_job(run) is not None)
    wait_until(lambda: launcher.status(f"{run.run_id}.1") is not None)
    dispatcher.step()
    assert run.status() == "queued"
    run.write_result(RunResult("done"))
    dispatcher.step()
    assert run.status() == "done"


def test_runs_elsewhere_ask_for_any_device_again_whatever_node_they_were_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICES_VARIABLE, connect.DEVICES.dump_json((L40S, PROCESSOR)).decode())
    list_devices.cache_clear()
    specs = enqueue_sweep(checked(replace(REQUEST, device="auto")), tmp_path)
    assert {one.devices for one in specs} == {("cuda:0",)}
    on_a_node = [replace(one, device="cuda:3") for one in specs]
    assert {request.device for request in requests_of(on_a_node)} == {"auto"}


def test_a_worker_is_not_told_the_devices_of_other_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(DEVICES_VARIABLE, "[]")
    assert DEVICES_VARIABLE not in python_environment()


@pytest.mark.usefixtures("queued")
def test_the_queue_says_where_runs_are_executed_and_what_is_wrong_there(tmp_path: Path) -> None:
    runs = RunStore(tmp_path).runs()
    assert executed_elsewhere(runs[:0], "", "") == ""
    there = executed_elsewhere(runs, "slurm", "Slurm takes no job: no such partition")
    assert "Runs are executed by Slurm." in there
    assert "no such partition" in there
    assert "Runs wait for slurm: start the app with --on slurm." in executed_elsewhere(runs, "", "")
