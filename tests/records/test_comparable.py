"""When runs may be held against each other, and what is said where they may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlab.records.comparability import (
    CONDITIONS,
    Comparability,
    comparability_of_rows,
    comparability_of_runs,
)
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from tests.fakes import make_run, make_sweep

PACKAGES = {"torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"}


def found_in(folder: Path) -> Comparability:
    return comparability_of_rows(RunStore(folder).table())


def two_runs(folder: Path, **lora: Any) -> Comparability:
    """Full fine-tuning beside a LoRA run that was made otherwise."""
    make_run(folder, "full")
    make_run(folder, "lora", **lora)
    return found_in(folder)


def test_a_sweep_is_like_for_like_in_every_condition_in_seeds_and_undisturbed(
    tmp_path: Path,
) -> None:
    make_sweep(tmp_path, seeds=(0, 1))
    found = found_in(tmp_path)
    verdict = f"a fair comparison: same data, model and settings ({len(CONDITIONS) + 2} checked)"
    assert (found.verdict, found.kind) == (verdict, "ok")
    assert (found.unlike, found.unknown, found.sentence) == ((), (), "")
    assert {"the same weights", "30 steps", "seeds 0 and 1", "no other work on the machine"} <= set(
        found.same
    )


@pytest.mark.parametrize(
    ("lora", "unlike"),
    [
        ({"model": "owner/other"}, "model (SmolLM2-135M-Instruct (bundled), owner/other)"),
        ({"environment": {"model_hash": "ffff"}}, "weights"),
        ({"environment": {"data_hash": "ffff"}}, "examples"),
        ({"environment": {"order_hash": "ffff"}}, "order of the examples"),
        ({"steps": 60}, "steps (30, 60)"),
        ({"measures": {"train_tokens": 20_000}}, "tokens (21000, 20000)"),
        ({"settings": TrainingSettings(batch_size=2)}, "batch size (4, 2)"),
        ({"settings": TrainingSettings(accumulation=2)}, "accumulation (1, 2)"),
        ({"settings": TrainingSettings(max_length=128)}, "maximum length (256, 128)"),
        ({"settings": TrainingSettings(eval_examples=8)}, "test examples (64, 8)"),
        ({"settings": TrainingSettings(eval_split="tuning")}, "test examples (64, 64 tuning)"),
        ({"settings": TrainingSettings(schedule="linear")}, "schedule (cosine, linear)"),
        ({"settings": TrainingSettings(warmup_steps=0)}, "warm-up steps (3, 0)"),
        (
            {"settings": TrainingSettings(gradient_checkpointing=True)},
            "gradient checkpointing (off, on)",
        ),
        (
            {"settings": TrainingSettings(optimizer="adamw_8bit")},
            "optimizer (AdamW (torch, fused), AdamW 8-bit (bitsandbytes))",
        ),
        ({"settings": TrainingSettings(weight_decay=0.1)}, "weight decay (0, 0.1)"),
        ({"settings": TrainingSettings(max_grad_norm=0.5)}, "gradient clip (1, 0.5)"),
        ({"device": "cuda:0"}, "device (cpu, cuda)"),
        ({"settings": TrainingSettings(shard=2)}, "device (cpu, cpu × 2)"),
        ({"environment": {"attention": "math"}}, "attention kernel (ftlab (CPU), math)"),
        ({"environment": {"device": "H100"}}, "machine (AMD EPYC 7B13, H100)"),
        ({"environment": {"threads": 8}}, "threads (2, 8)"),
        ({"environment": {"packages": PACKAGES | {"peft": "0.22.0"}}}, "peft (0.21.2, 0.22.0)"),
        ({"seed": 3}, "seeds (0 of Full fine-tuning; 3 of LoRA)"),
        ({"measures": {"disturbed": True}}, "other work on the machine (LoRA seed 0)"),
    ],
)
def test_each_condition_that_differs_is_named_with_its_values(
    tmp_path: Path, lora: dict[str, Any], unlike: str
) -> None:
    found = two_runs(tmp_path, **lora)
    assert found.sentence == f"Not a fair comparison: {unlike}."
    verdict = f"not a fair comparison: {unlike.split(' (')[0]}"
    assert (found.verdict, found.kind) == (verdict, "warn")


def test_consequences_of_another_number_of_steps_are_not_named_too(tmp_path: Path) -> None:
    found = two_runs(
        tmp_path, steps=60, environment={"order_hash": "ffff"}, measures={"train_tokens": 42_000}
    )
    assert [difference.label for difference in found.unlike] == ["steps"]
    assert not {"in the same order", "as many tokens"} & set(found.same)


def test_runs_of_other_seeds_may_see_another_order(tmp_path: Path) -> None:
    for seed in (0, 1):
        for method in ("full", "lora"):
            make_run(tmp_path, method, seed=seed, measures={"train_tokens": 21_000 + seed})
    assert found_in(tmp_path).is_like


def test_a_record_that_lacks_a_field_is_unknown_and_not_different(tmp_path: Path) -> None:
    old = {"order_hash": None, "packages": {"torch": "2.13.0"}}
    found = two_runs(tmp_path, environment=old, measures={"disturbed": None})
    assert found.is_like
    assert found.unknown == ("order of the examples", "other work on the machine")
    assert "in the same order" not in found.same
    assert "no other work on the machine" not in found.same


def test_runs_that_are_known_to_differ_are_unlike_whatever_a_third_lacks(tmp_path: Path) -> None:
    make_run(tmp_path, "qlora", environment={"data_hash": None})
    assert two_runs(tmp_path, environment={"data_hash": "ffff"}).names() == "examples"


def test_a_single_run_is_compared_with_nothing(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", measures={"disturbed": True})
    found = found_in(tmp_path)
    assert (found.is_like, found.kind, found.verdict) == (True, "mute", "only one variant is done")


def test_seeds_of_one_variant_must_have_the_same_settings(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", seed=0)
    make_run(tmp_path, "lora", seed=1, steps=60)
    assert found_in(tmp_path).verdict == "not a fair comparison: steps"


def test_own_runs_and_results_of_others_are_never_like_for_like(tmp_path: Path) -> None:
    make_sweep(tmp_path, methods=("full", "lora"))
    table = RunStore(tmp_path).table()
    table["origin"] = ["measured", "imported"]
    table["conditions"] = [table["conditions"][0], None]
    found = comparability_of_rows(table)
    assert found.names() == "origin"
    assert "origin (1 of 2 runs imported)" in found.sentence
    assert comparability_of_rows(table.assign(origin="imported")).is_like


def test_many_values_and_many_differences_are_counted(tmp_path: Path) -> None:
    for rank, steps in enumerate(range(10, 80, 10), start=1):
        make_run(
            tmp_path, "lora", hyperparameters={"r": rank}, seed=rank, device=f"cuda:{rank}",
            settings=TrainingSettings(steps=steps, batch_size=rank, max_length=64 + rank),
            environment={"device": f"card {rank}", "threads": rank, "data_hash": str(rank)},
        )  # fmt: skip
    found = found_in(tmp_path)
    assert found.verdict == "not a fair comparison: examples, steps, batch size and 4 more"
    assert "steps (10, 20, 30, 40 and 3 more)" in found.sentence
    assert found.sentence.endswith(" and 1 more.")


@pytest.mark.parametrize("packages", ["torch 2", ["torch"], None, {}])
def test_package_versions_in_another_format_break_nothing(tmp_path: Path, packages: Any) -> None:
    found = two_runs(tmp_path, environment={"packages": packages})
    assert found.is_like
    assert "package versions" in found.unknown


def test_runs_and_their_rows_give_the_same_answer(tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0, 1), measures={"disturbed": True})
    store = RunStore(tmp_path)
    runs = [run for run in store.runs() if not run.spec.is_base]
    assert comparability_of_runs(runs) == comparability_of_rows(store.table())


def test_another_dtype_policy_is_a_difference(tmp_path: Path) -> None:
    make_run(tmp_path, "full")
    spec = make_run(tmp_path, "lora").spec_file
    spec.write_text(spec.read_text().replace('"bf16"', '"fp32"'))
    assert found_in(tmp_path).sentence == "Not a fair comparison: dtype policy (bf16, fp32)."
