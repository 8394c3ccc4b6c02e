"""Uploaded adapters: which files are stored, under which name, and for how long."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground import uploaded
from ftlab.playground.panes import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_source,
    read_record,
    uploaded_folder,
    uploaded_sources,
)
from ftlab.playground.uploaded import forget_adapter, upload_adapter
from tests.playground.adapters import (
    CONFIG,
    adapter_folder,
    adapter_zip,
    config_bytes,
    refused,
    weights,
)


@pytest.mark.parametrize("below", ["", "my-adapter/", "./"])
def test_a_good_adapter_becomes_a_source_from_a_folder_and_from_a_zip(
    tmp_path: Path, runs_folder: Path, below: str
) -> None:
    folder = adapter_folder(tmp_path / "My Adapter (v1.5)")
    archive = adapter_zip(tmp_path / "My Adapter (v1.5).ZIP", below=below)
    digest = hashlib.sha256(weights()).hexdigest()
    for source in (folder, archive):
        pane = upload_adapter(source, runs_folder)
        assert pane.name == f"adapter:my-adapter-v1-5-{digest[:8]}"
        assert pane == find_source(runs_folder, pane.name)
        assert pane.label == "My Adapter (v1.5)"
        assert pane.detail == "LoRA r=2, uploaded"
        assert (pane.method, pane.model) == ("lora", CONFIG["base_model_name_or_path"])
        assert pane.is_adapter
        assert pane.folder is not None
        assert read_record(pane.folder).sha256 == digest
    assert len(uploaded_sources(runs_folder)) == 1


def test_only_the_two_files_and_the_record_are_kept_byte_for_byte(
    tmp_path: Path, runs_folder: Path
) -> None:
    folder = adapter_folder(tmp_path / "a")
    for name in ("adapter_model.bin", "README.md", "optimizer.pt", "pane.json", ".hidden"):
        (folder / name).write_text("no")
    kept = upload_adapter(folder, runs_folder).folder
    assert kept is not None
    assert sorted(os.listdir(kept)) == [CONFIG_FILE, WEIGHTS_FILE, "pane.json"]
    assert (kept / CONFIG_FILE).read_bytes() == config_bytes()
    assert (kept / WEIGHTS_FILE).read_bytes() == weights()
    assert stat.S_IMODE((kept / WEIGHTS_FILE).stat().st_mode) & 0o044 == 0o044


def test_an_adapter_uploaded_again_gets_the_same_folder(tmp_path: Path, runs_folder: Path) -> None:
    first = upload_adapter(adapter_folder(tmp_path / "a"), runs_folder, "First")
    again = upload_adapter(adapter_zip(tmp_path / "other.zip"), runs_folder)
    renamed = upload_adapter(adapter_folder(tmp_path / "a"), runs_folder, "Second")
    assert first == again
    assert renamed.name == first.name
    assert (first.label, renamed.label) == ("First", "Second")
    assert len(os.listdir(uploaded_folder(runs_folder))) == 1


def test_the_same_weights_under_another_configuration_are_another_adapter(
    tmp_path: Path, runs_folder: Path
) -> None:
    one = upload_adapter(adapter_folder(tmp_path / "a"), runs_folder)
    two = upload_adapter(adapter_folder(tmp_path / "a", config_bytes(lora_alpha=64)), runs_folder)
    assert two.name == f"{one.name}-2"
    assert two.folder is not None
    assert json.loads((two.folder / CONFIG_FILE).read_bytes())["lora_alpha"] == 64


def test_a_damaged_folder_of_the_same_name_is_not_changed(
    tmp_path: Path, runs_folder: Path
) -> None:
    pane = upload_adapter(adapter_folder(tmp_path / "a"), runs_folder)
    assert pane.folder is not None
    (pane.folder / WEIGHTS_FILE).unlink()
    again = upload_adapter(tmp_path / "a", runs_folder)
    assert again.folder is not None
    assert again.name != pane.name
    assert (again.folder / WEIGHTS_FILE).read_bytes() == weights()


def test_simultaneous_uploads_get_one_folder(tmp_path: Path, runs_folder: Path) -> None:
    source = adapter_folder(tmp_path / "a")
    with ThreadPoolExecutor(8) as pool:
        panes = list(pool.map(lambda _: upload_adapter(source, runs_folder), range(24)))
    assert len({pane.name for pane in panes}) == 1
    assert os.listdir(uploaded_folder(runs_folder)) == [panes[0].name.removeprefix("adapter:")]


def test_an_incomplete_upload_is_never_listed(
    tmp_path: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    rename = os.rename

    def looking(source: Path, target: Path) -> None:
        seen.append([pane.name for pane in uploaded_sources(runs_folder)])
        rename(source, target)
        seen.append(sorted(os.listdir(target)))

    monkeypatch.setattr(os, "rename", looking)
    upload_adapter(adapter_folder(tmp_path / "a"), runs_folder)
    assert seen == [[], [CONFIG_FILE, WEIGHTS_FILE, "pane.json"]]


@pytest.mark.parametrize(
    ("label", "shown", "slug"),
    [
        ("  Mine  ", "Mine", "mine"),
        ("a\nb\x1b[31mc\u202e", "a b [31mc", "a-b-31mc"),
        ("x" * 100, "x" * 60, "x" * 40),
        ("日本語", "日本語", "adapter"),
        ("../../etc", "../../etc", "etc"),
        ("\x00", "a", "a"),
        ("", "a", "a"),
    ],
)
def test_a_label_is_one_short_line_and_its_folder_a_plain_name(
    tmp_path: Path, runs_folder: Path, label: str, shown: str, slug: str
) -> None:
    pane = upload_adapter(adapter_folder(tmp_path / "a"), runs_folder, label)
    assert pane.label == shown
    assert pane.name.startswith(f"adapter:{slug}-")
    assert uploaded_sources(runs_folder) == [pane]


def test_the_folder_of_the_base_model_is_not_stored(tmp_path: Path, runs_folder: Path) -> None:
    config = config_bytes(base_model_name_or_path="/home/alice/models/SmolLM2-135M-Instruct")
    pane = upload_adapter(adapter_folder(tmp_path / "a", config), runs_folder)
    assert pane.model == "SmolLM2-135M-Instruct"
    assert pane.folder is not None
    assert "alice" not in (pane.folder / "pane.json").read_text()


def test_uploading_imports_no_torch() -> None:
    code = (
        "import sys, ftlab.playground.uploaded;"
        "print({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_runs_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(FtlabError, match="cannot be stored in the runs folder"):
        upload_adapter(adapter_folder(tmp_path / "a"), tmp_path / "runs")


def test_a_full_disk_is_reported_and_no_file_is_left(
    tmp_path: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(uploaded, "_copy", full)
    assert "No space left on device" in refused(adapter_folder(tmp_path / "a"), runs_folder)


def test_a_removed_adapter_is_gone_and_the_others_stay(tmp_path: Path, runs_folder: Path) -> None:
    gone = upload_adapter(adapter_folder(tmp_path / "a"), runs_folder)
    stays = upload_adapter(adapter_folder(tmp_path / "b", None, weights(fill=2)), runs_folder)
    forget_adapter(runs_folder, gone.name)
    assert uploaded_sources(runs_folder) == [stays]
    assert len(os.listdir(uploaded_folder(runs_folder))) == 1
    with pytest.raises(FtlabError, match="There is no uploaded adapter"):
        forget_adapter(runs_folder, gone.name)
    assert upload_adapter(tmp_path / "a", runs_folder) == gone


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../runs", "adapter:", "adapter:../..", "a/b", "/"]
)
def test_only_an_uploaded_adapter_can_be_removed(
    tmp_path: Path, runs_folder: Path, name: str
) -> None:
    pane = upload_adapter(adapter_folder(tmp_path / "a"), runs_folder)
    with pytest.raises(FtlabError, match="There is no uploaded adapter"):
        forget_adapter(runs_folder, name)
    assert uploaded_sources(runs_folder) == [pane]
