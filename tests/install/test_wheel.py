"""The wheel holds all that is needed, and works where there is no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.install import wheel
from tests.processes import ROOT

RELEASES = ROOT / "build" / "dist" / "bin" / "pyproject-build"


def test_the_wheel_holds_code_assets_and_licence_and_imports_without_the_checkout(
    tmp_path: Path,
) -> None:
    built = wheel.build(tmp_path / "wheel")
    wheel.check_content(built)
    installed = tmp_path / "installed"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(installed)
    program = (
        "import ftlab.tabs.app; from ftlab.basics.files import assets_folder;"
        "print(ftlab.__file__); print(assets_folder())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, assets = done.stdout.split()
    assert Path(code) == installed / "ftlab" / "__init__.py"
    assert Path(assets).is_relative_to(installed)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.skipif(
    not RELEASES.exists(), reason="the release is built by build/dist, which `make test-all` makes"
)
def test_the_release_is_installed_beside_no_checkout_serves_the_page_and_trains() -> None:
    wheel.main()
