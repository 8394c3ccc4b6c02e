"""Questions, formulas for what cannot be simulated, and the calibration by measured runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.dimensions import known_model
from ftlab.prediction.adapters import adapter_from, read_adapter
from ftlab.prediction.closed_form import Dimensions, dimensions, memory_breakdown, reserved
from ftlab.prediction.question import (
    Prediction,
    Question,
    Step,
    ask_about,
    dump_prediction,
    dump_question,
    load_prediction,
    load_question,
)
from ftlab.prediction.remedies import (
    ON_CPU,
    ON_CUDA,
    Band,
    Calibration,
    Seen,
    calibration,
    predicted_remedies,
)
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from tests.fakes import make_run

CONFIG = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("method", "asked", "found"),
    [
        ("lora", None, (None, None)),
        ("lora", "nf4", ("nf4", "nf4")),
        ("lora", "int8", ("int8", "int8")),
        ("qlora", None, ("nf4", "nf4-double")),
        ("qlora", "nf4", ("nf4", "nf4")),
        ("lora_int8", None, ("int8", "int8")),
        ("lora_int8", "nf4", ("int8", "int8")),
    ],
)
def test_a_base_is_packed_as_the_method_says_else_as_asked(
    method: str, asked: Any, found: tuple[Any, Any]
) -> None:
    (question,) = ask_about(CONFIG, [parse_variant(method)], Step(64, packing=asked))
    assert (question.variant.base_precision, question.step.packing) == found


def test_weights_that_learn_cannot_be_packed_and_a_question_needs_a_method() -> None:
    with pytest.raises(InvalidRequest, match="cannot be held in nf4"):
        ask_about(CONFIG, [parse_variant("full")], Step(64, packing="nf4"))
    with pytest.raises(InvalidRequest, match="No method is named"):
        ask_about(CONFIG, [], Step(64))


@pytest.mark.parametrize(
    ("step", "fields"),
    [
        (Step(0), ["length"]),
        (Step(64, batch=0, accumulation=0), ["batch", "accumulation"]),
        (Step(64, completion_tokens=64), ["completion_tokens"]),
        (Step(64, completion_tokens=0), ["completion_tokens"]),
    ],
)
def test_every_number_that_makes_no_sense_is_named(step: Step, fields: list[str]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        ask_about(CONFIG, [parse_variant("lora")], step)
    assert [error.field for error in caught.value.errors] == fields


def test_questions_and_answers_survive_their_json() -> None:
    (question,) = ask_about(CONFIG, [parse_variant("lora:r=4")], Step(64, packing="nf4"))
    assert load_question(dump_question(question)) == question
    assert b"\n" not in dump_question(question)
    answer = Prediction("lora", "LoRA", 1, 2, 3, 4, 5, {"weights": 4}, "simulated", 0.1, "")
    assert load_prediction(dump_prediction(answer)) == answer


def test_an_adapter_config_of_others_is_taken_without_what_says_nothing_of_shapes() -> None:
    config = {
        "peft_type": "LORA", "r": 4, "base_model_name_or_path": "meta-llama/x", "task_type": "x",
        "inference_mode": True, "revision": "main", "auto_mapping": None,
    }  # fmt: skip
    variant = adapter_from(config)
    assert json.loads(str(variant.values()["config"])) == {"peft_type": "LORA", "r": 4}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not valid JSON"),
        ("[1]", "no JSON object"),
        ('{"peft_type": "LORRA"}', "does not know"),
        ('{"peft_type": "LORA", "auto_map": "x.py"}', "code of its own"),
    ],
)
def test_what_is_no_adapter_config_is_said_with_its_file(
    text: str, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "adapter.json").write_text(text)
    with pytest.raises(FtlabError, match=rf"adapter\.json.*{sentence}"):
        read_adapter(str(tmp_path / "adapter.json"))
    with pytest.raises(FtlabError, match="cannot be read"):
        read_adapter(str(tmp_path / "missing.json"))


SIZE = Dimensions(hidden=64, layers=2, heads=4, vocabulary=1_000)


def parts(method: str = "lora", **step: Any) -> dict[str, int]:
    return memory_breakdown(SIZE, Variant(method), Step(**{"length": 128} | step), 1_000, 101_000)


def test_dimensions_are_read_by_either_name() -> None:
    for name, size in (("Llama 3.2 1B", (2048, 16, 32, 128256)), ("GPT-2", (768, 12, 12, 50257))):
        model = known_model(name)
        assert model is not None
        assert dimensions(model.config) == Dimensions(*size)


@pytest.mark.parametrize(
    "config", [{}, {"hidden_size": 64}, {"hidden_size": 1, "num_hidden_layers": 1,
               "num_attention_heads": 1, "vocab_size": 1, "num_local_experts": 8}],
)  # fmt: skip
def test_of_a_mixture_of_experts_or_half_a_config_there_is_no_formula(config: Any) -> None:
    assert dimensions(config) is None


def test_an_adapter_is_held_in_fp32_with_two_moments() -> None:
    found = parts()
    assert found["weights"] == 2 * 100_000 + 4 * 1_000
    assert found["optimizer"] == 8 * 1_000
    assert parts("full")["optimizer"] == 4 * 1_000
    assert parts(optimizer="paged_adamw_8bit")["optimizer"] == 0


LAYER, LOGITS = 34 * (4 * 128) * 64, (4 * 128) * 1_000
"""Bytes of a layer in 16 bits (Korthikanti et al. 2022), and the number of logits: 4 rows of 128
tokens."""


@pytest.mark.parametrize(
    ("step", "activations", "temporary"),
    [
        ({}, 2 * LAYER + 6 * LOGITS, 8 * LOGITS),
        ({"attention": "eager"}, 2 * (LAYER + 5 * 4 * 128 * 4 * 128) + 6 * LOGITS, 8 * LOGITS),
        ({"checkpointing": True}, 2 * (2 * 4 * 128 * 64) + LAYER + 6 * LOGITS, 8 * LOGITS),
        ({"weights": "fp32"}, 4 * LAYER + 8 * LOGITS, 8 * LOGITS),
        ({"length": 64}, LAYER + 3 * LOGITS, 4 * LOGITS),
        ({"completion_tokens": 8}, 2 * LAYER + 6 * LOGITS // 16, 8 * LOGITS // 16),
    ],
)
def test_activations_are_those_of_the_layers_and_of_the_logits_with_loss(
    step: dict[str, Any], activations: int, temporary: int
) -> None:
    found = parts(**step)
    assert (found["activations"], found["temporary"]) == (activations, temporary)


def test_a_packed_base_leaves_out_the_embeddings() -> None:
    packed, embeddings, adapter = 100_000 - 64_000, 2 * 64_000, 4 * 1_000
    assert parts(packing="int8")["weights"] == packed + embeddings + adapter
    assert parts(packing="nf4")["weights"] == packed * 4.5 / 8 + embeddings + adapter


def test_gradients_live_beside_the_peak_only_while_they_are_accumulated() -> None:
    assert parts()["gradients"] == 0
    assert parts(accumulation=2)["gradients"] == 4 * 1_000
    assert parts("full", accumulation=2)["gradients"] == 2 * 1_000
    assert parts("full")["weights"] == 2 * 101_000


def test_the_allocator_holds_a_little_more_than_lives() -> None:
    found = parts()
    assert reserved(found) == round(1.05 * sum(found.values()))


def test_a_card_without_bf16_computes_the_apps_own_step_in_fp16() -> None:
    def held(method: str, **step: Any) -> tuple[str, bool]:
        wanted = {"capability": (7, 5), "completion_tokens": 8} | step
        (asked,) = ask_about(CONFIG, [parse_variant(method)], Step(64, **wanted))
        return asked.step.weights, asked.step.mixed

    assert held("lora") == ("fp16", False)
    assert held("full") == ("fp32", True)
    assert held("lora", weights="fp32") == ("fp32", False)
    assert held("lora", capability=(8, 0)) == ("bf16", False)
    assert held("lora", device="cpu") == ("bf16", False)
    assert held("lora", completion_tokens=None) == ("bf16", False)


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("cpu", "batch 1, accumulated 2 times (≈ 980 MB, the same result, somewhat slower)."),
        (
            "cuda",
            "gradient checkpointing (≈ 800 MB, about 1.3 times the time, the same result); batch "
            "1, accumulated 2 times (≈ 700 MB, the same result, somewhat slower).",
        ),
    ],
)
def test_advice_is_what_fits_on_a_cpu_with_what_its_process_takes_besides(
    device: Any, sentence: str
) -> None:
    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        for place, one in enumerate(questions):
            size = 800 if one.step.checkpointing else 700 if one.step.batch == 1 else 2_000
            yield place, Prediction("lora", "LoRA", peak_reserved_bytes=size * 10**6)

    (asked,) = ask_about(CONFIG, [parse_variant("lora")], Step(1024, batch=2, device=device))
    found = predicted_remedies(asked, 10**9, ask)
    assert found == f"Predicted to fit into 1.00 GB: {sentence}"


def test_advice_asks_a_dozen_questions_at_most() -> None:
    asked: list[Question] = []

    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        asked.extend(questions)
        yield 0, Prediction("lora", "LoRA", peak_reserved_bytes=10**12)

    (large,) = ask_about(CONFIG, [parse_variant("lora")], Step(100_000, batch=1024))
    assert predicted_remedies(large, 10**9, ask) == ""
    assert len(asked) == 12


def seen(method: str, ratio: float) -> Seen:
    return Seen(method, method, 1000, round(1000 * ratio))


@pytest.mark.parametrize(
    ("runs", "bands"),
    [
        ([seen("lora", 1.2)] * 2, {"lora": ON_CPU}),  # too few: the band that it starts with
        (
            [*(seen("lora", ratio) for ratio in (1.2, 1.25, 1.22)), *[seen("full", 1.4)] * 2],
            {
                "lora": Band(1.2, 1.25, 3, "this method"),
                "full": Band(1.2, 1.4, 5, "all methods"),
                "dora": Band(1.2, 1.4, 5, "all methods"),
            },
        ),
        (  # of many, 5 % at either end are left out
            [seen("lora", 1 + place / 100) for place in range(40)],
            {"lora": Band(1.02, 1.37, 40, "this method")},
        ),
    ],
)
def test_a_band_is_that_of_the_method_of_all_runs_or_the_first(
    runs: list[Seen], bands: dict[str, Band]
) -> None:
    known = Calibration(tuple(runs), ON_CPU)
    assert {method: known.band(method) for method in bands} == bands
    assert ON_CPU.runs == 0
    assert Band(1.1, 1.5).of(1000) == (1100, 1500)


CPU = Device("cpu", "CPU, 2 cores", 8 * 10**9)
L4 = Device("cuda:0", "NVIDIA L4", 24 * 10**9, "GPU-1", (8, 9))
BOTH = {"predicted_net_peak_bytes": 1_000_000, "net_peak_memory_bytes": 1_250_000}


@pytest.mark.parametrize(("device", "start"), [(CPU, ON_CPU), (L4, ON_CUDA)])
def test_only_finished_runs_of_the_device_with_both_numbers_count(
    tmp_path: Path, device: Device, start: Band
) -> None:
    where = {"device": device.id, "environment": {"device": device.label}}
    elsewhere = {"device": "cuda:1", "environment": {"device": "NVIDIA H100"}}
    make_run(tmp_path, "lora", measures=BOTH, **where)
    make_run(tmp_path, "lora", measures=BOTH, **elsewhere)
    make_run(tmp_path, "lora", measures=BOTH, settings=TrainingSettings(shard=2), **where)
    make_run(tmp_path, "base", **where)
    make_run(tmp_path, "full", "out_of_memory", measures=BOTH, **where)
    make_run(tmp_path, "qlora", measures=BOTH | {"predicted_net_peak_bytes": None}, **where)
    make_run(tmp_path, "qlora", measures=BOTH | {"net_peak_memory_bytes": None}, **where)
    known = calibration(RunStore(tmp_path).runs(), device)
    assert [(run.method, run.ratio) for run in known.seen] == [("lora", 1.25)]
    assert known.start == start


def test_runs_on_an_equal_card_count_and_recorded_ones_do_not(tmp_path: Path) -> None:
    same = {"device": "cuda:3", "environment": {"device": L4.label}}
    make_run(tmp_path / "runs", "lora", measures=BOTH, **same)
    make_run(tmp_path / "recorded" / "sweep", "lora", measures=BOTH, **same)
    store = RunStore(tmp_path / "runs", tmp_path / "recorded")
    assert len(calibration([*store.runs(), *store.shipped()], L4).seen) == 1
