"""Builds ftlab's release, installs its wheel into a new environment and uses it there, away from
the checkout, beside the runs of an older and of a newer version.

Run as: python -m tests.install.wheel

pip makes and fills the environment, as in the Makefile: what pip is configured to take torch from
holds here too. The bundled model is taken from the cache folder, where `ftlab model` put it.
"""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock
from packaging.requirements import Requirement

from ftlab import __version__
from ftlab.basics.files import assets_folder
from ftlab.operations.requirements import read_requirements, requirements_file
from tests.processes import ROOT, free_port

START_SECONDS = 60
BUILDING = FileLock(ROOT / "build" / "wheel.lock")
"""Each build writes ftlab.egg-info into the checkout: two at once would read half of it."""

SWEEP = (
    "sweep", "--task", "sql", "--methods", "lora", "--steps", "2", "--batch-size", "1",
    "--eval-examples", "1", "--json",
)  # fmt: skip

OLDER = "20261125-221850-9f1d"
"""A recorded sweep: its records have none of the fields that were added since."""
NEWER = {
    "20271125-221850-9f1d-01-field": ('"device"', '"planner": "x", "device"'),
    "20271125-221850-9f1d-02-method": ('"lora"', '"hyper_lora"'),
}
"""Runs of a later version: what it writes into spec.json in place of what is known."""


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ftlab-wheel-") as temporary:
        folder = Path(temporary)
        wheel = release(folder / "dist")
        check_content(wheel)
        said("built and looked through", began)
        environment = folder / "environment"
        install(wheel, environment)
        said("installed", began)
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        ftlab = environment / "bin" / "ftlab"
        others = runs_of_other_versions(elsewhere / "runs")
        check_libraries(ftlab, elsewhere)
        said("libraries are within their bounds", began)
        check_app(ftlab, elsewhere)
        said("the app answers", began)
        check_sweep(ftlab, elsewhere)
        said("two steps of LoRA are done", began)
        check_runs(ftlab, elsewhere, others)
        said("runs of an older and a newer version are listed, named and unchanged", began)


def build(folder: Path) -> Path:
    """The wheel of this checkout, made in that folder."""
    deleted = ROOT / "build" / "lib" / "ftlab" / "deleted.py"  # left there by an earlier build
    deleted.parent.mkdir(parents=True, exist_ok=True)
    deleted.touch()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    with BUILDING:
        subprocess.run([*pip, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("ftlab-*.whl")
    return wheel


def release(folder: Path) -> Path:
    """The wheel that `make dist` builds, from the source archive beside it."""
    build = ROOT / "build" / "dist" / "bin" / "pyproject-build"
    with BUILDING:
        subprocess.run([build, "--outdir", folder, ROOT], check=True, stdout=subprocess.DEVNULL)
    wheel, archive = folder.glob("*.whl"), folder.glob("*.tar.gz")
    assert [path.name for path in archive] == [f"ftlab-{__version__}.tar.gz"]
    (built,) = wheel
    assert built.name == f"ftlab-{__version__}-py3-none-any.whl"
    return built


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
    assert metadata.get_all("Provides-Extra") == ["ray", "slurm", "mcp", "serve", "track"]


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
    (sweep,) = {row["sweep_id"] for row in rows}
    assert len(list((elsewhere / "runs").glob(f"{sweep}*/result.json"))) == 2


def runs_of_other_versions(runs: Path) -> dict[Path, bytes]:
    """Three runs of the first version, and two that a later one may write; every file of them."""
    recorded = assets_folder() / "recorded" / OLDER
    for run in ("00-base", "02-full", "03-lora"):
        shutil.copytree(recorded / f"{OLDER}-{run}", runs / f"{OLDER}-{run}")
    lora = runs / f"{OLDER}-03-lora"
    for run, (known, unknown) in NEWER.items():
        shutil.copytree(lora, runs / run)
        spec = (lora / "spec.json").read_text().replace(lora.name, run).replace(known, unknown, 1)
        (runs / run / "spec.json").write_text(spec)
    return {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}


def check_runs(ftlab: Path, elsewhere: Path, others: dict[Path, bytes]) -> None:
    """Older runs are rows beside the new one, newer ones are named, and no file of them changed."""
    done = subprocess.run(
        [ftlab, "runs", "--format", "json"],
        cwd=elsewhere, env=own_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    older = {row["run_id"] for row in json.loads(done.stdout) if row["sweep_id"] == OLDER}
    assert older == {f"{OLDER}-02-full", f"{OLDER}-03-lora"}
    assert len(json.loads(done.stdout)) == 3
    told = done.stderr.splitlines()
    assert len(told) == len(NEWER), told
    for line, (run, (_, unknown)) in zip(told, NEWER.items(), strict=True):
        name = unknown.split('"')[1]
        assert run in line
        assert f"'{name}', which ftlab {__version__} does not know" in line, line
    assert {path: path.read_bytes() for path in others} == others


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
