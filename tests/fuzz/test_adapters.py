"""Adapters from elsewhere: kept whole, or refused in a sentence with nothing left behind."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from ftlab.models.files import read_header
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE
from ftlab.playground.uploaded import upload_adapter
from tests.fuzz.conftest import Fuzz
from tests.fuzz.strategies import as_json, damaged, torn, values
from tests.playground.adapters import adapter_folder, adapter_zip, weights, with_header


@pytest.mark.hostile("fuzzed adapter zips")
def test_a_torn_zip_is_an_adapter_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    whole = adapter_zip(tmp_path / "whole.zip").read_bytes()
    source = tmp_path / "a.zip"

    def bring(data: bytes) -> None:
        source.write_bytes(data)
        kept = upload_adapter(source, tmp_path / "runs").folder
        assert kept is not None
        assert kept.resolve().is_relative_to(tmp_path / "runs")
        assert (kept / WEIGHTS_FILE).stat().st_size == len(weights())

    fuzz(torn(whole), bring, 30)
    fuzz(st.binary(max_size=200), bring, 10)


@pytest.mark.hostile("fuzzed adapter zips")
def test_a_zip_with_any_names_writes_only_into_its_own_folder(tmp_path: Path, fuzz: Fuzz) -> None:
    names = st.text(st.sampled_from("ab./\\:~\u202e\n"), min_size=1, max_size=24)
    runs = tmp_path / "inner" / "runs"
    runs.parent.mkdir()

    def bring(extra: list[str]) -> None:
        entries = dict.fromkeys(extra, b"x")
        source = adapter_zip(tmp_path / "inner" / "a.zip", {**entries, **_good()})
        upload_adapter(source, runs)

    fuzz(st.lists(names, min_size=1, max_size=3, unique=True), bring, 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner"]
    assert sorted(path.name for path in runs.parent.iterdir()) == ["a.zip", "runs"]


@pytest.mark.hostile("fuzzed safetensors headers")
def test_a_torn_safetensors_file_is_a_header_or_a_sentence(fuzz: Fuzz) -> None:
    def read(data: bytes) -> None:
        header = read_header(io.BytesIO(data), "a.safetensors")
        assert header.data_bytes >= 0
        assert len(header.raw) <= len(data)

    whole = weights()
    length = int.from_bytes(whole[:8], "little")
    document = json.loads(whole[8 : 8 + length])
    fuzz(damaged(document).map(as_json).map(with_header), read, 40)
    fuzz(torn(whole) | st.binary(max_size=80), read, 30)
    fuzz(values().map(as_json).map(with_header), read, 20)


@pytest.mark.hostile("fuzzed safetensors headers")
def test_an_adapter_with_a_damaged_header_is_kept_whole_or_refused(
    tmp_path: Path, fuzz: Fuzz
) -> None:
    whole = weights()
    length = int.from_bytes(whole[:8], "little")
    document = json.loads(whole[8 : 8 + length])

    def bring(header: bytes) -> None:
        data = with_header(header, whole[8 + length :])
        source = adapter_folder(tmp_path / "a", tensors=data)
        kept = upload_adapter(source, tmp_path / "runs").folder
        assert kept is not None
        assert (kept / WEIGHTS_FILE).read_bytes() == data

    fuzz(damaged(document).map(as_json), bring, 30)


def _good() -> dict[str, bytes]:
    from tests.playground.adapters import config_bytes

    return {CONFIG_FILE: config_bytes(), WEIGHTS_FILE: weights()}
