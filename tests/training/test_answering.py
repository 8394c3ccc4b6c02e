"""What answering costs is measured after a run, and never changes or loses its result."""

from __future__ import annotations

import json
import shutil
import sys
import weakref
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ftlab.basics.errors import FtlabError
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.spec import RunPlan
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.packed import packed_layers
from ftlab.models.resolve import resolve_model
from ftlab.records.metrics.answering import memory_key, speed_key
from ftlab.records.result import ANSWER_WAYS, ANSWERING, AnswerWay, Measures, PhaseMeasure
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec
from ftlab.training import answering
from ftlab.training.answering import (
    Cost,
    Costs,
    Prompts,
    load,
    measure_answering,
    measure_cost,
    why_not,
)
from ftlab.training.meters import CudaMemoryMeter, PhaseMeter, memory_meter
from ftlab.training.model import apply_method, save_initial, save_result
from ftlab.training.run import RunRecord
from ftlab.training.step import Arithmetic
from tests.slow import slow
from tests.tiny import make_tiny_model
from tests.training.one_run import do, queued, request, spec_of

CPU = torch.device("cpu")
PROMPTS = Prompts(((5, 6, 7, 8, 9), (7, 8, 9)), pad_id=0, stop_ids=(0,))
SPEEDS: dict[AnswerWay, float] = {"adapter": 10.0, "merged": 20.0, "nf4": 5.0}
PEAKS: dict[AnswerWay, int] = {"adapter": 400, "merged": 900, "nf4": 250}
EACH = [
    *CORE,
    *slow(["last_layers", "bitfit", "pissa", "lora_int8", "lokr", "ia3", "prefix_tuning"]),
]
"""Those that save or load each in a way of its own."""


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "ANSWERS", 2)
    monkeypatch.setattr(answering, "NEW_TOKENS", 3)
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def biased_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With biases, which BitFit trains."""
    return make_tiny_model(tmp_path_factory.mktemp("biased") / "tiny-llama", biases=True)


def saved(spec: RunSpec, folder: Path) -> RunDirectory:
    """The files of a run that made no step."""
    directory = queued(spec, folder)
    source = resolve_model(spec.model)
    assert spec.variant is not None
    learns = not spec.variant.spec.is_adapter
    base = load_base_model(source, spec.dtype_policy, spec.base_precision, CPU, learns)
    plan = RunPlan(3, str(source.folder))
    model = apply_method(base, spec.variant, spec.dtype_policy, False, plan)
    initial = save_initial(model, directory.scratch / "initial")
    save_result(model, spec.variant, load_tokenizer(source), directory.adapter, initial)
    return directory


@pytest.mark.parametrize("method", EACH)
def test_every_method_answers_in_each_way_that_it_has(
    method: str, biased_model: Path, task_file: Path, tmp_path: Path
) -> None:
    variant = "last_layers:layers=1" if method == "last_layers" else method
    spec = replace(spec_of(biased_model, task_file, variant), dtype_policy="bf16")
    folder = saved(spec, tmp_path).adapter
    known = METHODS[method]
    has: dict[AnswerWay, bool] = {
        "adapter": known.is_adapter,
        "merged": known.family != "prompt",
        "nf4": (known.is_adapter or known.ships_whole_model) and method != "lokr",
    }
    source = resolve_model(spec.model)
    for way, is_there in has.items():
        assert bool(why_not(spec, way, folder)) != is_there
        if is_there:
            model = load(spec, way, folder, source, CPU)
            is_packed = any(True for _ in packed_layers(model))
            assert is_packed == (way == "nf4" or (way == "adapter" and bool(spec.base_precision)))
            cost = measure_cost(
                lambda model=model: model, PROMPTS, Arithmetic("bf16", CPU), memory_meter(CPU),
                lambda: None,
            )  # fmt: skip
            assert cost.tokens_per_second > 0


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[AnswerWay]:
    """The ways that were measured; none of them in a process of its own."""
    ways: list[AnswerWay] = []

    def fake(spec: RunSpec, directory: RunDirectory, way: AnswerWay) -> Cost:
        assert (directory.adapter / "adapter_config.json").is_file(), "from the saved files"
        ways.append(way)
        return Cost(SPEEDS[way], 100, PEAKS[way], other_load=0.3 if way == "merged" else 0.01)

    monkeypatch.setattr(answering, "in_own_process", fake)
    return ways


def values(measures: Measures) -> dict[AnswerWay, tuple[Any, Any]]:
    return {
        way: (getattr(measures, speed_key(way)), getattr(measures, memory_key(way)))
        for way in ANSWER_WAYS
    }


def test_a_run_measures_answering_if_asked_and_else_its_measures_stay_empty(
    tiny_model: Path, task_file: Path, tmp_path: Path, answered: list[AnswerWay]
) -> None:
    nothing = dict.fromkeys(ANSWER_WAYS, (None, None))
    plain = spec_of(tiny_model, task_file)
    without = do(plain, tmp_path)
    assert (values(without.measures), answered) == (nothing, [])
    settings = replace(plain.settings, measure_answering=True)
    events: list[dict[str, Any]] = []
    asked = replace(plain, settings=settings, run_id="asked")
    result = do(asked, tmp_path, report=events.append)
    assert answered == list(ANSWER_WAYS)
    assert values(result.measures) == {w: (SPEEDS[w], PEAKS[w] - 100) for w in ANSWER_WAYS}
    assert result.phases[ANSWERING].peak_bytes == 900, "the highest"
    (busy,) = [note for note in result.notes if "other processes used 30%" in note]
    assert busy.startswith("Answering (merged into the base): the computer was busy")
    for key in ("train_loss_last", "eval_loss_after", "score_after", "adapter_bytes"):
        assert getattr(result.measures, key) == getattr(without.measures, key)
    last = [event for event in events if event["event"] in ("phase", ANSWERING)][-4:]
    assert last[0] == {"event": "phase", "phase": ANSWERING}
    assert last[-1] == {"event": ANSWERING, "done": 3, "total": 3}


@pytest.mark.parametrize("variant", ["full", "lora"])
def test_the_model_of_the_run_is_freed_before_answering_is_measured(
    variant: str, tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Any]] = []
    left: list[bool] = []

    def loaded(*given: Any, **named: Any) -> Any:
        model = load_base_model(*given, **named)
        models.append(weakref.ref(model))
        return model

    def fake(*given: Any) -> Cost:
        left.append(any(model() is not None for model in models))
        return Cost(1.0, 100, 400)

    monkeypatch.setattr("ftlab.training.run.load_base_model", loaded)
    monkeypatch.setattr(answering, "in_own_process", fake)
    do(spec_of(tiny_model, task_file, variant, measure_answering=True), tmp_path)
    assert len(models) == 1
    assert not any(left)


def test_a_base_run_measures_no_answering(
    tiny_model: Path, task_file: Path, tmp_path: Path, answered: list[AnswerWay]
) -> None:
    base = plan_sweep(request(tiny_model, task_file, "lora", measure_answering=True))[0]
    assert base.is_base
    assert ANSWERING not in do(base, tmp_path).phases
    assert answered == []


def test_what_takes_long_in_answering_is_no_time_of_the_run() -> None:
    meter = PhaseMeter(memory_meter(CPU), lambda event: None)
    meter.phases[ANSWERING] = PhaseMeasure(1000.0)
    record = RunRecord(meter=meter)
    record.began -= 1010
    assert record.result("done").measures.total_seconds == pytest.approx(10, abs=5)


def costs_of(
    variant: str, folder: Path, task_file: Path, model: Path, peft_type: str = "LORA"
) -> Costs:
    spec = spec_of(model, task_file, variant)
    directory = RunDirectory(folder / spec.run_id)
    directory.adapter.mkdir(parents=True)
    directory.scratch.mkdir()
    config = json.dumps({"peft_type": peft_type})
    (directory.adapter / "adapter_config.json").write_text(config, encoding="utf-8")
    return measure_answering(spec, directory, PROMPTS, lambda event: None)


def test_qlora_answers_on_its_own_base_in_4_bits_and_is_measured_there_once(
    tiny_model: Path, task_file: Path, tmp_path: Path, answered: list[AnswerWay]
) -> None:
    costs = costs_of("qlora", tmp_path, task_file, tiny_model)
    assert answered == ["adapter", "merged"]
    assert costs.measures[speed_key("nf4")] == costs.measures[speed_key("adapter")]
    assert not any("not measured" in note for note in costs.notes)


@pytest.mark.parametrize(
    ("variant", "peft_type", "lacks", "words"),
    [
        ("prompt_tuning", "PROMPT_TUNING", {"merged"}, "Prompt tuning cannot be merged: it lays"),
        ("full", "", {"adapter"}, "Full fine-tuning has no adapter"),
        ("last_layers:layers=1", "", {"adapter", "nf4"}, "cannot replace those of a 4-bit base"),
    ],
)
def test_a_way_that_a_method_lacks_is_empty_and_a_note_says_why(
    variant: str, peft_type: str, lacks: set[AnswerWay], words: str, tiny_model: Path,
    task_file: Path, tmp_path: Path, answered: list[AnswerWay],
) -> None:  # fmt: skip
    costs = costs_of(variant, tmp_path, task_file, tiny_model, peft_type)
    assert {way for way in ANSWER_WAYS if speed_key(way) not in costs.measures} == lacks
    said = [note for note in costs.notes if "not measured" in note]
    assert len(said) == len(lacks)
    assert words in " ".join(said)


def test_a_process_that_is_killed_or_fails_leaves_the_run_and_the_other_ways_as_they_are(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(module: str, folder: str, way: AnswerWay) -> list[str]:
        file = answering.answer_file(RunDirectory(Path(folder)), way)
        if way == "adapter":
            return [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
        said = {"reason": "memory ran out"} if way == "merged" else vars(Cost(5.0, 100, 400))
        return [sys.executable, "-c", f"open({str(file)!r}, 'w').write({json.dumps(said)!r})"]

    monkeypatch.setattr(answering, "module_command", command)
    result = do(spec_of(tiny_model, task_file, measure_answering=True), tmp_path)
    assert (result.status, result.measures.score_after is None) == ("done", False)
    expected = {"adapter": (None, None), "merged": (None, None), "nf4": (5.0, 300)}
    assert values(result.measures) == expected
    notes = [note for note in result.notes if "was not measured" in note]
    assert notes == [
        "Answering (adapter on its base) was not measured: killed, perhaps because memory ran out.",
        "Answering (merged into the base) was not measured: memory ran out.",
    ]


def test_a_disk_that_is_full_by_then_leaves_the_run_done(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "request_file", lambda directory: Path("/dev/full"))
    result = do(spec_of(tiny_model, task_file, measure_answering=True), tmp_path)
    assert result.status == "done"
    assert any("What answering costs was not measured" in note for note in result.notes)


@pytest.mark.slow
def test_the_process_of_one_way_measures_what_was_saved(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    directory = saved(spec_of(tiny_model, task_file), tmp_path)
    directory.scratch.mkdir(exist_ok=True)
    text = json.dumps(asdict(PROMPTS))
    answering.request_file(directory).write_text(text, encoding="utf-8")
    cost = answering.in_own_process(directory.spec(), directory, "merged")
    assert cost.tokens_per_second > 0
    assert cost.net_bytes
    shutil.rmtree(directory.adapter)
    answering.answer_file(directory, "merged").unlink()
    with pytest.raises(FtlabError, match="cannot be"):
        answering.in_own_process(directory.spec(), directory, "merged")


class FakeCuda:
    """torch.cuda's memory functions and waiting, with a log of the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(device: Any = None) -> int:
            self.calls.append(name)
            return 700 if name.startswith("max_memory") else 200

        return call

    def get_device_properties(self, device: Any) -> Any:
        return SimpleNamespace(uuid="GPU-none")


def test_on_a_gpu_the_peak_is_reset_after_loading_and_times_begin_and_end_with_waiting(
    tiny_model: Path,
) -> None:
    cuda = FakeCuda()

    def loaded() -> Any:
        cuda.calls.append("load")
        return load_base_model(resolve_model(str(tiny_model)), "fp32", None, CPU)

    def clock() -> float:
        cuda.calls.append("clock")
        return float(len(cuda.calls))

    cost = measure_cost(
        loaded, PROMPTS, Arithmetic("fp32", CPU), CudaMemoryMeter(torch.device("cuda"), cuda),
        cuda.synchronize, clock,
    )  # fmt: skip
    assert (cost.start_bytes, cost.peak_bytes, cost.net_bytes) == (200, 700, 500)
    after_load = cuda.calls[cuda.calls.index("load") + 1 :]
    assert after_load.index("reset_peak_memory_stats") < after_load.index("clock")
    assert "reset_peak_memory_stats" not in after_load[after_load.index("clock") :]
    times = [place for place, call in enumerate(cuda.calls) if call == "clock"]
    assert len(times) == 2 * (answering.ANSWERS + 1)
    assert {cuda.calls[place - 1] for place in times} == {"synchronize"}


def test_an_answer_has_all_its_tokens_even_if_the_model_would_stop_at_once(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = load_base_model(resolve_model(str(tiny_model)), "fp32", None, CPU)
    stops = replace(PROMPTS, stop_ids=tuple(range(200)))
    ticks = iter([0.0, 0.1, 1.0, 2.0, 3.0, 13.0, 20.0, 22.0])  # 0.1 s that do not count, 1, 10, 2
    monkeypatch.setattr(answering, "ANSWERS", 3)
    cost = measure_cost(
        lambda: model, stops, Arithmetic("fp32", CPU), memory_meter(CPU), lambda: None,
        lambda: next(ticks),
    )  # fmt: skip
    assert cost.tokens_per_second == answering.NEW_TOKENS / 2, "the median"
