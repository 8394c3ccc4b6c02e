"""Uploads that are broken or malicious: each is refused with a sentence."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground import adapter_files
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE
from ftlab.playground.uploaded import upload_adapter
from tests.playground.adapters import (
    SHAPES,
    adapter_folder,
    adapter_zip,
    config_bytes,
    refused,
    weights,
    with_header,
)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gone.zip", "no adapter at 'gone.zip' (No such file"),
        ("a\x00b", "invalid name"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_missing_file_is_named_without_its_folder(
    name: str, sentence: str, tmp_path: Path, runs_folder: Path
) -> None:
    assert sentence in refused(tmp_path / name, runs_folder)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a.safetensors", "neither a folder nor a .zip"),
        ("a.tar.gz", "neither a folder nor a .zip"),
        ("adapter_model.bin", "never read; save it again with safe_serialization=True"),
        ("a.PT", "Pickle files can run code"),
    ],
)
def test_another_kind_of_file_is_refused_with_the_right_kind(
    tmp_path: Path, runs_folder: Path, name: str, sentence: str
) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert sentence in refused(tmp_path / name, runs_folder)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ([], "holds no adapter_config.json, so it is no PEFT adapter"),
        (["README.md"], "holds no adapter_config.json"),
        (["my-adapter.zip"], "but 'my-adapter.zip'; upload that zip"),
        (["config.json", "model.safetensors"], "holds a full model, not an adapter"),
        (["config.json", "pytorch_model.bin"], "holds a full model"),
        ([CONFIG_FILE], "but no adapter_model.safetensors"),
        ([CONFIG_FILE, "adapter_model.bin"], "Pickle files can run code when they are opened"),
        ([CONFIG_FILE, "adapter_model.PKL"], "safe_serialization=True"),
        ([CONFIG_FILE, "model.pt"], "pickle"),
        (
            [CONFIG_FILE, "adapter_model-00001-of-00002.safetensors"],
            "weights in several files, which PEFT does not read; join them into",
        ),
        ([WEIGHTS_FILE], "holds no adapter_config.json"),
    ],
)
def test_a_folder_or_zip_without_the_two_files_is_refused_with_what_it_holds(
    tmp_path: Path, runs_folder: Path, names: list[str], sentence: str
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(config_bytes())
    assert sentence in refused(folder, runs_folder)
    archive = adapter_zip(tmp_path / "a.zip", dict.fromkeys(names, b"{}"))
    assert sentence in refused(archive, runs_folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_link_in_a_folder_is_never_followed(tmp_path: Path, runs_folder: Path, name: str) -> None:
    outside = tmp_path / "outside"
    folder = adapter_folder(tmp_path / "a")
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    assert "is a link, and links are not followed" in refused(folder, runs_folder)


def test_a_link_created_after_the_check_is_not_followed_either(
    tmp_path: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapter_folder(tmp_path / "a")
    (folder / CONFIG_FILE).rename(tmp_path / "outside")
    (folder / CONFIG_FILE).symlink_to(tmp_path / "outside")
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)
    assert "cannot be read" in refused(folder, runs_folder)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_instead_of_a_file_is_refused_without_waiting(
    make: Callable[[Path], None], tmp_path: Path, runs_folder: Path
) -> None:
    folder = adapter_folder(tmp_path / "a")
    (folder / WEIGHTS_FILE).unlink()
    make(folder / WEIGHTS_FILE)
    assert "is no file" in refused(folder, runs_folder)


# Zips


CONFIG, TENSORS = config_bytes(), weights()
ZIPS: dict[str, tuple[dict[str, bytes], str]] = {
    "several adapters": (
        {
            f"out/{below}{name}": data
            for below in ("", "checkpoint-10/")
            for name, data in ((CONFIG_FILE, CONFIG), (WEIGHTS_FILE, TENSORS))
        },
        "several adapters ('out/adapter_config.json', 'out/checkpoint-10/ada",
    ),
    "two folders deep": (
        {f"a/b/{CONFIG_FILE}": CONFIG, f"a/b/{WEIGHTS_FILE}": TENSORS}, "2 folders deep",
    ),
    "weights in another folder": (
        {f"a/{CONFIG_FILE}": CONFIG, f"b/{WEIGHTS_FILE}": TENSORS}, "but no adapter_model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("entries", "sentence"), ZIPS.values(), ids=ZIPS)
def test_a_zip_without_exactly_one_adapter_is_refused(
    entries: dict[str, bytes], sentence: str, tmp_path: Path, runs_folder: Path
) -> None:
    assert sentence in refused(adapter_zip(tmp_path / "a.zip", entries), runs_folder)


@pytest.mark.parametrize("below", ["a/", "a\\"])
def test_the_zips_of_macos_and_windows_are_accepted(
    below: str, tmp_path: Path, runs_folder: Path
) -> None:
    entries = {
        f"{below}{CONFIG_FILE}": CONFIG,
        f"{below}{WEIGHTS_FILE}": TENSORS,
        f"__MACOSX/a/{CONFIG_FILE}": b"\x00\x05\x16\x07",
        f"__MACOSX/a/._{WEIGHTS_FILE}": b"\x00\x05\x16\x07",
    }
    assert upload_adapter(adapter_zip(tmp_path / "a.zip", entries), runs_folder).method == "lora"


@pytest.mark.parametrize("below", ["../", "/", "a/../../", "\\", "..\\", "C:/", "C:\\", "//host/"])
def test_a_zip_with_a_path_outside_itself_is_refused(
    tmp_path: Path, runs_folder: Path, below: str
) -> None:
    for entries in (None, {CONFIG_FILE: CONFIG, WEIGHTS_FILE: TENSORS, f"{below}evil": b"x"}):
        said = refused(adapter_zip(tmp_path / "a.zip", entries, below), runs_folder)
        assert "a path outside the zip" in said


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_link_in_a_zip_is_refused(tmp_path: Path, runs_folder: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for entry, data in ((CONFIG_FILE, config_bytes()), (WEIGHTS_FILE, weights())):
            info = zipfile.ZipInfo(entry)
            if entry == name:
                info.external_attr, data = (stat.S_IFLNK | 0o777) << 16, b"/etc/passwd"
            archive.writestr(info, data)
    assert f"{name} in 'a.zip' is a link" in refused(tmp_path / "a.zip", runs_folder)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_with_a_name_twice_is_refused(tmp_path: Path, runs_folder: Path) -> None:
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        archive = adapter_zip(tmp_path / f"{name}.zip")
        with zipfile.ZipFile(archive, "a") as more:
            more.writestr(name, b"{}")
        assert f"holds {name} twice" in refused(archive, runs_folder)


def test_a_zip_with_a_password_is_refused(tmp_path: Path, runs_folder: Path) -> None:
    data = bytearray(adapter_zip(tmp_path / "a.zip").read_bytes())
    _set_everywhere(data, flag_bits=1)
    (tmp_path / "a.zip").write_bytes(data)
    assert "has a password" in refused(tmp_path / "a.zip", runs_folder)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_can_use_gigabytes_of_memory_is_refused(
    tmp_path: Path, runs_folder: Path, method: int
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr(CONFIG_FILE, config_bytes())
        archive.writestr(WEIGHTS_FILE, weights())
    assert "The compression of 'a.zip' is not supported" in refused(tmp_path / "a.zip", runs_folder)


def test_a_truncated_zip_is_refused(tmp_path: Path, runs_folder: Path) -> None:
    whole = adapter_zip(tmp_path / "whole.zip").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "a.zip").write_bytes(whole[:length])
        assert "is damaged or no zip" in refused(tmp_path / "a.zip", runs_folder)


def test_a_changed_byte_anywhere_in_a_zip_causes_no_traceback(
    tmp_path: Path, runs_folder: Path
) -> None:
    whole = adapter_zip(tmp_path / "whole.zip").read_bytes()
    source = tmp_path / "a.zip"
    for place in range(len(whole)):
        changed = whole[place] ^ (0xFF if place % 2 else 0x01)
        source.write_bytes(whole[:place] + bytes([changed]) + whole[place + 1 :])
        try:
            kept = upload_adapter(source, runs_folder).folder
        except FtlabError:
            continue
        assert kept is not None
        assert (kept / WEIGHTS_FILE).read_bytes() == weights()


def test_a_zip_with_too_many_entries_is_refused_before_they_are_listed(
    tmp_path: Path, runs_folder: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(25_000):
            archive.writestr(f"{number:06d}", b"")
    assert "its list of entries is too long" in refused(tmp_path / "a.zip", runs_folder)


# Sizes


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_file_that_declares_too_much_is_refused_unread(
    tmp_path: Path, runs_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(adapter_files.MAX_BYTES, name, 10)
    sentence = f"{name} has "
    assert sentence in refused(adapter_folder(tmp_path / "a"), runs_folder)
    assert sentence in refused(adapter_zip(tmp_path / "a.zip"), runs_folder)


def test_a_sparse_file_of_terabytes_is_refused_at_once(tmp_path: Path, runs_folder: Path) -> None:
    folder = adapter_folder(tmp_path / "a")
    os.truncate(folder / WEIGHTS_FILE, 2**40)
    assert "1,099,511,627,776 bytes; at most 2,147,483,648" in refused(folder, runs_folder)


def test_a_zip_bomb_with_a_wrong_declared_size_is_not_unpacked(
    tmp_path: Path, runs_folder: Path
) -> None:
    entries = {CONFIG_FILE: b" " * 2**26, WEIGHTS_FILE: weights()}
    data = bytearray(adapter_zip(tmp_path / "a.zip", entries).read_bytes())
    _set_everywhere(data, size_of={CONFIG_FILE: 2**20})
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", runs_folder)


@pytest.mark.hostile("adapter zips")
@pytest.mark.parametrize("first", [b"", config_bytes(peft_type="EVIL"), b"{", config_bytes()])
@pytest.mark.parametrize("head", [b"", weights()])
def test_a_zip_bomb_is_refused_for_its_size_whatever_else_is_wrong(
    tmp_path: Path, runs_folder: Path, first: bytes, head: bytes
) -> None:
    entries = {CONFIG_FILE: first, "../x": b"", WEIGHTS_FILE: head + bytes(2**26)}
    sentence = refused(adapter_zip(tmp_path / "a.zip", entries), runs_folder)
    assert f"unpacks to {2**26 + len(head):,} bytes out of " in sentence


@pytest.mark.hostile("adapter zips")
def test_entries_that_share_their_bytes_are_refused(tmp_path: Path, runs_folder: Path) -> None:
    """As in Fifield's zip bomb (2019), whose entries all point at one kernel."""
    many = {f"{number}.json": os.urandom(4_000) for number in range(9)}
    entries = {CONFIG_FILE: config_bytes(), WEIGHTS_FILE: weights(), **many}
    path = adapter_zip(tmp_path / "a.zip", entries)
    with zipfile.ZipFile(path) as archive:
        shared = archive.getinfo("0.json")
        for number in range(9):
            info = archive.getinfo(f"{number}.json")
            info.header_offset, info.compress_size = shared.header_offset, 20_000
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as other:
            other.filelist = archive.filelist
            other._didModify = True  # type: ignore[attr-defined]
            assert other.fp is not None
            other.start_dir = archive.start_dir
            other.fp.write(path.read_bytes()[: archive.start_dir])
    assert "declare more bytes than the zip has" in refused(tmp_path / "b.zip", runs_folder)


def test_weights_larger_than_the_maximum_are_refused_by_their_header(
    tmp_path: Path, runs_folder: Path
) -> None:
    shapes = {name: [2, 2**30] for name in SHAPES}
    entry = {
        name: {"dtype": "U8", "shape": shape, "data_offsets": [i * 2**31, (i + 1) * 2**31]}
        for i, (name, shape) in enumerate(shapes.items())
    }
    tensors = with_header(json.dumps(entry).encode(), b"x")
    sentence = refused(adapter_folder(tmp_path / "a", None, tensors), runs_folder)
    assert "declares 4,294,967," in sentence


# Weights


def _one(**changes: Any) -> bytes:
    """A file of one tensor whose entry has changes; a value of `...` removes its key."""
    entry: dict[str, Any] = {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]} | changes
    entry = {key: value for key, value in entry.items() if value is not ...}
    return with_header(json.dumps({"x.lora_A.weight": entry}).encode(), bytes(16))


def _two(name: str) -> bytes:
    """A file of the tensor "x" and one of that name with the same bytes."""
    entry = '{"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}'
    return with_header(f'{{"x": {entry}, "{name}": {entry}}}'.encode(), bytes(16))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        (b"", "does not begin with a header"),
        (b"\x80\x04", "does not begin with a header"),
        (b"\xff" * 64, "does not begin with a header"),
        (with_header(b""), "does not begin with a header"),
        (with_header(b"{}"), "holds no tensors"),
        (with_header(b'{"__metadata__": {"format": "pt"}}'), "holds no tensors"),
        (with_header(b'{"__metadata__": {"a": 1}}'), "__metadata__ holds more than texts"),
        (with_header(b"[1]"), "no JSON object"),
        (with_header(b' {"a": 1}'), "no JSON object"),
        (with_header(b"nonsense"), "no JSON"),
        (with_header(b"\xff\xff"), "no JSON"),
        (with_header(b'{"a":' + b"[" * 100_000), "no JSON"),
        (weights()[:40], "ends within its header"),
        (weights()[:-1], "1 of "),
        (weights() + b"x", "has bytes after its last tensor"),
        (_one(dtype="F4"), "unknown dtype 'F4'"),
        (_one(dtype=["BF16"]), "unknown dtype"),
        (_one(dtype="F32"), "another number of bytes"),
        (_one(shape=[2, 5]), "another number of bytes"),
        (_one(shape=[-2, -4]), "are no sizes"),
        (_one(shape=[2, 4.0]), "are no sizes"),
        (_one(shape=[True, 8]), "are no sizes"),
        (_one(shape=2), "are no sizes"),
        (_one(shape=[2**60, 0]), "are no sizes"),
        (_one(data_offsets=[0]), "are no sizes"),
        (_one(data_offsets=[16, 0]), "another number of bytes"),
        (_one(data_offsets=[2, 18]), "do not follow the tensor before"),
        (_one(data_offsets=...), "not dtype, shape and data_offsets"),
        (_one(more=1), "not dtype, shape and data_offsets"),
        (_two("y"), "do not follow the tensor before"),
        (_two("x"), "no JSON"),
    ],
)
def test_an_invalid_safetensors_file_is_refused(
    tmp_path: Path, runs_folder: Path, tensors: bytes, sentence: str
) -> None:
    assert sentence in refused(adapter_folder(tmp_path / "a", None, tensors), runs_folder)
    entries = {CONFIG_FILE: config_bytes(), WEIGHTS_FILE: tensors}
    assert sentence in refused(adapter_zip(tmp_path / "a.zip", entries), runs_folder)


@pytest.mark.parametrize(
    ("config", "shapes", "sentence"),
    [
        (config_bytes(r=10**9), SHAPES, "LORA with r=1000000000, but the weights have 2"),
        (config_bytes(rank_pattern={"v": 3}), SHAPES, "r=3, but the weights have 2"),
        (config_bytes(), {"model.weight": [2, 4]}, "the weights hold none of its tensors"),
        (
            config_bytes(peft_type="PROMPT_TUNING", num_virtual_tokens=10**9),
            {"prompt_embeddings": [5, 8]},
            "num_virtual_tokens=1000000000, but the weights have 5",
        ),
    ],
)
def test_a_configuration_that_asks_for_more_than_the_weights_have_is_refused(
    tmp_path: Path, runs_folder: Path, config: bytes, shapes: dict[str, list[int]], sentence: str
) -> None:
    assert sentence in refused(adapter_folder(tmp_path / "a", config, weights(shapes)), runs_folder)


def _set_everywhere(
    data: bytearray, flag_bits: int | None = None, size_of: dict[str, int] | None = None
) -> None:
    """Changes a zip's headers, both those before the entries and those in the list at its end."""
    for signature, flags, sizes, names in ((b"PK\3\4", 6, 22, 30), (b"PK\1\2", 8, 24, 46)):
        place = data.find(signature)
        while place >= 0:
            if flag_bits is not None:
                struct.pack_into("<H", data, place + flags, flag_bits)
            for name, size in (size_of or {}).items():
                if data[place + names :].startswith(name.encode()):
                    struct.pack_into("<I", data, place + sizes, size)
            place = data.find(signature, place + 4)
