"""What a run learnt as a zip: only what is needed, nothing of this machine, and it loads."""

from __future__ import annotations

import re
import runpy
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from ftlab.__main__ import main
from ftlab.basics.errors import FtlabError
from ftlab.playground.adapter_files import adapter_files
from ftlab.records.merge import MergeRecord
from ftlab.records.recording import machine_path
from ftlab.records.store import Run, read_run
from ftlab.share.bundle import run_bundle, write_zip
from ftlab.share.model_card import model_card
from ftlab.share.weights import Kind
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run, make_sweep
from tests.share.conftest import Train

MERGED = MergeRecord("bf16", 1, 2.0, 0.0, score_after_merge=0.69, loss_after_merge=1.32)


def packed(run: Run, folder: Path) -> tuple[Path, Path]:
    """The run's zip, and the folder that it unpacks to."""
    target = folder / "run.zip"
    write_zip(run_bundle(run), target)
    with zipfile.ZipFile(target) as archive:
        archive.extractall(folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return target, unpacked


def front(card: str) -> dict[str, object]:
    return dict(yaml.safe_load(card.split("---")[1]))


def run_its_code(card: str, folder: Path, model: Path) -> object:
    """Runs what the card says on loading, with this folder and this base; gives the model."""
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    text = code[1].replace('folder = "."', f"folder = {str(folder)!r}")
    text = text.replace('"path/to/the/base/model"', repr(str(model)))
    script = folder.parent / "load.py"
    script.write_text(text.replace("max_new_tokens=96", "max_new_tokens=2"), encoding="utf-8")
    return runpy.run_path(str(script))["model"]


@pytest.mark.parametrize(
    "variant", ["lora", "prompt_tuning:tokens=4", "full", "last_layers:layers=1"]
)
def test_a_zip_holds_what_is_needed_and_its_card_says_how_to_load_it(
    variant: str, train: Train, export_model: Path, tmp_path: Path
) -> None:
    run = train(variant)
    (run.directory.adapter / "notes.txt").write_text("not to be shipped")
    target, unpacked = packed(run, tmp_path)
    names = {path.name for path in unpacked.iterdir()}
    assert "README.md" in names
    assert {Path(name).suffix for name in names - {"README.md", "chat_template.jinja"}} == {
        ".safetensors", ".json",
    }  # fmt: skip
    for path in unpacked.iterdir():
        if path.suffix in (".json", ".md"):
            assert str(tmp_path) not in path.read_text()
            assert str(export_model) not in path.read_text()
    card = (unpacked / "README.md").read_text()
    loaded = run_its_code(card, unpacked, export_model)
    weights = dict(loaded.named_parameters())  # type: ignore[attr-defined]
    assert any("lora" in n or "prompt" in n for n in weights) == variant.startswith(("lora", "pro"))
    if variant.startswith("lora"):
        with adapter_files(target) as open_file:  # the playground takes it too
            assert open_file("adapter_config.json").read(1) == b"{"


def test_a_card_has_the_measures_the_settings_and_the_base_with_its_licence(tmp_path: Path) -> None:
    *_, directory = make_sweep(tmp_path, ("lora",))
    card = model_card(read_run(directory), "adapter")
    head = front(card)
    del head["model-index"]
    assert head == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["ftlab", "lora"],
        "license": "apache-2.0",
    }
    assert "| 3.080 | 1.310 | -1.770 |" in card
    assert "| 0.31 | 0.71 | +0.50 (" in card, "the interval is of the recorded answers"
    for part in ("| 2.4 M |", "| 1.29 GB |", "| Learning rate | 2e-3 |", "AMD EPYC 7B13",
                 "| peft | 0.21.2 |", "rounded to 4 bits", "4c1e99d0a3b7"):  # fmt: skip
        assert part in card


def test_a_card_names_no_base_that_nobody_else_can_have(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        "qlora",
        model="/srv/models/mine",
        task=TaskReference("file", "/home/me/q.csv"),
        notes=["Read from /home/me/q.csv.", "A | note."],
    )
    card = model_card(read_run(run), "adapter")
    assert "base_model" not in front(card)
    assert "license" not in front(card)
    assert machine_path(card) is None
    assert "q.csv" in card
    assert "A \\| note." in card
    assert "4 bits (NF4)" in card


def test_a_data_set_of_the_hub_is_named_in_the_front_matter(tmp_path: Path) -> None:
    run = make_run(tmp_path, task=TaskReference("hub", "owner/data"))
    assert front(model_card(read_run(run), "adapter"))["datasets"] == ["owner/data"]


def test_the_card_of_a_merged_model_has_the_scores_after_merging(tmp_path: Path) -> None:
    card = model_card(read_run(make_run(tmp_path)), "model", MERGED)
    assert front(card)["base_model_relation"] == "merge"
    assert "| base | after training | after merging |" in card
    assert "| 0.31 | 0.71 | 0.69 |" in card


@pytest.mark.parametrize(
    ("task", "kind", "merged", "data", "scores"),
    [
        (TaskReference("bundled", "sql"), "adapter", None, ("json", "SQL of ftlab"),
         {"accuracy": 0.71, "loss": 1.31}),
        (TaskReference("bundled", "sql"), "model", MERGED, ("json", "SQL of ftlab"),
         {"accuracy": 0.69, "loss": 1.32}),
        (TaskReference("bundled", "medical"), "adapter", None, ("json", "Medical summary of ftlab"),
         {"rouge": 0.71, "loss": 1.31}),
        (TaskReference("file", "/home/me/secret.csv"), "weights", None,
         ("csv", "the trainer's own file"), {"chrf": 71.0, "loss": 1.31}),
        (TaskReference("hub", "owner/data", metric="exact_match"), "adapter", None,
         ("owner/data", "owner/data"), {"exact_match": 0.71, "loss": 1.31}),
        (TaskReference("bundled", "of_a_later_version"), "adapter", None,
         ("json", "a task of ftlab"), {"loss": 1.31}),
    ],
)  # fmt: skip
def test_the_hub_reads_the_results_of_a_card_without_a_file_of_the_trainer(
    task: TaskReference, kind: Kind, merged: MergeRecord | None, data: tuple[str, str],
    scores: dict[str, float], tmp_path: Path,
) -> None:  # fmt: skip
    card = ModelCard(model_card(read_run(make_run(tmp_path, task=task)), kind, merged))
    results = card.data.eval_results
    assert results is not None
    assert {one.metric_type: one.metric_value for one in results} == scores
    named = (data[0], f"{data[1]}, 64 test examples")
    assert {(one.dataset_type, one.dataset_name) for one in results} == {named}
    assert {one.task_type for one in results} == {card.data.pipeline_tag}
    assert "secret" not in card.data.to_yaml()


def test_results_are_left_out_of_a_card_for_the_hub_where_none_were_measured(
    tmp_path: Path,
) -> None:
    run = read_run(make_run(tmp_path))
    assert run.result is not None
    for score in (None, float("nan")):
        measures = replace(run.result.measures, score_after=score, eval_loss_after=None)
        unmeasured = replace(run, result=replace(run.result, measures=measures))
        assert "model-index" not in front(model_card(unmeasured, "adapter"))


def test_a_run_without_weights_says_why(tmp_path: Path) -> None:
    for run, reason in (
        (make_run(tmp_path, status="running"), "only a run that is done"),
        (make_run(tmp_path, "base"), "nothing was trained"),
        (make_run(tmp_path), "not there any more"),
    ):
        with pytest.raises(FtlabError, match=reason):
            run_bundle(read_run(run))


def test_the_command_writes_the_zip_and_refuses_recorded_and_unmerged_runs(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = train("lora")
    monkeypatch.chdir(tmp_path)
    runs = ["--runs-dir", str(tmp_path / "runs")]
    assert main(["adapter", run.run_id, *runs]) == 0
    name = capsys.readouterr().out.split()[0]
    assert zipfile.is_zipfile(tmp_path / name)
    assert main(["adapter", run.run_id, "--merged", *runs]) == 2
    assert "has no merged model" in capsys.readouterr().err
    assert main(["adapter", "20261125-221850-9f1d-03-lora", *runs]) == 2
    assert "without its weights" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*.zip.*")), "nothing half-written is left"
