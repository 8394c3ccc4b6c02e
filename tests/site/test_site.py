"""The site is built without a warning of mkdocs, and no link of it leads nowhere."""

from __future__ import annotations

import subprocess

import pytest

from tests.processes import ROOT

MKDOCS = ROOT / "build" / "docs" / "bin" / "mkdocs"


@pytest.mark.slow
@pytest.mark.skipif(not MKDOCS.exists(), reason="no mkdocs in build/docs: `make docs` installs it")
def test_the_site_is_built_and_all_its_links_lead_somewhere() -> None:
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
