"""Wrong input on the command line is a sentence and status 2, and queues nothing."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ftlab.__main__ import main
from ftlab.records.run import run_directories

ONE_ROW = "The data have only 1 row; at least 3 are needed"
FILES = {
    "one.csv": b"prompt,completion\na,b\n",
    "sixty.csv": b"prompt,completion\n" + b"".join(b"q%d,a%d\n" % (i, i) for i in range(60)),
    "other.csv": b"left,right\n" + b"".join(b"q%d,a%d\n" % (i, i) for i in range(60)),
    "empty.csv": b"",
    "bytes.csv": bytes(range(256)),
    "bad.json": b"{",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command is typed; no Hub can be reached from it, and nothing may be started."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for command in ("sweep", "tune"):
        name = f"ftlab.commands.{command}.start_dispatcher"
        monkeypatch.setattr(name, lambda runs: pytest.fail("something was started"))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "part"),
    [
        ("sweep --task one.csv", ONE_ROW),
        ("sweep --task empty.csv", "empty.csv is empty"),
        ("sweep --task bytes.csv", "is not UTF-8"),
        ("sweep --task other.csv", "No column is set for the prompt"),
        ("sweep --task sixty.csv --columns prompt=q,completion=a", "no column 'q'"),
        ("sweep --task sixty.csv --metric bleu", "There is no metric 'bleu'"),
        ("sweep --task folder", "There is no task 'folder'"),
        ("sweep --task sixty.csv --model TINY --max-length 16", "Raise the maximum length"),
        ("sweep --model no/such --task sixty.csv", "The model 'no/such' could not be had"),
        ("sweep --model no:such", "names no model"),
        ("sweep --model folder", "holds no config.json"),
        ("sweep --model TINY --seeds 0,0,0", "Seed 0 is given 3 times"),
        ("sweep --model TINY --seeds=", "No seed is given"),
        ("sweep --model TINY --methods=", "No method is chosen"),
        ("sweep --model TINY --methods lora,lora", "LoRA is in the sweep twice"),
        ("sweep --model TINY --variant lora:r=", "not a whole number"),
        ("sweep --model TINY --variant :", "There is no method ''"),
        ("sweep --model TINY --eval-examples 0", "Test examples is 0"),
        ("sweep --model TINY --memory-limit lots", "is no size"),
        ("sweep --model TINY --peft-config bad.json", "is not valid JSON"),
        ("sweep --model TINY --report-to nowhere", "'nowhere' is none of"),
        ("tune --method lora --task one.csv --model TINY", ONE_ROW),
        ("tune --method lora --task sixty.csv --model no/such", "could not be had"),
        (
            "tune --method lora --task sixty.csv --model TINY --max-length 16",
            "Raise the maximum length",
        ),
        ("predict --model no/such", "could not be had"),
        ("predict --model gpt2 --length 0", "Longest example is 0"),
        ("predict --model gpt2 --batch -1", "Batch is -1"),
        ("methods --model no/such", "could not be had"),
        ("model folder", "holds no config.json"),
        ("generate --prompt= --runs base", "The prompt is empty"),
        ("grid --prompts bad.json", "is not valid JSON"),
        ("report nope", "There is no sweep 'nope'"),
        ("report ../..", "There is no sweep '../..'"),
        ("merge nope", "There is no run 'nope'"),
        ("script nope", "There is no run 'nope'"),
        ("resume nope", "There is no run 'nope'"),
        ("cancel nope", "There is no run and no sweep 'nope'"),
        ("adapter folder", "There is no run 'folder'"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("sweep --methods lorra", "There is no method 'lorra'"),
        ("sweep --task sqll", "sqll"),
        ("sweep --task missing.csv", "missing.csv"),
        ("sweep --steps 0", "Steps is 0; it must lie between 1 and"),
        ("sweep --steps many", "invalid int value"),
        ("sweep --variant lora:r=0", "Rank r is 0; it must lie between 1 and 512"),
        ("sweep --variant full:base=nf4", "has no hyperparameter 'base'"),
        ("sweep --variant lora:base=nf5", "none of: nf4, int8"),
        ("sweep --methods peft", "No PeftConfig is given"),
        ("sweep --peft-config missing.json", "'missing.json' cannot be read"),
        ("sweep --set lora.r=0", "Rank r is 0"),
        ("sweep --set lora.rank=4", "has no hyperparameter 'rank'"),
        ("sweep --learning-rate -1", "Learning rate is -1"),
        ("sweep --device cuda:9", "There is no device 'cuda:9' on this machine"),
        ("sweep --model /nowhere", "There is no model folder '/nowhere'"),
        ("sweep --seeds a", "must be whole numbers"),
        ("sweep --match-parameters 2.4X", "neither a number of parameters"),
        ("sweep --methods bitfit", "no biases"),
        ("sweep --batch-size -2", "Batch size is -2"),
        ("sweep --columns prompt=q", "has its own columns"),
        ("sweep --columns prompt", "not of the form role=column"),
        ("sweep --task hub:owner/name --columns q=prompt", "no column role 'q'"),
        ("tune", "--method"),
        ("tune --method lorra", "There is no method 'lorra'"),
        ("tune --method ,", "No method is named"),
        ("tune --method lora --rates fast", "Rates 'fast' must be numbers"),
        ("tune --method lora --from 1e-3", "give both --from and --to"),
        ("tune --method lora --rates 1e-3 --to 1e-2", "not both"),
        ("tune --method lora --steps 0", "Steps is 0"),
        ("tune --method lora --set lora.rank=4", "has no hyperparameter 'rank'"),
        ("tune --method bitfit", "no biases"),
        ("tune --method lora --show", "run tune without --show first"),
        ("predict --model 'not/such\0'", "NUL"),
        ("predict --methods nothing", "nothing"),
        ("predict --device rtx-409", "rtx-4090"),
        ("predict --base-precision nf4 --methods full", "cannot be held in nf4"),
        ("predict --completion-tokens 300 --length 64", "can carry loss"),
        ("methods --model /no/such/folder", "/no/such/folder"),
        ("methods --model 'not a model'", "not a model"),
        ("methods --model=", ""),
        ("generate --runs no/such/adapter --prompt hello", "There is no adapter at"),
        ("generate --runs= --prompt hello", "pane"),
        ("app --port 99999", "Port 99999"),
        ("runs --runs-dir bad.json", "cannot be read"),
    ],
)
def test_wrong_input_is_said_in_a_sentence_and_queues_nothing(
    command: str,
    part: str,
    folder: Path,
    tiny_model: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = [str(tiny_model) if word == "TINY" else word for word in shlex.split(command)]
    has_no_runs = words[0] in ("predict", "methods", "model", "nonsense") or "--runs-dir" in words
    runs = [] if has_no_runs else ["--runs-dir", str(folder / "runs")]
    try:
        status = main([*words, *runs])
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    out, err = capfd.readouterr()
    assert status == 2
    assert out == ""
    assert part in err
    # Before a download, a worker or the app, more may be said.
    if words[0] not in ("app", "generate", "grid") and "no/such" not in command:
        assert len(err.strip().splitlines()) == 1
    assert run_directories(folder / "runs") == []
