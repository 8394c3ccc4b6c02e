"""Where ftlab finds its own files: in a checkout of the repository, and installed from a wheel."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from ftlab.basics import files
from ftlab.basics.errors import FtlabError
from ftlab.maintain.__main__ import main
from ftlab.operations.doctor import check_versions
from ftlab.operations.requirements import own_requirements, read_requirements, requirements_file
from ftlab.records.recording import read_provenance
from tests.fakes import SWEEP, make_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's folder as a wheel installs it, with the assets inside."""
    package = tmp_path / "site-packages" / "ftlab"
    (package / "assets").mkdir(parents=True)
    for path in (ROOT / "assets").glob("*.json"):
        shutil.copyfile(path, package / "assets" / path.name)
    monkeypatch.setattr(files, "_PACKAGE", package)
    return package


def test_the_assets_of_a_checkout_lie_beside_the_package() -> None:
    assert files.is_checkout()
    assert files.checkout_folder() == ROOT
    assert files.assets_folder() == ROOT / "assets"


def test_the_assets_of_a_wheel_lie_inside_the_package(wheel: Path) -> None:
    assert not files.is_checkout()
    assert files.assets_folder() == wheel / "assets"
    assert files.recorded_folder() == wheel / "assets" / "recorded"


@pytest.mark.parametrize(
    ("named", "folder"), [(None, "runs"), ("mine", "mine"), ("~/a", "/home/a")]
)
def test_the_runs_folder_is_the_one_named_by_ftlab_runs(
    named: str | None, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home")
    monkeypatch.delenv("FTLAB_RUNS", raising=False)
    if named is not None:
        monkeypatch.setenv("FTLAB_RUNS", named)
    assert files.default_runs_folder() == tmp_path.resolve() / folder


@pytest.mark.parametrize("command", ["record", "specialists", "probe --write --methods lora"])
def test_what_writes_into_the_repository_needs_a_checkout(
    wheel: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(command.split()) == 2
    err = capsys.readouterr().err
    assert "installed from a wheel; run the command in a checkout" in err
    assert len(err.splitlines()) == 1


def test_a_wheel_records_where_it_is_told_and_claims_no_commit(wheel: Path, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    make_sweep(runs)
    assert main(["record", "--runs-dir", str(runs), "--output", str(out)]) == 0
    assert read_provenance(out / SWEEP).commit is None


def test_a_checkout_needs_what_requirements_txt_says() -> None:
    assert own_requirements() == read_requirements(requirements_file())


def test_a_wheel_needs_what_its_metadata_says(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", {"ftlab": ["torch>=2.10,<3"]}.get)
    needed = own_requirements()
    assert [str(one) for one in needed] == ["torch<3,>=2.10"]
    finding = check_versions(needed, {"torch": "2.9"}.__getitem__)
    assert finding.fix == "python -m pip install 'torch<3,>=2.10'"


def test_a_wheel_without_metadata_is_one_sentence(
    wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    with pytest.raises(FtlabError, match="install ftlab again"):
        own_requirements()
    with pytest.raises(FtlabError, match="installed from a wheel"):
        requirements_file()
