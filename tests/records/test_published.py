"""Imported results of others: read strictly, and never mixed with own runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ftlab.records import published
from ftlab.records.published import (
    MEMORY_KIND,
    ImportReport,
    PublishedRun,
    import_files,
    method_of,
    published_folder,
    read_published,
    remove_published,
)
from ftlab.records.run import RUN_ID
from ftlab.records.store import RunStore, sweep_data
from ftlab.records.table import ROW_KEYS
from tests.fakes import SWEEP, make_sweep

DATA = Path(__file__).parents[1] / "data"
FULL = DATA / "full-finetuning--llama-3.2-3B-lr_0.00001.json"
LORA = DATA / "lora--llama-3.2-3B-rank32.json"
PROMPT = DATA / "prompt_tuning--llama-3.2-3B-sample_vocab-lr_0.001.json"
IMAGE = DATA / "full-finetuning--flux2-klein-default.json"
CSV = DATA / "peft_metamathqa.csv"
LLAMA = "imported-metamathqa-llama-3-2-3b-nvidia-l40s"


def imported(runs_folder: Path, *files: Path) -> list[PublishedRun]:
    report = import_files(files, runs_folder)
    assert report.refused == ()
    return read_published(runs_folder)[0]


def changed(tmp_path: Path, values: dict[str, Any], source: Path = LORA) -> Path:
    """The file with other values; a key is a path as in "run_info.train_config.seed"."""
    document = json.loads(source.read_bytes())
    for keys, value in values.items():
        *parents, last = keys.split(".")
        place = document
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = value
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


# ---------------------------------------------------------------- reading a file


def test_a_row_has_the_published_numbers_under_our_names(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, LORA)
    row = run.row()
    assert tuple(row) == ROW_KEYS
    expected = {
        "origin": "imported", "model": "meta-llama/Llama-3.2-3B", "task": "MetaMathQA",
        "method": "lora", "variant": "LoRA rank32", "seed": 0, "status": "done",
        "hyperparameters": "r 32, alpha 64, layers q_proj v_proj", "trainable_params": 9175040,
        "total_params": 3221924864, "net_peak_memory_bytes": 22292725760,
        "peak_memory_kind": MEMORY_KIND, "adapter_bytes": 36715216,
        "score_after": pytest.approx(0.4783927), "train_seconds": pytest.approx(941.95898),
        "learning_rate": 1e-4, "machine": "NVIDIA L40S", "steps": 5000, "batch_size": 4,
        "dtype_policy": "bfloat16",
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    assert row["trainable_share"] == 9175040 / 3221924864
    for key in ("peak_memory_bytes", "score_before", "eval_loss_after", "tokens_per_second"):
        assert row[key] is None, key


def test_the_curve_has_each_step_once_in_order(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, LORA)
    assert [step for step, _ in run.losses] == [250, 500, 750, 5000]
    assert run.losses[0][1] == pytest.approx(0.98244, abs=1e-5)
    mixed = changed(tmp_path, {"train_info.metrics.0.step": 4000})
    (run,) = imported(tmp_path / "mixed", mixed)
    assert [step for step, _ in run.losses] == [500, 750, 4000, 5000]


def test_the_facts_explain_the_numbers(tmp_path: Path) -> None:
    (run,) = imported(tmp_path, LORA)
    facts = dict(run.facts)
    assert "CUDA reserved" in facts["Memory needed"]
    assert facts["Forgetting"].startswith("0.050: rise of the loss")
    assert facts["Versions"] == "peft 0.19.2.dev0, transformers 5.13.1, torch 2.13.0+cu130"
    assert facts["Measured"] == "2026-07-15"
    assert "metamath aa4f34d3d2d3" in facts["Data revision"]


CANCELLED = {
    "train_info.status": "canceled", "run_info.error_msg": "CUDA out of\nmemory",
    "train_info.metrics": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "changes", "row", "fact"),
    [
        (
            FULL, {}, {"method": "full", "adapter_bytes": None},
            ("File", "none was saved; 6.43 GB is the publisher's estimate"),
        ),
        (
            LORA, {"train_info.file_size": 99_999_999}, {"adapter_bytes": None},
            ("File", "could not be saved by the publisher"),
        ),
        (
            IMAGE, {},
            {
                "task": "image-gen", "metric": "DINO similarity",
                "score_after": pytest.approx(0.5767, abs=1e-4),
            },
            ("Drift", None),
        ),
        (
            LORA, CANCELLED,
            {"status": "cancelled", "reason": "CUDA out of memory", "score_after": None},
            ("Loss curve", None),
        ),
    ],
    ids=["estimated size", "adapter not saved", "images without drift", "cancelled"],
)  # fmt: skip
def test_placeholders_and_missing_values_are_no_numbers(
    source: Path, changes: dict[str, Any], row: dict[str, Any], fact: Any, tmp_path: Path
) -> None:
    (run,) = imported(tmp_path, changed(tmp_path, changes, source))
    assert {key: run.row()[key] for key in row} == row
    assert dict(run.facts).get(fact[0]) == fact[1]


@pytest.mark.parametrize(
    ("config", "dtype", "optimizer", "method"),
    [
        (None, "bfloat16", "AdamW", "full"),
        ({"peft_type": "LORA", "r": 8, "use_dora": False}, "bfloat16", "AdamW", "lora"),
        ({"peft_type": "LORA", "r": 8}, "int4", "AdamW", "qlora"),
        ({"peft_type": "LORA", "r": 8}, "int8", "AdamW", "lora_int8"),
        ({"peft_type": "LORA", "use_dora": True}, "bfloat16", "AdamW", "dora"),
        ({"peft_type": "LORA", "use_dora": True}, "int4", "AdamW", "qdora"),
        ({"peft_type": "LORA", "use_rslora": True}, "bfloat16", "AdamW", "rslora"),
        ({"peft_type": "LORA", "use_bdlora": {"nblocks": 2}}, "bfloat16", "AdamW", "bdlora"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, "bfloat16", "AdamW", "pissa"),
        ({"peft_type": "LORA", "init_lora_weights": "full"}, "bfloat16", "AdamW", "full-variant"),
        ({"peft_type": "LORA"}, "bfloat16", "lora-fa", "lora_fa"),
        ({"peft_type": "LORA", "use_dora": 1, "use_rslora": 1}, "bf16", "AdamW", "dora-variant"),
        ({"peft_type": "PROMPT_TUNING"}, "bfloat16", "AdamW", "prompt_tuning"),
        ({"peft_type": "IA3"}, "bfloat16", "AdamW", "ia3"),
        ({"peft_type": "IA3"}, "int4", "AdamW", "ia3-int4"),
        ({"peft_type": "LN_TUNING"}, "bfloat16", "AdamW", "layer_norm"),
        ({"peft_type": "FULL"}, "bfloat16", "AdamW", "full-variant"),
        ({"peft_type": 7}, "bfloat16", "AdamW", "adapter"),
    ],
)
def test_only_the_very_same_method_gets_our_id(
    config: dict[str, Any] | None, dtype: str, optimizer: str, method: str
) -> None:
    assert method_of(config, dtype, optimizer) == method


# ---------------------------------------------------------------- importing and deleting


def test_an_import_twice_adds_nothing(tmp_path: Path) -> None:
    first = import_files([LORA, PROMPT], tmp_path)
    again = import_files([LORA], tmp_path)
    assert len(first.imported) == 2
    assert (again.imported, again.already) == ((), (first.imported[0],))
    assert again.sentence == "0 results imported, 1 there already."
    assert ImportReport(("a",)).sentence == "1 result imported."
    report = ImportReport(("a", "b"), ("c",), (("d", "e"),))
    assert report.sentence == "2 results imported, 1 there already, 1 refused."


def test_a_folder_is_imported_with_all_its_results(tmp_path: Path) -> None:
    results = tmp_path / "MetaMathQA" / "results"
    results.mkdir(parents=True)
    for file in (FULL, LORA):
        (results / file.name).write_bytes(file.read_bytes())
    assert len(import_files([tmp_path], tmp_path / "runs").imported) == 2


def test_rows_of_a_csv_are_the_same_results_as_their_files(tmp_path: Path) -> None:
    rows = {run.row()["method"]: run.row() for run in imported(tmp_path, CSV)}
    assert set(rows) == {"full", "ia3", "lora"}
    report = import_files([FULL, LORA], tmp_path)
    assert len(report.already) == 2
    (lora,) = imported(tmp_path / "other", LORA)
    differs = {key for key in ROW_KEYS if rows["lora"][key] != lora.row()[key]}
    assert differs == {"created_at"}  # which the CSV does not have


def test_the_wrong_row_of_a_csv_is_named_and_the_others_are_imported(tmp_path: Path) -> None:
    text = CSV.read_text(encoding="utf-8").replace("9175040", "many")
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    report = import_files([path], tmp_path / "runs")
    assert len(report.imported) == 2
    ((name, sentence),) = report.refused
    assert name == "rows.csv, row 4"
    assert "num_trainable_params" in sentence


def test_imported_results_can_be_deleted(tmp_path: Path) -> None:
    one, two = imported(tmp_path, LORA, PROMPT)
    assert remove_published(tmp_path, [one.run_id, "../../etc/passwd", "20261125-no-run"]) == 1
    assert [run.run_id for run in read_published(tmp_path)[0]] == [two.run_id]


def test_two_results_of_one_name_get_different_labels(tmp_path: Path) -> None:
    other = changed(tmp_path, {"train_info.train_time": 1000.0})
    labels = [run.row()["variant"] for run in imported(tmp_path, LORA, other, PROMPT)]
    assert len(set(labels)) == 3
    assert sum(label.startswith("LoRA rank32 (") for label in labels) == 2


def test_a_file_is_read_again_only_if_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = imported(tmp_path, LORA)
    with monkeypatch.context() as patch:
        patch.setattr(published, "read_plain", lambda path, *_, **__: pytest.fail("read again"))
        assert read_published(tmp_path)[0] == before
    (file,) = published_folder(tmp_path).iterdir()
    file.write_text("{", encoding="utf-8")
    os.utime(file, ns=(1, 1))
    runs, ((name, why),) = read_published(tmp_path)
    assert (runs, name) == ([], file.name)
    assert "Invalid JSON" in why
    store = RunStore(tmp_path)
    assert store.runs() == []
    assert [broken.run_id for broken in store.unreadable] == [file.name]


# ---------------------------------------------------------------- never mixed


def test_no_sweep_of_ours_ever_holds_an_imported_row(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    imported(tmp_path, FULL, LORA, PROMPT, IMAGE)
    store = RunStore(tmp_path)
    own = sweep_data(store, SWEEP)
    assert set(own.table["origin"]) == {"measured"}
    assert own.published == ()
    theirs = sweep_data(store, LLAMA)
    assert (theirs.origin, theirs.runs, len(theirs.table)) == ("imported", (), 3)
    assert list(store.table()["origin"])[-4:] == ["imported"] * 4


def test_a_result_cannot_name_itself_into_a_sweep_of_ours(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    keys = ("run_info.experiment_name", "run_id", "sweep_id", "origin")
    (run,) = imported(tmp_path, changed(tmp_path, dict.fromkeys(keys, SWEEP)))
    assert run.sweep_id == LLAMA
    assert len(sweep_data(RunStore(tmp_path), SWEEP).table) == 4


# ---------------------------------------------------------------- what is wrong or hostile


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("train_info.num_trainable_params", "9175040"),
        ("train_info.num_trainable_params", -1),
        ("train_info.num_trainable_params", 10**400),
        ("train_info.num_trainable_params", True),
        ("train_info.num_trainable_params", 1.5),
        ("train_info.accelerator_memory_max", 10**19),
        ("train_info.train_time", float("nan")),
        ("train_info.train_time", float("inf")),
        ("train_info.train_time", -3.0),
        ("train_info.status", "fine"),
        ("train_info.metrics", "none"),
        ("train_info.metrics.4.test accuracy", 47.8),
        ("train_info.metrics.4.test accuracy", float("nan")),
        ("train_info.metrics.0.step", "250"),
        ("run_info.train_config.max_steps", None),
        ("run_info.train_config.model_id", ""),
        ("run_info.train_config.model_id", ["a"]),
        ("run_info.experiment_name", "x" * 10_000),
        ("run_info.peft_config", "LORA"),
        ("meta_info.system_info", 3),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence_and_nothing_is_kept(
    keys: str, value: Any, tmp_path: Path
) -> None:
    report = import_files([changed(tmp_path, {keys: value})], tmp_path / "runs")
    ((name, sentence),) = report.refused
    assert name == "changed.json"
    assert len(sentence) < 300
    assert "\n" not in sentence
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000,
        b'{"run_info": {"benchmark_config": {}}, "generation_info": {}, "meta_info": {}}',
        b"1" * 10_000,
    ],
)  # fmt: skip
def test_what_is_no_result_file_is_refused_in_one_sentence(data: bytes, tmp_path: Path) -> None:
    for name in ("x.json", "x.csv"):
        path = tmp_path / name
        path.write_bytes(data)
        report = import_files([path], tmp_path / "runs")
        ((_, sentence),) = report.refused
        assert sentence.startswith("x.")
        assert "Traceback" not in sentence
        assert not (tmp_path / "runs").exists()


ODD = {
    "huge": "1" + "0" * 6000, "real": "-1e300", "nan": "NaN", "nested": '{"a": [[]]}',
    "list": '["\\u0000", 3]', "bidi": '"\\u202e"',
}  # fmt: skip


@pytest.mark.parametrize("key", ["r", "lora_alpha", "peft_type", "target_modules", "use_dora"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_values_where_anything_may_stand_break_nothing(
    key: str, odd: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, {f"run_info.peft_config.{key}": "ODD"})
    path.write_text(path.read_text().replace('"ODD"', ODD[odd]), encoding="utf-8")
    report = import_files([path], tmp_path / "runs")
    assert len(report.imported) + len(report.refused) == 1
    for run in read_published(tmp_path / "runs")[0]:
        assert RUN_ID.fullmatch(run.run_id)
        assert run.row()["hyperparameters"].isprintable()


def test_a_name_that_looks_like_a_path_stays_in_the_folder(tmp_path: Path) -> None:
    names = {
        "run_info.experiment_name": "../../../etc/pass\x00wd\n<script>",
        "meta_info.system_info.accelerator": "/../..",
    }
    (run,) = imported(tmp_path / "runs", changed(tmp_path, names))
    assert RUN_ID.fullmatch(run.run_id)
    assert RUN_ID.fullmatch(run.sweep_id)
    (file,) = published_folder(tmp_path / "runs").iterdir()
    assert file.name == f"{run.run_id}.json"
    assert run.row()["variant"].isprintable()


def test_what_is_no_readable_result_file_is_named(tmp_path: Path) -> None:
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(published.MAX_BYTES + 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.json")
    names = ["no.json", "empty", "notes.txt", "pipe.json", "large.json"]
    report = import_files([tmp_path / name for name in names], tmp_path / "runs")
    assert [name for name, _ in report.refused] == names
    sentence = report.refused[-1][1]
    assert sentence == "large.json has more than 5 MB, which is not read; put the right file there."
