"""Running out of memory: a limit that a person sets, CUDA's exception, the kernel's kill."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.__main__ import build_parser, main
from ftlab.basics.errors import FtlabError
from ftlab.commands.sweep import request_from
from ftlab.commands.tables import output_console, print_table
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.jobs.lost_worker import oom_kills
from ftlab.prediction.remedies import counts_of, remedies
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import dump_spec, load_spec
from ftlab.records.store import read_run
from ftlab.settings.request import MEMORY_LIMIT_VARIABLE, parse_memory_limit
from ftlab.tabs.results.panel import panel
from tests.faults.conftest import Enqueue, patched_worker
from tests.workers import PRELUDE, step_until, worker

OUT_AT_STEP = """
import torch
from ftlab.training.trainer import FairTrainer
whole, calls = FairTrainer.compute_loss, []
def runs_out(*given, **named):
    calls.append(1)
    if len(calls) == 3:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return whole(*given, **named)
FairTrainer.compute_loss = runs_out
"""


def ended(run: RunDirectory, dispatcher: Dispatcher) -> RunResult:
    step_until(dispatcher, lambda: run.result() is not None, seconds=120)
    result = run.result()
    assert result is not None
    return result


@pytest.mark.slow
@pytest.mark.fault("out of memory at a limit")
def test_a_run_that_meets_its_limit_is_a_result_with_what_takes_less(
    enqueue: Enqueue, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    base, run = enqueue()
    shutil.rmtree(run.path)
    before = ended(base, Dispatcher(folder)).measures.before_model_bytes
    assert before is not None
    other_base, greedy = enqueue(
        memory_limit=2_000_000_000, batch_size=1024, max_length=256, steps=2
    )
    shutil.rmtree(other_base.path)  # a run of its own: what the base gave is not asked for
    limit = before + 250_000_000
    greedy.spec_file.write_bytes(
        greedy.spec_file.read_bytes().replace(b"2000000000", str(limit).encode())
    )
    result = ended(greedy, Dispatcher(folder))
    assert result.status == "out_of_memory", result.reason
    assert "in the train phase, in step 1 of 2 after a peak of " in result.reason
    assert "the limit is " in result.reason
    assert "Predicted to fit into" in result.reason
    assert "accumulated" in result.reason
    assert result.measures.steps_done == 0
    assert result.measures.peak_memory_bytes is not None
    code_on_top = 64_000_000  # of libraries, first used in training; it is no private data
    assert result.measures.peak_memory_bytes <= limit + code_on_top


@pytest.mark.slow
@pytest.mark.fault("CUDA out of memory")
def test_an_out_of_memory_error_in_a_step_names_phase_step_and_peak_wherever_it_is_shown(
    enqueue: Enqueue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, run = enqueue()
    shutil.rmtree(base.path)
    result = ended(run, Dispatcher(tmp_path / "runs", LocalLauncher(patched_worker(OUT_AT_STEP))))
    assert result.status == "out_of_memory"
    assert "in the train phase, in step 3 of 3 after a peak of " in result.reason
    assert result.measures.steps_done == 2
    assert result.measures.peak_memory_bytes == result.phases["train"].peak_bytes
    assert "Predicted to fit" in result.reason or "takes less" in result.reason
    shown = read_run(run)
    assert "in step 3 of 3" in panel(shown).top
    print_table([shown], output_console())
    assert "in step 3 of 3" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.fault("kernel kills the worker for want of memory")
def test_the_kernels_kill_is_told_from_another_by_its_counter(
    enqueue: Enqueue, tmp_path: Path
) -> None:
    base, run = enqueue()
    shutil.rmtree(base.path)
    lines = [
        '{"event": "phase", "phase": "train"}',
        '{"event": "step", "step": 7, "loss": 2.5, "peak_bytes": 900000000}',
    ]
    dies = PRELUDE + (
        f"with open(run / 'metrics.jsonl', 'a') as f: f.write({chr(10).join(lines)!r} + '\\n')\n"
        "os.kill(os.getpid(), 9)"
    )
    count = iter([3, 4])
    result = ended(
        run,
        Dispatcher(tmp_path / "runs", LocalLauncher(worker(lambda r: dies), lambda: next(count))),
    )
    assert result.status == "out_of_memory"
    assert "in the train phase after step 7" in result.reason
    assert "its highest size seen was 900 MB" in result.reason
    assert "gradient checkpointing" in result.reason
    assert result.measures.steps_done == 7


@pytest.mark.parametrize(
    ("cgroup", "file", "content"),
    [
        ("0::/box\n", "box/memory.events", "low 0\noom 9\noom_kill 5\n"),
        ("0::/host/path\n", "memory.events", "oom_kill 5\noom_group_kill 0\n"),
        ("4:memory:/box\n0::/\n", "memory/box/memory.oom_control", "under_oom 0\noom_kill 5\n"),
        ("3:cpu:/\n", "nothing", ""),
    ],
    ids=["version 2", "version 2 in a container", "version 1", "none"],
)
def test_kills_are_counted_in_the_workers_own_group_and_else_on_the_machine(
    tmp_path: Path, cgroup: str, file: str, content: str
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "vmstat").write_text("nr_free_pages 1\noom_kill 77\n")
    (groups / file).parent.mkdir(parents=True)
    (groups / file).write_text(content)
    assert oom_kills(proc, groups) == (5 if content else 77)


def test_the_operators_limit_is_in_the_spec_of_every_run_and_nobody_asks_for_more(
    enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEMORY_LIMIT_VARIABLE, "2GB")
    assert {run.spec().memory_limit for run in enqueue()} == {2_000_000_000}
    assert {run.spec().memory_limit for run in enqueue(memory_limit=10**12)} == {2_000_000_000}
    assert {run.spec().memory_limit for run in enqueue(memory_limit=10**9)} == {10**9}


def test_the_command_lines_limit_is_asked_for_in_its_request() -> None:
    options = build_parser().parse_args(["sweep", "--memory-limit", "2GB"])
    assert request_from(options).memory_limit == 2_000_000_000
    assert request_from(build_parser().parse_args(["sweep"])).memory_limit is None


@pytest.mark.hostile("memory limits")
def test_an_app_with_a_limit_that_is_no_size_does_not_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MEMORY_LIMIT_VARIABLE, "")  # so that what the command sets is taken back
    assert main(["app", "--memory-limit", "plenty"]) == 2
    assert "'plenty' is no size" in capsys.readouterr().err


def test_a_spec_without_a_limit_is_one_that_earlier_versions_read(enqueue: Enqueue) -> None:
    run = enqueue()[0]
    assert b"memory_limit" not in run.spec_file.read_bytes()
    assert load_spec(dump_spec(run.spec())) == run.spec()


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("512mb", 512 * 10**6), ("3G", 3 * 10**9)],
)
def test_a_memory_limit_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_memory_limit(text) == size


@pytest.mark.hostile("memory limits")
@pytest.mark.parametrize(
    "text", ["", "many", "-2GB", "2 GB GB", "1e9", "NaN", "10", "2XB", "3GB x"]
)
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(FtlabError, match="as in 2GB"):
        parse_memory_limit(text)


def test_a_base_run_is_offered_nothing_that_it_cannot_change(enqueue: Enqueue) -> None:
    base, lora = (run.spec() for run in enqueue())
    assert "batch" not in remedies(base, "evaluate")
    assert "a smaller model" in remedies(base, "load")
    assert "batch 1, accumulated 2 times" in remedies(lora, "train")
    assert "over 2 cards" not in remedies(lora, "train")


@pytest.mark.parametrize(
    ("devices", "counts"),
    [(1, ()), (2, (2,)), (3, (2, 3)), (8, (2, 4, 8))],
)
def test_a_run_may_be_divided_over_the_like_cards_of_its_machine(
    enqueue: Enqueue, devices: int, counts: tuple[int, ...]
) -> None:
    *_, run = enqueue()
    cards = tuple(f"cuda:{number}" for number in range(devices))
    spec = replace(run.spec(), device="cuda:0", devices=cards)
    assert counts_of(spec) == counts
    assert ("over 2 cards" in remedies(spec, "train")) == (devices > 1)
    assert counts_of(replace(spec, devices=("cuda:0.1", "cuda:0.2"))) == ()
