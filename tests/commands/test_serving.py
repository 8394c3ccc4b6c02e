"""The `serving` command; the measurement itself is a fake's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.__main__ import main
from ftlab.commands import serving as command
from ftlab.playground.serving import Progress, ServingRequest, Tell
from ftlab.records.serving import ServingRecord, serving_records
from tests.records.test_serving import RECORD


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ServingRequest]:
    requests: list[ServingRequest] = []

    def measure(request: ServingRequest, runs_folder: Path, tell: Tell) -> ServingRecord:
        requests.append(request)
        tell(Progress("the base is loaded", 120.0))
        return RECORD

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "ensure_bundled", lambda say: None)
    return requests


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["serving", *arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_time_is_said_first_and_the_numbers_are_printed_and_kept(
    asked: list[ServingRequest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(
        capsys, "shipped:sql", "--counts", "1,8", "--new-tokens", "7", "--precision", "fp32",
        "--no-full-models", "--runs-dir", str(tmp_path),
    )  # fmt: skip
    assert status == 0
    assert asked == [ServingRequest("shipped:sql", (1, 8), "fp32", 7, full_models=False)]
    assert "about 2 min 00 s left" in err
    assert out.startswith("64 LoRA adapters on one base took 420 MB")
    assert "64 adapters" in out
    assert RECORD in serving_records(tmp_path)


def test_json_is_all_that_is_printed(
    asked: list[ServingRequest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "shipped:sql", "--json", "--runs-dir", str(tmp_path))
    assert (status, err) == (0, "")
    assert json.loads(out)["adapters"][1]["count"] == 64


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("shipped:sql", "--counts", "1,x"), "--counts is '1,x'; give whole numbers by commas"),
        (("shipped:sql", "--counts", "9,3"), "The counts are 9,3"),
        (("base",), "'Base' has no adapter"),
        (("nobody",), "There is no run 'nobody'"),
    ],
)
def test_wrong_input_is_named(
    asked: list[ServingRequest], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...], words: str,
) -> None:  # fmt: skip
    status, _, err = run(capsys, *arguments, "--runs-dir", str(tmp_path))
    assert status != 0
    assert words in err
    assert asked == []
