"""gradio's own file serving: it gives what the page made for a visitor, and nothing else."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from gradio.utils import get_upload_folder

from ftlab.basics.files import assets_folder
from ftlab.tabs.serve import Serving
from tests.fakes import make_run
from tests.security.servers import Running, running

SECRET = f"planted-{uuid.uuid4().hex}"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("place")
    make_run(place / "runs", "lora", run_id="20261125-120000-ab12-01-lora", log=SECRET)
    (place / "runs/.ftlab").mkdir()
    for name in ("runs/.ftlab/dispatcher.log", "runs/.env", "runs/secret.txt", "secret.txt"):
        (place / name).write_text(SECRET)
    with running(Serving(), place / "runs") as served:
        yield served


def files(app: Running) -> list[str]:
    """Files of the machine that are there, and that nobody should get."""
    runs = app.runs
    return [
        "/etc/passwd", "/etc/hostname", "/proc/self/environ", "/proc/self/cmdline",
        str(Path.home() / ".bashrc"), str(Path.home() / ".netrc"),
        str(runs / "secret.txt"), str(runs / ".env"), str(runs / ".ftlab/dispatcher.log"),
        str(runs / "20261125-120000-ab12-01-lora/log.txt"),
        str(runs / "20261125-120000-ab12-01-lora/spec.json"), str(runs.parent / "secret.txt"),
        str(ROOT / "README.md"), str(ROOT / "app.py"), str(ROOT / ".gitignore"),
        str(ROOT / "ftlab/jobs/inputs.py"), str(assets_folder() / "catalogue.json"),
    ]  # fmt: skip


def forms(path: str) -> list[str]:
    """One file's path in the ways in which a check can be got around."""
    upload, ways_up = get_upload_folder(), "../" * 20
    relative = path.lstrip("/")
    return [
        path, f"/{path}", f"//{path}", f"/.{path}", f"{path}/", f"{path}/.", f"{upload}/..{path}",
        ways_up + relative, f"{upload}/{ways_up}{relative}", f"{upload}/x/../{ways_up}{relative}",
        f"./{ways_up}{relative}", quote(path, safe=""), quote(quote(path, safe=""), safe=""),
        path.replace("/", "%2f"), path.replace("/", "%252f"), path.replace("/", "\\"),
        ways_up.replace("..", "%2e%2e") + relative, ways_up.replace("../", "....//") + relative,
        ways_up.replace("../", "..\\") + relative, ways_up.replace("/", "%2f") + relative,
        ways_up.replace("../", "..%c0%af") + relative, f"{path}%00", f"{path}%00.png",
        f"{upload}/%00{path}", f"file://{path}", f"C:{path}", f"\\\\?\\{path}", f"~{path}",
        path.upper(), f"{path}?x=.png", f"{path}%3fx", f"{path}%23", f"{path};.png",
        f"/dev/fd/../../..{path}", f"/proc/self/root{path}", f"/proc/self/cwd/{ways_up}{relative}",
    ]  # fmt: skip


ROUTE = "/gradio_api/file="
MORE = ("/gradio_api/file/", "/file=", "/static/", "/assets/", "/svelte/")
OTHERS = (
    "/gradio_api/custom_component/x/client/component/", "/config?deep_link=", "/config?page=",
    "/gradio_api/stream/x/y/", "/pwa_icon/", "/theme.css/",
)  # fmt: skip


@pytest.mark.hostile("paths to the file route")
def test_no_file_of_the_machine_is_served_however_it_is_named(
    app: Running, record_property: pytest.RecordProperty
) -> None:
    wanted = {path: Path(path).read_bytes() for path in files(app) if Path(path).is_file()}
    secret = str(app.runs / "secret.txt")
    tried = 0
    with socket.create_connection(("127.0.0.1", int(app.url.rpartition(":")[2]))) as line:
        answers = line.makefile("rb")
        for path, content in wanted.items():
            for route in (ROUTE, *(MORE if path in ("/etc/passwd", secret) else ())):
                for form in forms(path):
                    body = _get(line, answers, route + _sendable(form))
                    assert not content or content not in body, (route, form)
                    assert SECRET.encode() not in body, (route, form)
                    tried += 1
    record_property("hostile inputs", tried)


@pytest.mark.hostile("paths to the file route")
def test_no_other_route_serves_one_either(
    app: Running, record_property: pytest.RecordProperty
) -> None:
    tried = 0
    secret = str(app.runs / "secret.txt")
    with socket.create_connection(("127.0.0.1", int(app.url.rpartition(":")[2]))) as line:
        answers = line.makefile("rb")
        for route in OTHERS:
            for form in forms(secret)[::6]:
                assert SECRET.encode() not in _get(line, answers, route + _sendable(form))
                tried += 1
    record_property("hostile inputs", tried)


def test_what_the_page_made_for_a_visitor_is_served(app: Running) -> None:
    """So that the refusals above are not those of a route that serves nothing at all."""
    folder = Path(get_upload_folder()) / "ftlab"
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{SECRET}.csv"
    made.write_text("a,b\n")
    try:
        assert httpx.get(f"{app.url}/gradio_api/file={made}", timeout=30).text == "a,b\n"
    finally:
        made.unlink()


@pytest.mark.hostile("paths to the file route")
def test_a_link_out_of_the_upload_folder_is_not_followed(app: Running) -> None:
    link = Path(get_upload_folder()) / "ftlab" / f"link-{uuid.uuid4().hex}.txt"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(app.runs / "secret.txt")
    try:
        answer = httpx.get(f"{app.url}/gradio_api/file={link}", timeout=30)
    finally:
        link.unlink()
    assert SECRET not in answer.text


def _sendable(form: str) -> str:
    """As it goes over the line: nothing that a client would have put right is."""
    return form.replace(" ", "%20").encode("ascii", "replace").decode()


def _get(line: socket.socket, answers: object, target: str) -> bytes:
    """The body that is answered to that very target; httpx would resolve its `..` first."""
    line.sendall(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    length, chunked = 0, False
    read = answers.readline  # type: ignore[attr-defined]
    assert read().startswith(b"HTTP/1.1 "), f"the line was closed at {target}"
    while header := read().strip().lower():
        if header.startswith(b"content-length:"):
            length = int(header.partition(b":")[2])
        chunked |= header == b"transfer-encoding: chunked"
    if not chunked:
        return bytes(answers.read(length))  # type: ignore[attr-defined]
    parts = []
    while size := int(read().strip(), 16):
        parts.append(answers.read(size))  # type: ignore[attr-defined]
        read()
    read()
    return b"".join(parts)
