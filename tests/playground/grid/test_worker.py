"""A grid being answered, by an engine that has no model."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ftlab.basics.devices import Device
from ftlab.basics.locks import DeviceLock, FileLock
from ftlab.basics.processes import STUCK_STATUS
from ftlab.playground import grid_worker
from ftlab.playground.grid import ROWS, Cell, GridDirectory, GridProcess, GridRequest, portions
from ftlab.playground.grid_table import by_place
from ftlab.playground.grid_worker import held_out_scores, main
from ftlab.playground.held_out import AnswerScore
from ftlab.playground.requests import PaneUpdate
from tests.playground.grid.fakes import CPU, RUN, SQL, FakeEngine, job_of, make_grid, make_request
from tests.waiting import wait_until


def cells_of(grid: GridDirectory) -> dict[tuple[int, int], Cell]:
    return by_place(grid.cells())


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr("ftlab.basics.locks.SECONDS_BETWEEN_TRIES", 0.02)


def test_every_prompt_is_answered_in_every_pane_with_its_measures(
    tmp_path: Path,
) -> None:
    grid = make_grid(tmp_path)
    result = job_of(grid).run()
    cells = cells_of(grid)
    assert {place: cell.answer for place, cell in cells.items()} == {
        (0, 0): "one by base", (0, 1): f"one by {RUN}",
        (1, 0): "two by base", (1, 1): f"two by {RUN}",
    }  # fmt: skip
    lora = cells[1, 1]
    assert (lora.tokens, lora.tokens_per_second, lora.first_token_seconds) == (3, 20.0, 0.1)
    assert (lora.adapter_sha256, lora.kl_nats, lora.top1_changed) == ("ab12", 0.25, True)
    assert (cells[1, 0].kl_nats, cells[1, 0].score, cells[1, 0].error) == (None, None, "")
    assert (result.status, result.reason) == ("done", "")
    assert result.environment["device"] == "CPU, 2 cores"
    assert "transformers" in result.environment["versions"]


def test_portions_fill_the_rows_longest_prompts_first() -> None:
    request = make_request([f"{'x' * (number % 10)} {number}" for number in range(30)])
    places = portions(request)
    assert [len(portion) for portion in places] == [ROWS // 2, ROWS // 2, 6]
    lengths = [len(request.prompts[place]) for portion in places for place in portion]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(place for portion in places for place in portion) == list(range(30))


def test_cells_keep_the_order_of_the_request_although_portions_are_sorted(tmp_path: Path) -> None:
    prompts = ["x" * length for length in (3, 40, 1, 20)] * 7
    grid = make_grid(tmp_path, make_request(prompts))
    engine = FakeEngine()
    job_of(grid, engine).run()
    assert len(engine.portions) == 3
    answers = {cell.prompt: cell.answer for cell in grid.cells() if cell.pane == 0}
    assert answers == {place: f"{prompt} by base" for place, prompt in enumerate(prompts)}


def test_an_error_of_one_pane_is_stored_in_its_cells_only(tmp_path: Path) -> None:
    grid, engine = make_grid(tmp_path), FakeEngine()
    engine.errors[RUN] = "The adapter is not there."
    result = job_of(grid, engine).run()
    cells = cells_of(grid)
    assert result.status == "done"
    assert cells[0, 1].error == "The adapter is not there."
    assert cells[0, 1].answer == "o"
    assert cells[0, 0].answer == "one by base"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[GridProcess]:
    """Every progress that is written; it is written at every update."""
    monkeypatch.setattr(grid_worker, "_SECONDS_BETWEEN_WORDS", 0.0)
    told: list[GridProcess] = []
    write = GridDirectory.write_process

    def spy(grid: GridDirectory, process: GridProcess) -> None:
        told.append(process)
        write(grid, process)

    monkeypatch.setattr(GridDirectory, "write_process", spy)
    return told


def test_unfinished_answers_count_by_their_tokens(tmp_path: Path, told: list[GridProcess]) -> None:
    request = make_request(["one"], panes=("base",), labels=(), methods=(), max_new_tokens=4)
    job_of(make_grid(tmp_path, request)).run()
    reached = [process.reached for process in told]
    assert reached == [0, 0, 0.25, 1], "at the start, while it waits, after a token, at the end"


def test_loading_is_reported_and_not_counted_as_work(
    tmp_path: Path, told: list[GridProcess]
) -> None:
    words = "Downloading the base model: 1.2 of 3.1 GB …"

    class Loading(FakeEngine):
        def answer_each(self, request: Any, prompts: Any, send: Any, check: Any) -> None:
            send(0, PaneUpdate(0, "status", words))
            time.sleep(0.02)
            super().answer_each(request, prompts, send, check)

    job_of(make_grid(tmp_path), Loading()).run()
    assert (words, 0.0) in [(process.waiting, process.worked_seconds) for process in told]
    assert told[-1].waiting == ""
    assert {process.waiting for process in told if process.worked_seconds} == {""}


def test_a_cancelled_grid_keeps_its_cells(tmp_path: Path) -> None:
    grid = make_grid(tmp_path)
    engine = FakeEngine(lambda number: grid.cancel_file.touch() if number == 2 else None)
    result = job_of(grid, engine).run()
    assert (result.status, result.reason) == ("cancelled", "Cancelled by the person.")
    assert len(grid.cells()) == 2
    assert DeviceLock("cpu").try_acquire(), "the device was kept"


def test_a_grid_can_be_cancelled_while_it_waits_for_the_device(tmp_path: Path) -> None:
    grid, engine = make_grid(tmp_path), FakeEngine()
    assert DeviceLock("cpu").try_acquire()
    threading.Timer(0.1, grid.cancel_file.touch).start()
    assert job_of(grid, engine).run().status == "cancelled"
    assert engine.portions == []


def test_a_lost_gpu_ends_the_grid_after_the_portion(tmp_path: Path) -> None:
    engine = FakeEngine()
    engine.device_answers = False
    result = job_of(make_grid(tmp_path), engine).run()
    assert result.status == "failed"
    assert "reported an error and no longer responds; look at the driver's" in result.reason
    assert len(engine.portions) == 1


def test_an_engine_that_breaks_fails_the_grid_with_its_reason(tmp_path: Path) -> None:
    def breaks(number: int) -> None:
        if number == 1:
            raise RuntimeError("no kernel\nimage")

    grid = make_grid(tmp_path)
    result = job_of(grid, FakeEngine(breaks)).run()
    assert result.status == "failed"
    assert result.reason == "The grid could not go on: RuntimeError: no kernel image"
    assert len(grid.cells()) == 1


def test_a_full_disk_fails_the_grid_and_is_no_error_of_a_pane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: GridDirectory, cell: Cell) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(GridDirectory, "add_cell", full)
    result = job_of(make_grid(tmp_path)).run()
    assert result.status == "failed"
    assert result.reason == "An answer could not be written (No space left on device)."


def test_a_waiting_process_goes_first_and_the_wait_is_measured(tmp_path: Path) -> None:
    grid = make_grid(tmp_path)
    waiting: list[str] = []

    def train() -> None:
        turn = DeviceLock("cpu")
        turn.acquire()
        deadline = time.monotonic() + 5
        while not waiting and time.monotonic() < deadline:
            process = grid.process()
            waiting.extend(filter(None, [process.waiting if process else ""]))
            time.sleep(0.01)
        turn.release()

    training = threading.Thread(target=train)

    def on_check(number: int) -> None:
        if number == 1:
            training.start()
            line = FileLock(tmp_path / "locks" / "device-cpu.next.lock")
            while line.try_acquire():  # until it waits in line
                line.release()
                time.sleep(0.01)

    engine = FakeEngine(on_check)
    result = job_of(grid, engine).run()
    training.join()
    assert waiting == ["Waiting for a training run or a prompt."]
    process = grid.process()
    assert process is not None
    assert process.waiting == ""
    assert result.status == "done"
    assert [held > 0 for held in engine.held] == [False, True, False, False]
    assert 0 < result.waited_seconds <= result.seconds
    assert grid.cells()[-1].worked_seconds < result.seconds - result.waited_seconds + 0.01


def test_a_waiting_grid_does_not_block_other_processes(tmp_path: Path) -> None:
    grid, training = make_grid(tmp_path), DeviceLock("cpu")
    assert training.try_acquire()
    job = threading.Thread(target=job_of(grid).run)
    job.start()
    line = FileLock(tmp_path / "locks" / "device-cpu.next.lock")
    deadline = time.monotonic() + 5
    while not (process := grid.process()) or not process.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    got_in_line = [line.try_acquire()]
    while not got_in_line[-1] and len(got_in_line) < 20:  # it may just be looking
        time.sleep(0.005)
        got_in_line.append(line.try_acquire())
    line.release()
    training.release()
    job.join()
    assert got_in_line[-1], "a prompt could not get in line before the grid"
    assert len(grid.cells()) == 4


def test_a_second_grid_waits_for_the_first(tmp_path: Path) -> None:
    first, second = make_grid(tmp_path), make_grid(tmp_path)
    seen: list[str] = []

    def on_check(number: int) -> None:
        deadline = time.monotonic() + 5
        while number == 0 and not seen and time.monotonic() < deadline:
            process = second.process()
            seen.extend(filter(None, [process.waiting if process else ""]))
            time.sleep(0.01)

    other = threading.Thread(target=job_of(second).run)
    engine = FakeEngine(
        lambda number: (other.start() if number == 0 else None, on_check(number))[1]
    )
    job_of(first, engine).run()
    other.join()
    assert seen == ["Waiting for another prompt grid."]
    assert len(second.cells()) == 4


def test_if_torch_cannot_use_the_gpu_the_cpu_is_locked_instead(
    tmp_path: Path,
) -> None:
    gpu = Device("cuda:0", "GPU", 8 * 10**9)
    free: list[str] = []

    def on_check(number: int) -> None:
        if number == 0:
            free.extend(name for name in ("cpu", "cuda:0") if DeviceLock(name).try_acquire())

    grid = make_grid(tmp_path)
    result = job_of(grid, FakeEngine(on_check), devices=(gpu, CPU)).run()
    assert free == ["cuda:0"]
    assert result.environment["device"] == "CPU, 2 cores"


def test_answers_are_scored_if_the_grid_names_a_task(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, make_request(["one", "two", "three"]))

    def score(prompt: str, answer: str) -> AnswerScore | None:
        if prompt == "three":
            raise ValueError("a bug in a metric")
        return AnswerScore(0.5, "chrF", f"{len(answer)} letters", None) if prompt == "one" else None

    result = job_of(grid, score=score).run()
    cells = cells_of(grid)
    assert result.status == "done"
    assert (cells[0, 0].score, cells[0, 0].metric, cells[0, 0].verdict) == (
        0.5,
        "chrF",
        "11 letters",
    )
    assert (cells[1, 0].score, cells[1, 0].verdict) == (None, "")
    assert (cells[2, 0].score, cells[2, 0].answer) == (None, "three by base")


def test_held_out_answers_are_scored_by_the_task_of_the_request() -> None:
    from ftlab.tasks.registry import bundled_data, get_task

    example = bundled_data(get_task("sql")).held_out[0]
    score = held_out_scores(GridRequest(make_request().request, (example.question,), SQL))
    assert score is not None
    right = score(example.question, example.completion)
    assert right is not None
    assert (right.score, right.metric) == (1.0, get_task("sql").metric.label)
    assert score("hello", "hi") is None
    assert held_out_scores(make_request()) is None


def test_a_grid_is_processed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = make_grid(tmp_path, status="done")
    assert main([str(grid.path)]) == 2
    assert "was started before" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert "is no grid" in capsys.readouterr().err


STUCK = """
import sys, time
from tests.playground.grid.fakes import FakeEngine, FakeEngines
from ftlab.playground import grid_worker
from ftlab.playground.requests import WAITING, PaneUpdate
grid_worker.PORTION_SECONDS = 0.5

class Stuck(FakeEngine):
    def answer_each(self, request, prompts, send, check):
        send(0, PaneUpdate(0, "status", WAITING))
        open(sys.argv[1] + "/stuck", "w").close()
        time.sleep(60)

grid_worker.Engines = lambda *_: FakeEngines(Stuck())
sys.exit(grid_worker.main(sys.argv[1:]))
"""


@pytest.mark.fault("prompt grid that hangs")
def test_a_grid_without_progress_fails_with_a_sentence_and_gives_the_device_back(
    tmp_path: Path,
) -> None:
    grid = make_grid(tmp_path)
    command = [sys.executable, "-c", STUCK, str(grid.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == STUCK_STATUS, done.stderr
    result = grid.result()
    assert result is not None
    assert (grid.status(), result.reason) == (
        "failed",
        "It showed no progress for 0 seconds and was ended.",
    )
    assert DeviceLock(CPU.id).try_acquire()


def test_a_process_that_does_not_react_to_the_cancellation_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GridDirectory, "seconds_to_stop", 0.1)
    grid = make_grid(tmp_path)
    command = [sys.executable, "-c", STUCK.replace("0.5", "60"), str(grid.path)]
    with subprocess.Popen(command) as process:
        wait_until((grid.path / "stuck").exists)
        grid.cancel()
    assert process.returncode == -signal.SIGTERM
    assert grid.status() == "cancelled"
    assert DeviceLock(CPU.id).try_acquire()


def test_the_wait_for_the_device_has_no_timeout(tmp_path: Path) -> None:
    holder = DeviceLock(CPU.id)
    assert holder.try_acquire()
    said: list[str] = []
    dog = Mock()
    dog.rest.side_effect = lambda: (said.append("rest"), holder.release())
    dog.expect.side_effect = lambda seconds: said.append("expect")
    job_of(make_grid(tmp_path), watchdog=dog).run()
    assert said[:2] == ["rest", "expect"]
