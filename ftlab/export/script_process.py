"""The reproduction script made in a process of its own, for the page, which never imports torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ftlab.errors import FtlabError
from ftlab.runs.spawn import needs_hub, python_environment
from ftlab.runs.store import Run

_MOST_SECONDS = 600.0


def zip_script(run: Run, runs_folder: Path, target: Path) -> None:
    """Writes the run's script with its examples as one zip; takes some seconds.

    Raises `FtlabError` with the sentence of the command where there is no script.
    """
    with tempfile.TemporaryDirectory(prefix="ftlab-") as place:
        folder = Path(place)
        command = [
            sys.executable, "-m", "ftlab", "script", run.run_id,
            "--runs-dir", str(runs_folder.resolve()), "-o", str(folder),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_MOST_SECONDS,
                env=python_environment(needs_hub(run.spec)) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FtlabError(f"The script could not be made ({type(error).__name__}).") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no reason was given."]
            raise FtlabError(f"No script: {lines[-1].removeprefix('ftlab: ')[:400]}")
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"{target.stem}/{path.name}")
