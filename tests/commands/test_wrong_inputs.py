"""Wrong input on the command line is a sentence and status 2, and queues nothing."""

from __future__ import annotations

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
        ("sweep --model TINY --eval-examples 0", "Held-out examples is 0"),
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
    ],
)
def test_wrong_input_is_said_in_a_sentence_and_queues_nothing(
    command: str,
    part: str,
    folder: Path,
    tiny_model: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = [str(tiny_model) if word == "TINY" else word for word in command.split()]
    without_runs = ("predict", "methods", "model", "nonsense")
    runs = [] if words[0] in without_runs else ["--runs-dir", str(folder / "runs")]
    try:
        status = main([*words, *runs])
    except SystemExit as end:  # argparse
        status = int(end.code or 0)
    out, err = capfd.readouterr()
    assert status == 2
    assert part in err
    assert "Traceback" not in out + err
    assert run_directories(folder / "runs") == []
