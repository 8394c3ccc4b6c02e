"""The archive that is sent with a sweep to a job elsewhere, and how the job reads it.

ftlab/, assets/     this code: there is no release to install
requirements.txt    what it needs
request.json        the sweep, as it was checked
data/               the user's data file, if the sweep has one
start.sh            installs what is needed, and executes `ftlab.commands.send_job`
"""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import parse_json
from ftlab.jobs.launchers.cluster import copy_code
from ftlab.jobs.launchers.hugging_face import START
from ftlab.models.reference import parse_model
from ftlab.operations.requirements import own_requirements
from ftlab.records.spec import SweepRequest

_REQUEST = "request.json"
_DATA = "data"
_SWEEP = TypeAdapter(SweepRequest)
_SCRIPT = """set -e
export UV_TORCH_BACKEND=auto  # the build of torch that fits the driver
export HF_HUB_DISABLE_PROGRESS_BARS=1 PYTHONUNBUFFERED=1
echo "Installing what ftlab needs; this takes some minutes."
uv pip install --system --quiet -r requirements.txt
exec python -m ftlab.commands.send_job "$@"
"""


def check_sendable(request: SweepRequest) -> None:
    """Raises `FtlabError` for a model that only this machine has."""
    model = parse_model(request.model)
    if model.kind == "folder":
        raise FtlabError(
            f"'{model.name}' is a folder of this machine, and models are not sent; upload it to "
            "the Hub and name it by its id there, as in OWNER/NAME."
        )


def data_file(request: SweepRequest) -> Path | None:
    """The user's own file that is sent with the sweep."""
    return Path(request.task.id) if request.task.kind == "file" else None


def write_sent(request: SweepRequest, target: Path) -> None:
    """Writes the archive, a tar.gz. Raises `FtlabError` if that is impossible."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix="ftlab-") as place,
            tarfile.open(target, "w:gz") as archive,
        ):
            _lay_out(request, Path(place))
            archive.add(place, ".", filter=_without_owner)
    except OSError as error:
        raise FtlabError(
            f"The sweep cannot be packed for sending ({error.strerror}): {error.filename}."
        ) from None


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    return entry.replace(uid=0, gid=0, uname="", gname="", deep=False)


def _lay_out(request: SweepRequest, folder: Path) -> None:
    settings = replace(request.settings, report_to=())
    task, file = request.task, data_file(request)
    copy_code(folder)
    if file is not None:
        task = replace(task, id=f"{_DATA}/{file.name}")
        (folder / _DATA).mkdir()
        shutil.copyfile(file, folder / task.id)
    sent = replace(request, settings=settings, task=task)
    lines = [f"{one}\n" for one in own_requirements()]
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    (folder / _REQUEST).write_bytes(_SWEEP.dump_json(sent))
    (folder / START).write_text(_SCRIPT, encoding="utf-8")


def read_sent(folder: Path) -> SweepRequest:
    """The sweep that was sent; raises `FtlabError` if it cannot be read."""
    try:
        request = parse_json(_SWEEP, (folder / _REQUEST).read_bytes(), _REQUEST)
    except OSError as error:
        raise FtlabError(f"{_REQUEST} cannot be read ({error.strerror}).") from None
    if request.task.kind != "file":
        return request
    return replace(request, task=replace(request.task, id=str(folder / request.task.id)))
