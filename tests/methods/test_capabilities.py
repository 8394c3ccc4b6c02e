"""What a method can do is seen, not guessed: the table is probed again, and says what it says."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from transformers.utils import logging as transformers_logging

from ftlab.__main__ import main
from ftlab.maintain.__main__ import main as maintain
from ftlab.methods import capabilities as table
from ftlab.methods.capabilities import (
    BEGIN,
    COLUMNS,
    END,
    Capability,
    capabilities,
    footnotes,
    installed_versions,
    is_offered,
    made_with,
    readme_table,
    why_not_offered,
)
from ftlab.methods.registry import METHODS

README = Path(__file__).parents[2] / "README.md"

PROBED_AGAIN = ("last_layers", "lora", "pissa", "qlora", "lora_int8", "prompt_tuning")
"""Of each kind one; `python -m ftlab.maintain probe` tries them all."""


def probed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Capability]:
    from ftlab.training.probe import probe, variant_to_probe

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
        torch.set_num_threads(1)
        try:
            return probe(map(variant_to_probe, PROBED_AGAIN), tmp_path_factory.mktemp("probe"))
        finally:
            torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_table_says_what_a_new_probe_sees(tmp_path_factory: pytest.TempPathFactory) -> None:
    seen = probed(tmp_path_factory)
    told = {method: capabilities()[method] for method in PROBED_AGAIN}
    if made_with() != installed_versions():  # an adapter's config grows from version to version
        told = {
            method: replace(row, adapter_bytes=seen[method].adapter_bytes)
            for method, row in told.items()
        }
    assert seen == told, "python -m ftlab.maintain probe --write makes the table anew"


def test_the_table_has_the_methods_of_the_registry_in_its_order() -> None:
    assert list(capabilities()) == list(METHODS)


def test_at_least_25_methods_learn_and_load_again() -> None:
    able = [c for c in capabilities().values() if c.learns and c.reloads]
    assert len(able) >= 25


def test_the_readme_shows_the_table_as_it_is() -> None:
    shown = README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip()
    assert shown == readme_table(capabilities(), made_with()).strip()


def test_what_does_not_work_has_its_reason() -> None:
    for capability in capabilities().values():
        answers = [getattr(capability, column.key) for column in COLUMNS]
        assert bool(capability.reason) == (False in [*answers, capability.plain_generate])


def all_is_well(**changes: object) -> Capability:
    answers: dict[str, object] = {field.name: True for field in fields(Capability)}
    return Capability(**(answers | {"id": "lora", "reason": "", "note": ""} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("check", ["trains", "reloads", "generates", "changes_output"])
def test_a_method_whose_result_is_of_no_use_is_not_offered_others_and_unprobed_ones_are(
    check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = all_is_well(**{check: False, "reason": "It does not."})
    assert is_offered(all_is_well(merges=None, on_4bit=False))
    assert is_offered(None)
    assert not is_offered(broken)
    monkeypatch.setattr(table, "capabilities", lambda: {"lora": broken})
    assert why_not_offered("lora") == "It does not."
    assert why_not_offered("full") == why_not_offered("mine") == ""


def test_methods_with_the_same_footnote_share_it() -> None:
    rows = {
        "lora": all_is_well(reason="One.", note="But."),
        "full": all_is_well(reason="Two."),
        "vera": all_is_well(),
        "dora": all_is_well(reason="One.", note="But."),
    }
    assert footnotes(rows) == {"lora": "One. But.", "full": "Two.", "dora": "One. But."}
    text = readme_table(rows, {})
    assert "DoRA <sup>1</sup>" in text
    assert "Full fine-tuning <sup>2</sup>" in text
    assert text.endswith("1. One. But.\n2. Two.")


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout's README and table, for a probe that writes; afterwards all is as it was."""
    (tmp_path / "assets").mkdir()
    shutil.copyfile(table.FILE, tmp_path / "assets" / table.FILE.name)
    shutil.copyfile(README, tmp_path / "README.md")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    threads, verbosity = torch.get_num_threads(), transformers_logging.get_verbosity()
    bitsandbytes = logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "FILE", tmp_path / "assets" / table.FILE.name)
        patch.setattr("ftlab.maintain.capabilities.checkout_folder", lambda: tmp_path)
        yield tmp_path
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()
    bitsandbytes.setLevel(level)
    for cached in (capabilities, made_with):
        cached.cache_clear()


@pytest.mark.slow
@pytest.mark.model
def test_a_probe_of_one_method_writes_its_row_and_leaves_the_others(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, methods = copied / "README.md", list(capabilities())
    wrong = readme.read_text(encoding="utf-8").replace("| Layer-norm tuning | ✓", "| Layer | ✗")
    readme.write_text(wrong, encoding="utf-8")
    assert maintain(["probe", "--methods", "layer_norm", "--write"]) == 0
    assert "layer_norm" in capsys.readouterr().out
    text = readme.read_text(encoding="utf-8")
    assert "| Layer-norm tuning | ✓" in text
    assert text.split(BEGIN)[1].split(END)[0].strip() == readme_table(capabilities(), made_with())
    assert [row["id"] for row in json.loads(table.FILE.read_text())["methods"]] == methods


def test_the_list_as_json_has_every_method_with_its_capabilities(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in rows] == list(METHODS)
    asked = {
        "id", "label", "family", "trains", "loss_falls", "reloads", "changes_output", "merges",
        "on_4bit", "with_checkpointing", "adapter_bytes", "reason", "on_8bit", "generates",
        "base_untouched", "learning_rate", "paper", "summary", "good_for", "weak_at",
    }  # fmt: skip
    assert all(asked <= row.keys() for row in rows)
    lora = next(row for row in rows if row["id"] == "lora")
    assert lora["adapter_bytes"] == capabilities()["lora"].adapter_bytes
    assert lora["learning_rate"] == METHODS["lora"].learning_rate


def test_the_list_on_the_terminal_names_every_method_and_says_what_fails(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["methods"]) == 0
    text = capsys.readouterr().out
    for shown in (*(f" {id} " for id in METHODS), *footnotes(capabilities()).values()):
        assert shown in text


def test_what_was_not_probed_is_null_and_a_question_mark(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ftlab.commands.methods.capabilities", lambda: {})
    main(["methods", "--json"])
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["trains"], row["merges"], row["offered"]) == (None, None, True)
    main(["methods"])
    assert "? not probed" in capsys.readouterr().out
