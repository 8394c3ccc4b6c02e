"""Installs ftlab's wheel into a new environment and uses it there, away from the checkout.

Run as: python -m tests.install.wheel (or `make wheel-test`)

pip makes and fills the environment, as in the Makefile: what pip is configured to take torch from
holds here too. The bundled model is taken from the cache folder, where `ftlab model` put it.
"""

from __future__ import annotations

import email
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from ftlab import __version__
from ftlab.basics.files import assets_folder
from ftlab.operations.requirements import read_requirements, requirements_file
from tests.processes import ROOT, free_port

START_SECONDS = 60
SWEEP = (
    "sweep", "--task", "sql", "--methods", "lora", "--steps", "2", "--batch-size", "1",
    "--eval-examples", "1", "--json",
)  # fmt: skip


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ftlab-wheel-") as temporary:
        folder = Path(temporary)
        wheel = build(folder / "dist")
        check_content(wheel)
        said("built and looked through", began)
        environment = folder / "environment"
        install(wheel, environment)
        said("installed", began)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        ftlab = environment / "bin" / "ftlab"
        check_libraries(ftlab, elsewhere)
        said("libraries are within their bounds", began)
        check_app(ftlab, elsewhere)
        said("the app answers", began)
        check_sweep(ftlab, elsewhere)
        said("two steps of LoRA are done", began)


def build(folder: Path) -> Path:
    """The wheel of this checkout, made in that folder."""
    deleted = ROOT / "build" / "lib" / "ftlab" / "deleted.py"  # left there by an earlier build
    deleted.parent.mkdir(parents=True, exist_ok=True)
    deleted.touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("ftlab-*.whl")
    return wheel


def check_content(wheel: Path) -> None:
    """It holds the code, all assets and the licence, and needs what requirements.txt names."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"ftlab-{__version__}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{about}/METADATA"))
    assets = [path for path in assets_folder().rglob("*") if path.is_file()]
    code = [path for path in (ROOT / "ftlab").rglob("*") if path.is_file()]
    wanted = {f"ftlab/{path.relative_to(ROOT)}" for path in assets}
    wanted |= {str(path.relative_to(ROOT)) for path in code if path.suffix != ".pyc"}
    inside = {name for name in names if not name.startswith(about)}
    assert inside == wanted, sorted(inside ^ wanted)
    assert f"{about}/licenses/LICENSE" in names
    needed = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    always = {one for one in needed if one.marker is None or "extra" not in str(one.marker)}
    assert always == set(read_requirements(requirements_file()))
    assert metadata.get_all("Provides-Extra") == ["ray", "slurm", "track"]


def install(wheel: Path, environment: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--disable-pip-version-check", str(wheel)], check=True)


def check_libraries(ftlab: Path, elsewhere: Path) -> None:
    found = {row["check"]: row for row in run(ftlab, "doctor", "--json", folder=elsewhere)}
    assert found["libraries"]["mark"] == "ok", found["libraries"]
    assert found["torch"]["mark"] != "fail", found["torch"]


def check_app(ftlab: Path, elsewhere: Path) -> None:
    """The app answers, and its page has the styles that lie in the assets."""
    port = free_port()
    app = subprocess.Popen(
        [ftlab, "app", "--port", str(port)], cwd=elsewhere, env=own_environment(), text=True
    )
    try:
        health = json.loads(page(f"http://127.0.0.1:{port}/healthz"))
        assert (health["status"], health["version"]) == ("ok", __version__), health
        assert "#launch {" in page(f"http://127.0.0.1:{port}/")  # a rule of assets/style.css
    finally:
        app.terminate()
        app.wait(30)


def page(address: str) -> str:
    """What the address answers, as soon as it does."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def check_sweep(ftlab: Path, elsewhere: Path) -> None:
    """The base run and a run of LoRA end well; both lie below the folder that we are in."""
    rows = run(ftlab, *SWEEP, folder=elsewhere)
    found = [(row["method"], row["status"], row["steps"], row["reason"]) for row in rows]
    assert found == [("lora", "done", 2, "")], found
    assert len(list((elsewhere / "runs").glob("*/result.json"))) == 2


def run(ftlab: Path, *arguments: str, folder: Path) -> list[dict[str, Any]]:
    """The JSON that the installed command prints."""
    done = subprocess.run(
        [ftlab, *arguments],
        cwd=folder, env=own_environment(), stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def own_environment() -> dict[str, str]:
    """Without what would lead Python to the checkout, or ftlab to another runs folder."""
    left_out = {"PYTHONPATH", "FTLAB_RUNS", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"FTLAB_READY_SECONDS": "5"}  # no process stays when the environment is gone


def said(what: str, began: float) -> None:
    print(f"{time.monotonic() - began:4.0f} s: {what}", flush=True)


if __name__ == "__main__":
    main()
