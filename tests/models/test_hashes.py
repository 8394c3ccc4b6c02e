"""The hash of a model's weights is computed once, and never believed of another file."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.models import files
from ftlab.models.files import file_sha256, hashes_folder
from ftlab.models.resolve import resolve_model

COUNTING = """
import sys
from ftlab.models import files
from ftlab.models.resolve import resolve_model
files._SETTLED_SECONDS = -1
opened = []
sys.addaudithook(
    lambda event, given: opened.append(given[0])
    if event == "open" and str(given[0]).endswith(".safetensors") else None
)
for _ in range(2):
    opened.clear()
    print(resolve_model(sys.argv[1]).fingerprint(), len(opened))
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, where files that are a moment old are remembered too."""
    monkeypatch.setenv("FTLAB_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_SETTLED_SECONDS", -1.0)
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file to hash."""
    path = tmp_path / "a.safetensors"
    path.write_text("one")
    return path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read to be hashed, in turn."""
    names: list[str] = []
    real = hashlib.file_digest

    def spy(file: object, *given: object) -> object:
        names.append(Path(file.name).name)  # type: ignore[attr-defined]
        return real(file, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", spy)
    return names


def weights(folder: Path, **contents: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    for name, content in contents.items():
        (folder / f"{name}.safetensors").write_text(content)
    return folder


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def plain_fingerprint(folder: Path) -> str:
    """As it has always been: the digests of the files, in the order of their names."""
    files = sorted(folder.glob("*.safetensors"))
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)
    return hashlib.sha256(digests).hexdigest()


def fingerprint(folder: Path) -> str:
    return resolve_model(str(folder)).fingerprint()


def test_a_second_look_opens_no_file_of_the_weights(tmp_path: Path) -> None:
    folder = weights(tmp_path / "model", a="one", b="two")
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, str(folder)], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines == [[plain_fingerprint(folder), "2"], [plain_fingerprint(folder), "0"]]


def test_of_several_files_only_the_changed_one_is_read_again(
    tmp_path: Path, read: list[str]
) -> None:
    folder = weights(tmp_path / "model", a="one", b="two")
    fingerprint(folder)
    assert read == ["a.safetensors", "b.safetensors"]
    weights(folder, b="TWO")
    assert fingerprint(folder) == plain_fingerprint(folder)
    assert read[2:] == ["b.safetensors"]


def test_a_file_that_was_changed_and_given_its_old_time_is_read_again(path: Path) -> None:
    file_sha256(path)
    before = path.stat()
    with path.open("r+") as file:  # the same inode, the same size
        file.write("ONE")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    for same in ("st_mtime_ns", "st_size", "st_ino"):
        assert getattr(after, same) == getattr(before, same)
    assert file_sha256(path) == sha256("ONE")


def test_a_file_written_a_moment_ago_is_not_remembered(
    path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second write within one tick of the file system's clock would leave its times the same."""
    monkeypatch.setattr(files, "_SETTLED_SECONDS", 2.0)
    file_sha256(path)
    file_sha256(path)
    assert len(read) == 2
    assert not hashes_folder().exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashlib.file_digest

    def slow(*given: object) -> object:
        found = real(*given)  # type: ignore[arg-type]
        path.write_text("three")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", slow)
        file_sha256(path)
    assert file_sha256(path) == sha256("three")


def test_two_names_of_one_file_are_one_file(path: Path, read: list[str]) -> None:
    """A snapshot of the Hub is a folder of links."""
    link = path.with_name("link.safetensors")
    link.symlink_to(path)
    assert file_sha256(path) == file_sha256(link)
    assert len(read) == 1


def _other(path: str, found: object) -> Callable[[Path], None]:
    def change(entry: Path) -> None:
        content = json.loads(entry.read_text())
        entry.write_text(json.dumps({**content, path: found}))

    return change


def _pipe(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry)


def _link(entry: Path) -> None:
    entry.rename(entry.with_suffix(".moved"))
    entry.symlink_to(entry.with_suffix(".moved"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn": lambda entry: entry.write_bytes(entry.read_bytes()[:-20]),
    "empty": lambda entry: entry.write_bytes(b""),
    "no text": lambda entry: entry.write_bytes(b"\xff\xfe\x00"),
    "deep": lambda entry: entry.write_text("[" * 19_000),
    "large": lambda entry: entry.write_text(entry.read_text() + " " * 30_000),
    "a list": lambda entry: entry.write_text("[1, 2]"),
    "another file's": _other("path", "/somewhere/else.safetensors"),
    "of another state": _other("state", [3, 1, 1, 1]),
    "a state of words": _other("state", "3"),
    "no hash": _other("sha256", "zz" * 32),
    "a short hash": _other("sha256", "ab"),
    "a number for a hash": _other("sha256", 7),
    "a pipe": _pipe,
    "a link": _link,
}


@pytest.mark.hostile("hashes in the cache folder")
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_ignored_and_replaced(path: Path, read: list[str], kind: str) -> None:
    file_sha256(path)
    (entry,) = hashes_folder().iterdir()
    DAMAGE[kind](entry)
    assert file_sha256(path) == sha256("one")
    assert len(read) == 2, "what was damaged was believed"
    file_sha256(path)
    assert len(read) == 2, "the entry was not put right"


def _no_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("a file where the folder should be")


def _full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(files, "write_atomically", full)


@pytest.mark.parametrize("fault", [_no_folder, _full_disk])
def test_a_cache_that_cannot_be_written_only_costs_the_time(
    fault: Callable[[Path, pytest.MonkeyPatch], None],
    path: Path,
    own_cache: Path,
    read: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(own_cache, monkeypatch)
    assert file_sha256(path) == file_sha256(path) == sha256("one")
    assert len(read) == 2


def test_the_oldest_entries_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    monkeypatch.setattr(files, "MOST_ENTRIES", 3)
    paths = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
        file_sha256(path)
        for entry in hashes_folder().iterdir():  # a clock that ticks too slowly for this test
            os.utime(entry, ns=(0, entry.stat().st_mtime_ns - 10**9))
    assert len(list(hashes_folder().iterdir())) == 3
    read.clear()
    for path in paths[2:]:
        file_sha256(path)
    assert read == []
    file_sha256(paths[0])
    assert read == ["0.safetensors"]


@pytest.mark.slow
def test_processes_that_hash_at_once_agree_and_leave_whole_entries(tmp_path: Path) -> None:
    names = [f"{number:02}" for number in range(12)]
    folder = weights(tmp_path / "model", **dict.fromkeys(names, "x" * 100_000))
    command = [sys.executable, "-c", COUNTING, str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=60)[0].split()[0] for process in processes}
    assert found == {plain_fingerprint(folder)}
    entries = list(hashes_folder().iterdir())
    assert len(entries) == len(names)
    assert all(len(json.loads(entry.read_text())["sha256"]) == 64 for entry in entries)


def test_a_file_that_is_gone_raises_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "a.safetensors")
