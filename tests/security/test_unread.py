"""What is said to be refused unread is refused unread: the kernel's count of bytes read says so.

Each file is many times larger than what may be read of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.system import PROC
from ftlab.models.files import read_header
from ftlab.models.resolve import resolve_model
from ftlab.playground.grid_table import prompts_of_file
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE
from ftlab.playground.uploaded import upload_adapter
from ftlab.records.published import import_files, read_published
from ftlab.records.resume import trusted_checkpoint
from ftlab.records.run import RunDirectory, read_annotations
from ftlab.tasks import files
from ftlab.tasks.files import read_rows
from tests.fakes import make_run
from tests.playground.adapters import adapter_folder, adapter_zip, config_bytes, weights

MEGABYTE = 2**20
NOTHING = 1_024  # /proc itself is read to count
A_FEW = 16 * 1_024  # the end of a zip, the first buffer of a stream, a config
FOOTER = 128 * 1_024  # of a Parquet file, of which Arrow reads 64 kB at once


def sparse(path: Path, size: int = 5 * 2**30) -> Path:
    """A file of that many zeros which takes no room on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, size)
    return path


def pickled(path: Path) -> Path:
    """A megabyte that a reader of pickles would take to its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x80\x04" + b"N0" * (MEGABYTE // 2) + b"N.")
    return path


def linked(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(sparse(path.parent / "aside" / "led-to", MEGABYTE))
    return path


def pickle_adapter(folder: Path) -> Path:
    (folder / "a").mkdir()
    (folder / "a" / CONFIG_FILE).write_bytes(config_bytes())
    pickled(folder / "a" / "adapter_model.bin")
    return folder / "a"


def pickle_zip(folder: Path) -> Path:
    entries = {CONFIG_FILE: config_bytes(), "adapter_model.bin": os.urandom(MEGABYTE)}
    return adapter_zip(folder / "a.zip", entries)


def large_adapter(name: str) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        sparse(adapter_folder(folder / "a") / name)
        return folder / "a"

    return made


def linked_adapter(folder: Path) -> Path:
    adapter_folder(folder / "a")
    (folder / "a" / WEIGHTS_FILE).unlink()
    linked(folder / "a" / WEIGHTS_FILE)
    return folder / "a"


def bomb(name: str) -> Callable[[Path], Path]:
    """A zip that is larger than what may be read of it, and unpacks to far more."""

    def made(folder: Path) -> Path:
        entries = {CONFIG_FILE: config_bytes(), WEIGHTS_FILE: weights()}
        entries[name] += bytes(64 * MEGABYTE)
        return adapter_zip(folder / "a.zip", entries | {"README.md": os.urandom(MEGABYTE)})

    return made


def pickle_model(folder: Path) -> Path:
    (folder / "config.json").write_text("{}", encoding="utf-8")
    pickled(folder / "pytorch_model.bin")
    return folder


def large_model_config(folder: Path) -> Path:
    sparse(folder / "config.json")
    (folder / "model.safetensors").write_bytes(weights())
    return folder


def lying_header(folder: Path) -> Path:
    path = sparse(folder / "a.safetensors", 200 * MEGABYTE)
    with path.open("r+b") as file:
        file.write((100 * MEGABYTE).to_bytes(8, "little"))
    return path


def header_of(path: Path) -> None:
    with path.open("rb") as stream:
        read_header(stream, path.name)


def many_rows(folder: Path) -> Path:
    """Ten million rows; a column of random numbers makes the file large as well."""
    rows, group = 10_000_000, 1_000_000
    schema = pyarrow.schema({"prompt": pyarrow.string(), "noise": pyarrow.int64()})
    with pyarrow.parquet.ParquetWriter(folder / "a.parquet", schema) as writer:
        noise = pyarrow.array(memoryview(os.urandom(8 * 1_000)).cast("q").tolist())
        table = pyarrow.table({"prompt": ["x"] * 1_000, "noise": noise})
        whole = pyarrow.concat_tables([table] * (group // 1_000))
        for _ in range(rows // group):
            writer.write_table(whole, row_group_size=group)
    return folder / "a.parquet"


def unpacking(folder: Path) -> Path:
    """A file whose own footer says that it unpacks to more than is taken."""
    table = pyarrow.table({"prompt": [os.urandom(50_000).hex()] * 1_000})
    pyarrow.parquet.write_table(
        table, folder / "a.parquet", use_dictionary=False, compression="zstd"
    )
    return folder / "a.parquet"


def run_with(folder: Path, name: str, make: Callable[[Path], Path] = sparse) -> RunDirectory:
    directory = make_run(folder)
    (directory.path / name).unlink(missing_ok=True)
    make(directory.path / name)
    return directory


def unknown_checkpoint(folder: Path) -> RunDirectory:
    """A pickle beside a checkpoint's files, which the run did not note."""
    directory = make_run(folder, status="interrupted")
    pickled(directory.checkpoints / "checkpoint-1" / "optimizer.pt")
    return directory


def imported(path: Path) -> None:
    """Raises for what was refused, so that all are asked alike."""
    ((_, sentence),) = import_files([path], path.parent / "runs").refused
    raise FtlabError(sentence)


def published(folder: Path) -> None:
    ((_, sentence),) = read_published(folder)[1]
    raise FtlabError(sentence)


@dataclass(frozen=True)
class Case:
    """`make` puts it into a folder, `read` must refuse what `make` gave, `most` bytes are read."""

    make: Callable[[Path], object]
    read: Callable[..., object]
    most: int
    sentence: str


def bring(source: Path) -> None:
    upload_adapter(source, source.parent / "runs")


CASES = {
    **{
        f"a data set named {name}": Case(
            lambda folder, name=name: pickled(folder / name),  # type: ignore[misc]
            read_rows, NOTHING, "is no kind of task file",
        )
        for name in ("a.pkl", "a.bin", "a.pt", "a.npy", "a.csv.gz", "a.parquet.zip")
    },
    **{
        f"a data set that is too large, {name}": Case(
            lambda folder, name=name: sparse(folder / name),  # type: ignore[misc]
            read_rows, NOTHING, "more than 100 MB",
        )
        for name in ("a.csv", "a.json", "a.jsonl", "a.parquet")
    },
    "prompts that are too large": Case(
        lambda folder: sparse(folder / "a.txt"), prompts_of_file, NOTHING, "more than 100 MB"
    ),
    "a Parquet file of too many rows": Case(many_rows, read_rows, FOOTER, "200,000 rows"),
    "a Parquet file that says how it unpacks": Case(unpacking, read_rows, FOOTER, "unpacks to"),
    **{
        f"an adapter that is a pickle, {name}": Case(
            lambda folder, name=name: pickled(folder / name),  # type: ignore[misc]
            bring, NOTHING, "never read",
        )
        for name in ("adapter_model.bin", "a.pt", "a.pkl", "a.ckpt")
    },
    "an adapter's folder with a pickle": Case(pickle_adapter, bring, NOTHING, "never read"),
    "an adapter's zip with a pickle": Case(pickle_zip, bring, A_FEW, "never read"),
    **{
        f"an adapter whose {name} is too large": Case(
            large_adapter(name), bring, NOTHING, "at most"
        )
        for name in (CONFIG_FILE, WEIGHTS_FILE)
    },
    "an adapter whose weights are a link": Case(linked_adapter, bring, A_FEW, "is a link"),
    f"a zip with a bomb of {CONFIG_FILE}": Case(bomb(CONFIG_FILE), bring, A_FEW, "at most"),
    f"a zip with a bomb of {WEIGHTS_FILE}": Case(bomb(WEIGHTS_FILE), bring, A_FEW, "unpacks to"),
    "a model whose weights are a pickle": Case(
        pickle_model, lambda folder: resolve_model(str(folder)), NOTHING, "no .safetensors file"
    ),
    "a model whose config is too large": Case(
        large_model_config, lambda folder: resolve_model(str(folder)), NOTHING, "more than 32 MB"
    ),
    "a safetensors header that claims 100 MB": Case(
        lying_header, header_of, A_FEW, "does not begin with a header"
    ),
    **{
        f"a published result that is too large, {name}": Case(
            lambda folder, name=name: sparse(folder / name),  # type: ignore[misc]
            imported, NOTHING, "more than 5 MB",
        )
        for name in ("a.json", "a.csv")
    },
    "a kept published result that is too large": Case(
        lambda folder: sparse(folder / "published" / "a.json").parents[1],
        published, NOTHING, "more than 5 MB",
    ),
    **{
        f"a record that is {what}, {name}": Case(
            lambda folder, name=name, make=make: run_with(folder, name, make),  # type: ignore[misc]
            read, NOTHING, sentence,
        )
        for what, make, sentence in (
            ("too large", sparse, "more than 16 MB"), ("a link", linked, "is a link")
        )
        for name, read in (
            ("spec.json", RunDirectory.spec),
            ("result.json", RunDirectory.result),
            ("annotations.json", read_annotations),
        )
    },
    "a checkpoint that the run did not note": Case(
        unknown_checkpoint, trusted_checkpoint, A_FEW, "no checkpoint to go on from"
    ),
}  # fmt: skip


def bytes_read() -> int:
    """By this process since it began, as the kernel counts them in every `read`."""
    fields = dict(line.split(": ") for line in (PROC / "self" / "io").read_text().splitlines())
    return int(fields["rchar"])


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a sensible size are then above it."""
    monkeypatch.setattr(files, "MAX_PARQUET_BYTES", 64 * MEGABYTE)


@pytest.mark.hostile("files refused unread")
@pytest.mark.usefixtures("limit")
@pytest.mark.skipif(not (PROC / "self" / "io").exists(), reason="needs Linux's count of bytes")
@pytest.mark.parametrize("name", CASES)
def test_what_is_refused_is_refused_unread(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    for place in ("first", "second"):  # the first time modules are read as well
        (tmp_path / place).mkdir()
        given = case.make(tmp_path / place)
        before = bytes_read()
        with pytest.raises(FtlabError, match=re.escape(case.sentence)):
            case.read(given)
    assert bytes_read() - before <= case.most + NOTHING


def test_the_count_sees_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"prompt": "a" * 90_000, "completion": "b"}] * 3))
    before = bytes_read()
    read_rows(path)
    assert bytes_read() - before > 270_000
