"""Secrets are planted in the environment, a run really trains, every byte written is searched."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from ftlab.__main__ import main
from ftlab.basics.processes import worker_environment
from ftlab.jobs.launch import enqueue_sweep
from ftlab.methods.variant import parse_variant
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore, read_run, sweep_data
from ftlab.settings.training import TrainingSettings
from ftlab.share.card import card_svg
from ftlab.share.card_content import card_of
from ftlab.tabs.experiment.queue import NEWEST, queue_html, view_sweep
from ftlab.tabs.results.columns import Query, show, write_export
from ftlab.tabs.results.panel import panel
from ftlab.tasks.reference import parse_task

SECRETS = {
    "HF_TOKEN": "hf_plantedPlantedPlantedPlanted0001",
    "HUGGING_FACE_HUB_TOKEN": "hf_plantedPlantedPlantedPlanted0002",
    "WANDB_API_KEY": "planted0003planted0003planted0003planted",
    "FTLAB_USER": "planted-user-0004",
    "FTLAB_PASSWORD": "planted-password-0005",
    "FTLAB_AUTH": "planted:planted-password-0009",
    "GRADIO_AUTH": "planted:planted-password-0006",
    "OPENAI_API_KEY": "sk-planted0007planted0007",
    "AWS_SECRET_ACCESS_KEY": "planted0008/planted0008+planted0008",
}


def forms(secret: str) -> set[bytes]:
    """The secret as it is and as it might be written."""
    raw = secret.encode()
    coded = {base64.b64encode(b"x" * skip + raw).strip(b"=")[4:-4] for skip in range(3)}
    return {raw, quote(secret, safe="").encode(), raw.hex().encode(), *coded}


def everything(folder: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file, and of every entry of a zip."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield str(path.relative_to(folder)), str(path).encode() + path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    yield f"{path.name}:{name}", archive.read(name)


@pytest.mark.slow
@pytest.mark.hostile("planted tokens")
def test_no_secret_of_the_environment_is_in_anything_that_is_written(
    tmp_path: Path,
    tiny_model: Path,
    task_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "home"))
    runs = tmp_path / "runs"
    request = SweepRequest(
        model=str(tiny_model),
        task=parse_task(str(task_file)),
        variants=(parse_variant("lora:r=2"),),
        settings=TrainingSettings(steps=2, batch_size=2, eval_examples=2, max_length=128),
        dtype_policy="fp32",
        device="cpu",
    )
    _, lora = enqueue_sweep(request, runs)
    done = subprocess.run(
        [sys.executable, "-m", "ftlab.jobs.run_worker", str(runs / lora.run_id)],
        capture_output=True,
        text=True,
        timeout=300,
        env=worker_environment(needs_hub=True) | SECRETS | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, RunDirectory(runs / lora.run_id).log_tail()
    (tmp_path / f"{lora.run_id}.out").write_text(done.stdout + done.stderr, encoding="utf-8")
    _fail_one(runs, replace(request, variants=(parse_variant("lora:r=4"),)), task_file)

    _export(runs, lora.run_id, lora.sweep_id, tmp_path / "out")
    found = dict(everything(tmp_path))
    for part in (
        "adapter_model.safetensors", "log.txt", "metrics.jsonl", "samples.jsonl", "report.html",
        "reproduce.py", "README.md", "ftlab-results.csv", "ftlab-results.json", "card.svg",
    ):  # fmt: skip
        assert any(name.endswith(part) for name in found), f"{part} was not made: {sorted(found)}"
    for name, content in found.items():
        for variable, secret in SECRETS.items():
            assert not any(form in content for form in forms(secret)), f"{variable} is in {name}"
    record_property("hostile inputs", len(SECRETS))


def _fail_one(runs: Path, request: SweepRequest, task_file: Path) -> None:
    """A run that ends in a traceback, which goes to its log."""
    spec = enqueue_sweep(request, runs)[-1]
    text = task_file.read_bytes()
    task_file.write_text("prompt,completion\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "ftlab.jobs.run_worker", str(runs / spec.run_id)],
        capture_output=True,
        timeout=300,
        env=worker_environment(needs_hub=True) | SECRETS,
    )
    task_file.write_bytes(text)
    assert done.returncode == 1
    assert "Traceback" in RunDirectory(runs / spec.run_id).log_tail()


def _export(runs: Path, run_id: str, sweep_id: str, out: Path) -> None:
    """Everything that page and command line can write of a run."""
    from ftlab.share.bundle import run_bundle, write_zip
    from ftlab.share.script import write_reproduction

    out.mkdir()
    store = RunStore(runs)
    run = read_run(RunDirectory(runs / run_id))
    write_zip(run_bundle(run), out / "run.zip")
    write_reproduction(run, out / "script")
    (out / "card.svg").write_text(card_svg(card_of(sweep_data(store, sweep_id))), encoding="utf-8")
    table = store.table(with_base=True)
    for kind in ("csv", "json"):
        write_export(show(table, Query(columns=tuple(table.columns))), kind, out)
    pieces = [queue_html(view_sweep(store.runs(), NEWEST))]
    pieces += [str(vars(panel(each))) for each in store.runs()]
    (out / "page.html").write_text("\n".join(pieces), encoding="utf-8")
    folder = f"--runs-dir={runs}"
    report = ["report", sweep_id, "-o", str(out / "report.html"), folder]
    assert main(report) == 0


def test_the_search_finds_a_secret_in_a_file_a_zip_and_in_base64(tmp_path: Path) -> None:
    secret = SECRETS["HF_TOKEN"]
    (tmp_path / "a.txt").write_text(f"x={secret}", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(base64.b64encode(f"Bearer {secret}!".encode()))
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d.txt", secret * 3)
    holding = {
        name
        for name, content in everything(tmp_path)
        if any(form in content for form in forms(secret))
    }
    assert holding == {"a.txt", "b.txt", "c.zip:d.txt"}
    assert os.environ.get("HF_TOKEN") != secret
