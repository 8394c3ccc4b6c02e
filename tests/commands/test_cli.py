"""The command line: what it asks for, and what it prints. No run is started here."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from ftlab import __version__
from ftlab.__main__ import COMMANDS, build_parser, main
from ftlab.basics.errors import FtlabError
from ftlab.commands import cancel, resume, sweep
from ftlab.commands.options import generation_request
from ftlab.commands.sweep import request_from
from ftlab.maintain.__main__ import PROGRAM
from ftlab.models.resolve import ModelReach
from ftlab.playground.requests import GenerateRequest
from ftlab.records.expected import Expected, write_expected
from ftlab.records.result import RunResult, Status
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import RunStore, read_run
from ftlab.share.unpack import open_packed
from tests.fakes import SWEEP, make_checkpoint, make_run, make_sweep
from tests.share.packed import packed_sweep


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        status = main(list(arguments))
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def test_several_wrong_options_are_all_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, _, err = run(
        capsys, "sweep", "--runs-dir", str(tmp_path), "--steps", "0", "--batch-size", "0"
    )
    assert "Steps is 0" in err
    assert "Batch size is 0" in err


@pytest.mark.parametrize(
    ("program", "command"),
    [(main, command) for command in COMMANDS] + [(PROGRAM.main, it) for it in PROGRAM.commands],
    ids=lambda given: getattr(given, "NAME", ""),
)
def test_help_says_what_a_command_does(
    program, command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        program([command.NAME, "--help"])
    out = capsys.readouterr().out
    assert command.DESCRIPTION.splitlines()[0][:40] in out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"ftlab {__version__}\n", "")


def test_methods_variants_and_settings_make_one_request() -> None:
    options = build_parser().parse_args(
        ["sweep", "--methods", "full", "--variant", "lora:r=4", "--variant", "lora", "--set",
         "lora.alpha=32", "--seeds", "0,1", "--steps", "7"]
    )  # fmt: skip
    request = request_from(options)
    assert [v.label for v in request.variants] == [
        "Full fine-tuning", "LoRA alpha=32 r=4", "LoRA alpha=32",
    ]  # fmt: skip
    assert request.seeds == (0, 1)
    assert request.settings.steps == 7


def test_a_peft_config_in_a_file_is_a_variant_beside_the_others(tmp_path: Path) -> None:
    file = tmp_path / "c3a.json"
    file.write_text('{"peft_type": "C3A", "block_size": 64}', encoding="utf-8")
    alone = ["sweep", "--peft-config", f"{file}:base=int8"]
    (variant,) = request_from(build_parser().parse_args(alone)).variants
    assert variant.label == "C3A block_size=64 on int8"
    beside = [*alone, "--methods", "lora", "--variant", "oft", "--set", "oft.base=nf4"]
    labels = [v.label for v in request_from(build_parser().parse_args(beside)).variants]
    assert labels == ["LoRA", "OFT on nf4", "C3A block_size=64 on int8"]


def test_matched_parameters_are_said_and_become_ordinary_variants(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    asked: list[SweepRequest] = []

    def take(request: SweepRequest, folder: Path) -> list[RunSpec]:
        asked.append(request)
        raise FtlabError("far enough")

    monkeypatch.setattr(sweep, "enqueue_sweep", take)
    arguments = ["--model", str(tiny_model), "--methods", "lora,hra,ia3", "--match-parameters"]
    _, _, err = run(capsys, "sweep", *arguments, "lora:r=2")
    assert [variant.label for variant in asked[0].variants] == [
        "LoRA alpha=4 r=2",
        "HRA r=4",
        "IA3",
    ]
    assert "IA3: 384 trainable of 4.1 k, not within 10 %: it has nothing to set its size" in err


@pytest.fixture
def not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep is queued and printed, but not started or watched, and nothing is downloaded."""
    monkeypatch.setattr(sweep, "watch_or_cancel", lambda *watched: None)
    monkeypatch.setattr(sweep, "predicted_meanwhile", lambda *sweep: nullcontext())
    monkeypatch.setattr(sweep, "start_dispatcher", lambda folder: None)
    monkeypatch.setattr(sweep, "ensure_bundled", lambda say: None)


@pytest.mark.usefixtures("not_started")
def test_rows_that_are_not_applicable_do_not_make_a_sweep_fail(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    ends = RunResult("done")

    def finish(store: RunStore, sweep_id: str, console: object) -> None:
        for found in store.sweep(sweep_id):
            found.directory.write_result(ends)

    monkeypatch.setattr(sweep, "watch_or_cancel", finish)
    arguments = ["sweep", "--model", str(tiny_model), "--methods", "lora,bitfit", "--runs-dir"]
    status, out, _ = run(capsys, *arguments, str(tmp_path / "a"))
    assert status == 0
    assert "not applicable: BitFit: this model has no biases" in " ".join(out.split())
    ends = RunResult("failed", "by chance")
    status, _, _ = run(capsys, *arguments, str(tmp_path / "b"))
    assert status == 1


@pytest.mark.usefixtures("not_started")
@pytest.mark.parametrize("name", ["bundled", "tiny"])
def test_a_sweep_says_each_rate_and_where_it_was_not_tuned_on_the_model(
    name: str, capsys: pytest.CaptureFixture[str], tiny_model: Path, tmp_path: Path
) -> None:
    model = {"bundled": "bundled", "tiny": str(tiny_model)}[name]
    given = ["--model", model, "--methods", "lora,ia3", "--variant", "lora:learning_rate=5e-4"]
    _, _, err = run(capsys, "sweep", *given, "--runs-dir", str(tmp_path))
    lora = {"bundled": "2e-3", "tiny": "0.011"}[name]
    assert f"learning rates: LoRA {lora}, IA3 0.02, LoRA lr=0.0005 5e-4." in err
    assert ("not on this model" in err) == (name == "tiny")
    assert "64 examples and 1 seed can show a difference in score of about 0.15" in err


@pytest.mark.usefixtures("not_started")
def test_a_sweep_on_a_model_that_is_not_here_says_that_its_rates_wait_for_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sweep, "ModelReach", lambda: ModelReach(ask=lambda model: ""))
    given = ["--model", "owner/never-fetched", "--methods", "lora", "--runs-dir", str(tmp_path)]
    _, _, err = run(capsys, "sweep", *given)
    assert "learning rates: LoRA known once the model is here." in err
    assert "They are scaled once it is here." in err


def test_methods_lists_the_rates_of_the_model_that_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rates(*given: str) -> dict[str, tuple[float, float]]:
        status, out, _ = run(capsys, "methods", "--json", *given)
        assert status == 0
        return {row["id"]: (row["learning_rate"], row["tuned_rate"]) for row in json.loads(out)}

    assert rates()["lora"] == (2e-3, 2e-3)
    wide = rates("--model", "meta-llama/Llama-3.1-8B")
    assert (wide["lora"], wide["ia3"]) == ((4.3e-4, 2e-3), (2e-2, 2e-2))
    _, shown, _ = run(capsys, "methods", "--model", "meta-llama/Llama-3.1-8B")
    assert "4.3e-4" in shown
    assert "not on this model" in shown
    _, shown, _ = run(capsys, "methods")
    assert "not on this model" not in shown


def test_runs_as_json_has_the_promised_keys_and_null_for_what_is_not_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_run(tmp_path, method="lora")
    make_run(tmp_path, method="full", status="failed")
    status, out, _ = run(capsys, "runs", "--format", "json", "--runs-dir", str(tmp_path))
    rows = json.loads(out)
    assert status == 0
    promised = {
        "run_id", "sweep_id", "model", "task", "method", "variant", "seed", "status",
        "trainable_params", "total_params", "peak_memory_bytes", "net_peak_memory_bytes",
        "peak_memory_kind", "train_seconds", "tokens_per_second", "adapter_bytes",
        "eval_loss_before", "eval_loss_after", "score_before", "score_after", "run_dir", "reason",
    }  # fmt: skip
    for row in rows:
        assert promised <= row.keys()
    assert {row["status"] for row in rows} == {"done", "failed"}
    failed = next(row for row in rows if row["status"] == "failed")
    assert failed["score_after"] is None
    assert failed["reason"]


def test_runs_as_a_table_shows_units_and_csv_raw_numbers(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    make_sweep(tmp_path)
    _, table, _ = run(capsys, "runs", "--runs-dir", str(tmp_path))
    assert "134.5 M" in table
    assert "269 MB" in table
    _, csv, _ = run(capsys, "runs", "--format", "csv", "--runs-dir", str(tmp_path))
    assert "134515008" in csv
    assert len(csv.strip().splitlines()) == 5
    make_run(tmp_path, sweep_id="20261126-120000-cd34")
    one = ["runs", "--format", "csv", "--runs-dir", str(tmp_path), "--sweep", SWEEP]
    assert len(run(capsys, *one)[1].strip().splitlines()) == 5
    assert len(run(capsys, *one, "--with-base")[1].strip().splitlines()) == 7


def test_an_opened_sweep_is_listed_with_the_own_runs_and_by_its_id(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    opened = open_packed(packed_sweep(tmp_path), tmp_path / "here").sweep_id
    make_sweep(tmp_path / "here", ("lora",), sweep_id="20261126-120000-cd34")
    listed = ["runs", "--format", "json", "--runs-dir", str(tmp_path / "here")]
    rows = json.loads(run(capsys, *listed)[1])
    assert [row["origin"] for row in rows] == ["measured", *["opened"] * (len(rows) - 1)]
    chosen = json.loads(run(capsys, *listed, "--sweep", opened)[1])
    assert chosen == rows[1:]


def test_no_runs_says_how_to_start_some(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run(capsys, "runs", "--runs-dir", str(tmp_path))
    assert status == 0
    assert "python -m ftlab sweep" in out


def test_an_open_run_is_cancelled_by_its_id_or_its_sweeps(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(cancel, "request_cancel", lambda folder, chosen: asked.append(chosen))
    waiting = make_run(tmp_path, "lora", "queued")
    make_run(tmp_path, "full")
    make_run(tmp_path, "ia3", "queued", sweep_id="20260101-000000-aaaa")
    for name in (waiting.run_id, SWEEP):
        status, out, _ = run(capsys, "cancel", name, "--runs-dir", str(tmp_path))
        assert (status, out) == (0, "1 open run will end within seconds.\n")
    assert asked == [[waiting.run_id]] * 2


def test_a_run_that_ended_early_is_queued_to_resume_and_a_dispatcher_started(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr(resume, "start_dispatcher", started.append)
    ended = make_run(tmp_path, status="interrupted")
    make_checkpoint(ended)
    status, out, _ = run(capsys, "resume", ended.run_id, "--runs-dir", str(tmp_path))
    assert status == 0
    assert out.startswith("1 queued to resume")
    assert read_run(ended).status == "queued"
    assert started == [tmp_path]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (None, r"This takes about 40 s, until \d\d:\d\d\.\n"),
        ("running", r"This takes about 40 s, after what its device has to do before\.\n"),
    ],
)
def test_resume_says_how_long_the_rest_of_the_run_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    other: Status | None, said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(resume, "start_dispatcher", lambda folder: None)
    ended = make_run(tmp_path, status="interrupted", steps=20)
    make_checkpoint(ended)
    write_expected(ended, Expected(train=40, evaluate=15, other=5))
    if other is not None:
        make_run(tmp_path, "full", other)
    status, out, _ = run(capsys, "resume", ended.run_id, "--runs-dir", str(tmp_path))
    assert status == 0
    assert re.search(said, out)


def test_generate_says_what_is_wrong_with_each_pane(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, _ = run(
        capsys, "generate", "--runs", "nope,gone", "--prompt", "hello", "--runs-dir", str(tmp_path)
    )
    assert status == 1
    assert "There is no run 'nope'" in out
    assert "There is no run 'gone'" in out


def test_every_option_of_generate_is_in_the_request() -> None:
    given: dict[str, Any] = {
        "model": "gpt2", "precision": "nf4", "mode": "completion", "system": "Be brief.",
        "max_new_tokens": 7, "temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 3,
    }  # fmt: skip
    words = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    parsed = build_parser().parse_args(["generate", "--prompt", "Hi", *words])
    assert generation_request(parsed, "Hi") == GenerateRequest(("base",), "Hi", **given)


def test_ctrl_c_is_one_word_and_the_shells_own_status(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ftlab.records.store.RunStore.runs", interrupted)
    status, _, err = run(capsys, "runs", "--runs-dir", str(tmp_path))
    assert (status, err) == (130, "ftlab: stopped.\n")
