"""Scoring: batches that shrink where memory runs out, after what was trained is safe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from ftlab.jobs.launch import plan_sweep
from ftlab.models.laid_out import LaidOutLinear, free_layout, is_the_same_here
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.resolve import resolve_model
from ftlab.playground.panes import cannot_answer
from ftlab.records.result import Measures, RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec
from ftlab.records.store import read_run
from ftlab.settings.training import EVALUATION_BATCH
from ftlab.share.weights import weights_of
from ftlab.tasks.formatting import FormattedExample
from ftlab.tasks.reference import load
from ftlab.training import evaluate, run
from ftlab.training.evaluate import ShrinkingBatches, held_out_loss
from ftlab.training.failures import explain
from ftlab.training.run import RunRecord
from ftlab.training.step import Arithmetic
from tests.tiny import make_tiny_model
from tests.training.one_run import do, request, spec_of
from tests.training.steps import CPU

OUT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_a_batch_that_runs_out_is_done_again_in_halves_and_none_twice() -> None:
    batches, done, counts = ShrinkingBatches(CPU), [], []

    def work(places: list[int]) -> None:
        if len(places) > 5:
            raise OUT
        done.append(places)

    batches.work(list(range(20)), work, counts.append)
    assert batches.size == 4
    assert counts == [4, 8, 12, 16, 20]
    assert [place for places in done for place in places] == list(range(20))
    assert max(map(len, done)) == 4


@pytest.mark.parametrize(
    ("error", "tried"), [(OUT, [8, 4, 2, 1]), (ValueError("a bug"), [8])], ids=["memory", "bug"]
)
def test_a_single_example_that_runs_out_and_any_other_error_end_it(
    error: Exception, tried: list[int]
) -> None:
    calls: list[int] = []

    def work(places: list[int]) -> None:
        calls.append(len(places))
        raise error

    with pytest.raises(type(error), match=str(error)):
        ShrinkingBatches(CPU).work([1] * 8, work)
    assert calls == tried


def test_the_held_out_loss_is_the_mean_over_the_tokens_of_all_completions(
    tiny_model: Path,
) -> None:
    """As plain transformers has it; not the mean of the examples' means."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    parts = [((5,), (9, 8, 7, 6, 5)), ((5, 6, 7), (8,))]
    examples = [FormattedExample("", "", *part) for part in parts]
    expected = []
    with torch.no_grad():
        loss, means = held_out_loss(model, examples, 0, lambda done: None)
        read = [model(torch.tensor([prompt + answer])).logits[0] for prompt, answer in parts]
    for (prompt, answer), logits in zip(parts, read, strict=True):
        logits = logits[len(prompt) - 1 : -1]
        expected.append(cross_entropy(logits, torch.tensor(answer), reduction="none"))
    assert means == pytest.approx([float(each.mean()) for each in expected], rel=1e-5)
    assert loss == pytest.approx(float(torch.cat(expected).mean()), rel=1e-5)
    assert loss != pytest.approx(sum(means) / 2, rel=1e-3)


@pytest.fixture(scope="module")
def whole(
    tiny_model: Path, task_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunSpec, RunResult]:
    spec = spec_of(tiny_model, task_file, eval_examples=4)
    return spec, do(spec, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("at_most", [2])
def test_a_run_scored_in_smaller_batches_has_the_same_numbers_and_says_so(
    at_most: int,
    whole: tuple[RunSpec, RunResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, expected = whole
    read_batch = evaluate.read_batch

    def small(model: Any, batch: Any, *rest: Any) -> Any:
        if len(batch["labels"]) > at_most:
            raise OUT
        return read_batch(model, batch, *rest)

    monkeypatch.setattr(evaluate, "read_batch", small)
    parts = do(spec, tmp_path)
    loss = expected.measures.eval_loss_after
    assert parts.measures.eval_loss_after == pytest.approx(loss, rel=1e-5)
    assert parts.measures.score_after == expected.measures.score_after
    (note,) = [note for note in parts.notes if "Scoring ran out of memory" in note]
    assert f"with {EVALUATION_BATCH} examples at once, and went on with {at_most}." in note
    assert not any("Scoring ran out" in note for note in expected.notes)


def answers_in(folder: Path, spec: RunSpec) -> list[Any]:
    return [row["answer_after"] for row in RunDirectory(folder / spec.run_id).samples()]


def never(*_: Any) -> Any:
    raise OUT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "instead"),
    [("answers_what_it_read", lambda model: False), ("greedy_answers", never)],
    ids=["read apart", "out of memory"],
)
def test_prompts_that_are_read_again_for_their_answers_give_the_same_numbers(
    name: str,
    instead: Any,
    whole: tuple[RunSpec, RunResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, expected = whole
    monkeypatch.setattr(evaluate, "ROWS_AT_ONCE", 2)
    do(spec, tmp_path / "once")
    monkeypatch.setattr(evaluate, name, instead)
    again = do(spec, tmp_path / "again")
    assert answers_in(tmp_path / "again", spec) == answers_in(tmp_path / "once", spec)
    for key in ("eval_loss_after", "score_after", "general_loss_after"):
        assert getattr(again.measures, key) == pytest.approx(
            getattr(expected.measures, key), abs=1e-6
        )
    assert not any("Scoring ran out" in note for note in again.notes)


@pytest.mark.slow
def test_answers_wait_until_as_many_are_there_as_may_be_generated_at_once(
    whole: tuple[RunSpec, RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And memory, not only their number, limits them."""
    spec, _ = whole
    sizes: list[int] = []
    greedy = evaluate.greedy_answers

    def counting(model: Any, batches: Any, *rest: Any) -> Any:
        sizes.append(sum(len(batch.begun) for batch in batches))
        return greedy(model, batches, *rest)

    monkeypatch.setattr(evaluate, "greedy_answers", counting)
    monkeypatch.setattr(evaluate, "EVALUATION_BATCH", 1)
    monkeypatch.setattr(ShrinkingBatches.__init__, "__defaults__", (1,))
    do(spec, tmp_path / "all")
    assert sizes == [4]
    monkeypatch.setattr(evaluate, "CACHE_BYTES", 1)
    monkeypatch.setattr(run, "_below_peak", lambda meter: 0)
    do(spec, tmp_path / "each")
    assert sizes == [4, 1, 1, 1, 1]
    monkeypatch.setattr(run, "_below_peak", lambda meter: 1 << 30)
    do(spec, tmp_path / "below the peak of the training")
    assert sizes[5:] == [4]


@pytest.mark.parametrize("precision", [None, "nf4"])
@pytest.mark.parametrize("policy", ["bf16", "fp32"])
def test_weights_that_are_quicker_for_answers_change_no_number_and_are_freed(
    policy: Any, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = resolve_model(str(make_tiny_model(tmp_path / "wide", spread=0.1, width=512)))
    tokenizer = load_tokenizer(source)
    model: Any = load_base_model(source, policy, precision, CPU)
    example = FormattedExample("", "", (5, 6, 7, 8, 9), (5, 9))
    held_out: Any = SimpleNamespace(examples=(None,) * 3, formatted=(example,) * 3)
    metric = SimpleNamespace(score_each=lambda examples, answers: [1.0, 0.25, 0.25])
    task: Any = SimpleNamespace(max_new_tokens=12, metric=metric)
    laid_out: list[bool] = []
    done: list[tuple[int, int]] = []
    read_batch = evaluate.read_batch

    def looking(*given: Any) -> Any:
        laid_out.append(any(type(layer) is LaidOutLinear for layer in model.modules()))
        return read_batch(*given)

    def scored(with_answers: bool = True) -> Any:
        return evaluate.evaluate(
            model, tokenizer, held_out, task, [-1], Arithmetic(policy, CPU),
            progress=lambda *given: done.append(given), with_answers=with_answers,
        )  # fmt: skip

    monkeypatch.setattr(evaluate, "read_batch", looking)
    found, without_answers = scored(), scored(with_answers=False)
    monkeypatch.setattr(evaluate, "CACHE_BYTES", 1)
    expected = scored()
    assert (found.losses, found.answers) == (expected.losses, expected.answers)
    assert without_answers.losses == found.losses
    assert (found.score, without_answers.score) == (0.5, None)
    assert done.count((6, 6)) == 2, "three losses and three answers"
    assert done.count((3, 3)) == 1
    assert done[-1] == (6, 6)
    is_quick = policy == "bf16" and is_the_same_here()
    assert laid_out == [is_quick, False, False]
    assert not free_layout(model)


def test_what_was_trained_is_saved_before_it_is_scored(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, record = spec_of(tiny_model, task_file), RunRecord()
    directory = RunDirectory(tmp_path / spec.run_id)
    monkeypatch.setattr(evaluate, "greedy_answers", never)
    monkeypatch.setattr(evaluate, "answer_batch", never)
    with pytest.raises(torch.OutOfMemoryError) as raised:
        do(spec, tmp_path, record)
    directory.write_result(record.result(*explain(raised.value, "evaluate")))
    run = read_run(directory)
    assert run.status == "out_of_memory"
    assert run.result is not None
    assert run.result.measures.adapter_bytes
    assert weights_of(run) == directory.adapter
    assert cannot_answer(run) == ""
    assert (directory.adapter / "adapter_model.safetensors").is_file()


def test_a_run_that_went_astray_keeps_no_weights(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tiny_model, task_file, eval_answers=False)
    monkeypatch.setattr(evaluate, "held_out_loss", lambda model, examples, *_: (1e9, [1e9] * 99))
    with pytest.raises(Exception, match="test loss after the last step"):
        do(spec, tmp_path)
    assert not RunDirectory(tmp_path / spec.run_id).adapter.exists()


def measured(spec: RunSpec, folder: Path) -> tuple[Measures, list[dict[str, Any]], tuple[str, ...]]:
    result = do(spec, folder)
    return result.measures, RunDirectory(folder / spec.run_id).samples(), result.notes


def test_a_run_on_the_tuning_split_sees_no_held_out_example_and_its_loss_needs_no_answers(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    asked = request(tiny_model, task_file, "lora", eval_split="tuning", eval_answers=False)
    base = plan_sweep(asked)[0]
    quick, rows, notes = measured(base, tmp_path / "quick")
    data = load(asked.task)[1]
    assert [row["reference"] for row in rows] == [e.completion for e in data.tuning[:3]]
    assert [row["prompt"][-1]["content"] for row in rows] == [
        example.question for example in data.tuning[:3]
    ]
    assert all("answer_before" not in row and "score_before" not in row for row in rows)
    assert quick.score_before is None
    assert any("tuning examples" in note for note in notes)
    assert any("there is no score" in note for note in notes)
    scored = replace(base, settings=replace(base.settings, eval_answers=True))
    slow, rows, _ = measured(scored, tmp_path / "slow")
    assert slow.eval_loss_before == quick.eval_loss_before
    assert slow.score_before is not None
    assert all("answer_before" in row for row in rows)
