"""Packed sweeps that are broken, forged or malicious: each is refused whole, with a sentence."""

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
from ftlab.jobs.inputs import EVERYTHING
from ftlab.records.store import RunStore, sweep_data
from ftlab.share import unpack
from ftlab.share.pack import MANIFEST
from ftlab.share.report import sweep_report
from ftlab.share.unpack import open_packed
from ftlab.tabs.compare.serving import title_html
from ftlab.tabs.compare.view import further, sweep_options, view
from ftlab.tabs.learn.nf4 import _measured
from ftlab.tabs.results.actions import use_view
from ftlab.tabs.results.columns import Query
from ftlab.tabs.results.panel import panel
from ftlab.tabs.results.tab import answer, opened_html
from tests.fakes import SWEEP
from tests.playground.adapters import config_bytes, weights
from tests.share.fakes import HOSTILE
from tests.share.packed import LORA, changed, entries, packed_sweep, tree, write

pytestmark = pytest.mark.hostile("packed sweeps")

Forge = Callable[[Path], object]
SPEC, RESULT, METRICS, SAMPLES = (
    f"{LORA}/{name}" for name in ("spec.json", "result.json", "metrics.jsonl", "samples.jsonl")
)
CONFIG, WEIGHTS = (
    f"{LORA}/adapter/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return packed_sweep(tmp_path_factory.mktemp("good"), adapters=True).read_bytes()


def with_files(**files: bytes | None) -> Forge:
    """Adds, replaces or removes files by name, with a manifest that fits."""

    def forge(archive: Path) -> object:
        kept = entries(archive) | files
        return write(archive, {name: data for name, data in kept.items() if data is not None})

    return forge


def with_entry(name: str, data: bytes = b"x", **info: Any) -> Forge:
    """Adds an entry that is not in the manifest, as the zip alone can have it."""

    def forge(archive: Path) -> None:
        entry = zipfile.ZipInfo(name)
        for key, value in info.items():
            setattr(entry, key, value)
        with zipfile.ZipFile(archive, "a") as file:
            file.writestr(entry, data)

    return forge


def with_manifest(**values: Any) -> Forge:
    return lambda archive: write(archive, entries(archive), values)


def with_values(name: str, **values: Any) -> Forge:
    return lambda archive: changed(archive, name, **values)


def with_text(name: str, old: str, new: str) -> Forge:
    """Replaces a text in a file; the manifest fits the new one."""

    def forge(archive: Path) -> None:
        data = entries(archive)[name]
        assert old.encode() in data
        with_files(**{name: data.replace(old.encode(), new.encode("utf-8", "surrogatepass"))})(
            archive
        )

    return forge


def with_bytes(change: Callable[[bytes], bytes]) -> Forge:
    return lambda archive: archive.write_bytes(change(archive.read_bytes()))


def other_hash(archive: Path) -> None:
    """One byte of a file differs, though the zip's own checksum is right."""
    files = entries(archive)
    manifest = json.loads(files[MANIFEST])
    files[SAMPLES] = files[SAMPLES].replace(b"singers", b"sinners")
    write(archive, files, {"files": manifest["files"]})


def false_size(archive: Path) -> None:
    """A file declares that it unpacks to 8 MB, and is much shorter."""
    data = bytearray(archive.read_bytes())
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(SAMPLES.encode()))
    data[place + 24 : place + 28] = struct.pack("<I", 2**23)
    archive.write_bytes(bytes(data))


def encrypted(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(data))


def bomb(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{SWEEP}-03-dora/metrics.jsonl", b"\n" * 2**25)


def many_bombs(archive: Path) -> None:
    """Each is small enough; together they are not."""
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for number in range(9):
            file.writestr(f"{SWEEP}-1{number}-dora/metrics.jsonl", b"\n" * 2**24)


def many_entries(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        for number in range(3100):
            file.writestr(f"{SWEEP}-{number}-dora/spec.json", b"")


LINK = {"external_attr": (stat.S_IFLNK | 0o777) << 16}
DEEP = b"[" * 100_000 + b"]" * 100_000
NAN_WEIGHTS = weights(fill=0xFF)

ARCHIVES: dict[str, tuple[Forge, str]] = {
    # the file
    "cut short": (with_bytes(lambda data: data[:-200]), "is damaged or no zip"),
    "cut in half": (with_bytes(lambda data: data[: len(data) // 2]), "is damaged or no zip"),
    "empty": (with_bytes(lambda data: b""), "is damaged or no zip"),
    "no zip": (with_bytes(lambda data: b"{}" * 500), "is damaged or no zip"),
    "another zip": (lambda archive: write_zip(archive, {"a.txt": b"a"}), "no packed sweep has"),
    "no manifest": (lambda archive: write_zip(archive, {SPEC: b"{}"}), "has no manifest.json"),
    "flipped bytes": (
        with_bytes(lambda data: data[:300] + bytes(60) + data[360:]), "is damaged or no zip",
    ),
    "a password": (encrypted, "has a password"),
    "lzma": (with_entry(f"{SWEEP}-03-x/spec.json", compress_type=14), "compression of"),
    # names
    "a folder above": (with_entry("../evil.json"), "no packed sweep has"),
    "a folder above a run": (with_entry(f"{LORA}/../../spec.json"), "no packed sweep has"),
    "an absolute name": (with_entry("/etc/cron.d/evil"), "no packed sweep has"),
    "a name of Windows": (with_entry(r"C:\evil\spec.json"), "no packed sweep has"),
    "backslashes": (with_entry(LORA + r"\..\spec.json"), "no packed sweep has"),
    "a NUL in a name": (with_entry("a.json\x00/spec.json"), "no packed sweep has"),
    "a hidden run": (with_entry(".ftlab/spec.json"), "no packed sweep has"),
    "a folder": (with_entry(f"{LORA}/"), "no packed sweep has"),
    "another file": (with_entry(f"{LORA}/log.txt"), "no packed sweep has"),
    "a checkpoint": (with_entry(f"{LORA}/checkpoints/optimizer.pt"), "no packed sweep has"),
    "a pickle": (with_entry(f"{LORA}/adapter/adapter_model.bin"), "no packed sweep has"),
    "terminal codes in a name": (with_entry("\x1b[31mred"), "no packed sweep has"),
    "a link": (with_entry(f"{SWEEP}-03-x/spec.json", b"/etc/passwd", **LINK), "is a link"),
    "a file twice": (with_entry(SPEC), "twice"),
    "a second manifest": (with_entry(MANIFEST), "twice"),
    # sizes
    "a bomb": (bomb, "as no packed sweep does"),
    "many bombs": (many_bombs, "bytes; at most 134,217,728 are read"),
    "too large a spec": (with_entry(f"{SWEEP}-03-x/spec.json", b" " * 2**21), "bytes; at most"),
    "a false size": (false_size, "cut short|has not the size|damaged"),
    "too many files": (many_entries, "entries; a packed sweep has at most|list of entries"),
    # the manifest
    "a newer version": (
        with_manifest(version=2, ftlab_version="9.1", files="later"),
        "has the format 2 of ftlab 9.1, and this ftlab reads formats up to 1; update ftlab",
    ),
    "version 0": (with_manifest(version=0), "names no sweep"),
    "a version that is text": (with_manifest(version="1"), "manifest.json cannot be read: version"),
    "another format": (with_manifest(format="tar"), "is of another format"),
    "a manifest that is a list": (
        lambda archive: write_zip(archive, entries(archive) | {MANIFEST: b"[]"}),
        "manifest.json cannot be read",
    ),
    "a manifest that is deep": (
        lambda archive: write_zip(archive, entries(archive) | {MANIFEST: DEEP}),
        "manifest.json",
    ),
    "a sweep id that is a path": (with_manifest(sweep_id="../../x"), "names no sweep"),
    "a version of ftlab that is long": (with_manifest(ftlab_version="1" * 50), "no version"),
    "other hashes": (other_hash, "its SHA-256 differs"),
    "a hash that is none": (
        lambda archive: write(
            archive, entries(archive), {"files": {n: {"bytes": len(d), "sha256": "x"} for n, d in
                                                  entries(archive).items() if n != MANIFEST}},
        ),
        "has not the size or hash",
    ),
    "a file that the manifest lacks": (
        with_entry(f"{SWEEP}-03-x/spec.json", b"{}"), "is not both in it and in its manifest",
    ),
    "a file that is gone": (with_manifest(files={}), "is not both in it and in its manifest"),
    "a run without a result": (with_files(**{RESULT: None}), "has no result.json"),
    "half an adapter": (with_files(**{WEIGHTS: None}), "has no adapter/adapter_model.safetensors"),
    # the records
    "a spec of another run": (with_values(SPEC, run_id="own-run-1"), "is that of another run"),
    "a run of another sweep": (
        lambda archive: write(archive, entries(archive), {"sweep_id": "other-sweep"}),
        "is not one of the sweep",
    ),
    "a sweep id that differs": (with_values(SPEC, sweep_id="x-y"), "is that of another run"),
    "a base run outside": (with_values(SPEC, base_run_id="own-base"), "base run that is not in"),
    "a spec that is no JSON": (with_files(**{SPEC: b"{"}), "is no JSON"),
    "a spec that is no UTF-8": (with_files(**{SPEC: b'{"a": "\xff"}'}), "is no UTF-8 text"),
    "a spec that is deep": (with_files(**{SPEC: DEEP}), "values|levels|JSON"),
    "an unknown method": (
        with_values(SPEC, variant={"method": "evil", "hyperparameters": {}}), "evil",
    ),
    "a hyperparameter out of bounds": (
        with_values(SPEC, variant={"method": "lora", "hyperparameters": {"r": 10**9}}), "Rank|r is",
    ),
    "a task that is a list": (with_values(SPEC, task=["sql"]), "task"),
    "steps below 1": (with_text(SPEC, '"steps": 30', '"steps": -30'), "[Ss]teps"),
    "steps without end": (with_text(SPEC, '"steps": 30', f'"steps": {10**30}'), "number"),
    "a date beyond all": (with_values(SPEC, created_at=1e300), "number|date"),
    "a date that is infinite": (with_values(SPEC, created_at=float("inf")), "Infinity"),
    "a seed below 0": (with_values(SPEC, seed=-1), "seed"),
    "a name without end": (with_values(SPEC, model="m" * 5000), "more than 300 characters"),
    "directions in a name": (with_values(SPEC, model="a\u202eb"), "control characters"),
    "half a character": (
        with_text(SPEC, '"model": "bundled"', '"model": "\\ud800"'), "control characters",
    ),
    "a key without sense": (with_values(SPEC, __class__="os.system"), "not permitted|__class__"),
    "NaN in a result": (
        with_text(RESULT, '"score_after": 0.71', '"score_after": NaN'), "has NaN where",
    ),
    "a loss that is text": (
        with_text(RESULT, '"score_after": 0.71', '"score_after": "<b>"'), "score_after",
    ),
    "memory below 0": (
        with_values(RESULT, measures={"adapter_bytes": -5}), "has a adapter_bytes below 0",
    ),
    "a score that is next to nothing": (
        with_values(RESULT, measures={"score_after": 1e-300}), "which no measure can be",
    ),
    "memory beyond all": (with_values(RESULT, measures={"adapter_bytes": 10**19}), "no measure"),
    "a result that goes on": (with_values(RESULT, status="running"), "status"),
    "notes without end": (with_values(RESULT, notes=["n"] * 60_000), "more than 50,000 values"),
    "a note without end": (with_values(RESULT, notes=["n" * 300_000]), "too long"),
    "an environment that is deep": (
        with_values(RESULT, environment={"a": {"b": {"c": 1}}}), "more than texts and numbers",
    ),
    "events that are no objects": (with_files(**{METRICS: b"[]\n1\n"}), "is no event of a run"),
    "an event that is large": (
        with_files(**{METRICS: b'{"event": "' + b"x" * 999 + b'"}\n'}), "is no event of a run",
    ),
    "a step that is no number": (
        with_files(**{METRICS: b'{"event": "step", "step": "1", "loss": 2}\n'}), "is no event",
    ),
    "a curve that is cut short": (with_files(**{METRICS: b'{"event": "start"}'}), "is cut short"),
    "more events than any run": (with_files(**{METRICS: b"{}\n" * 300_001}), "more than 300,000"),
    "many curves": (
        with_files(**{f"{run}/metrics.jsonl": b'{"event": "x"}\n' * 290_000 for run in
                      (f"{SWEEP}-00-base", f"{SWEEP}-01-full", LORA)}
                   | {SAMPLES: b'{"index": 0}\n' * 290_000}), "more than 1,000,000 lines",
    ),
    "answers that are lists": (
        with_files(**{SAMPLES: b'{"index": 0, "answer_after": ["x"]}\n'}), "answer_after",
    ),
    "a score that is infinite": (
        with_files(**{SAMPLES: b'{"index": 0, "score_after": Infinity}\n'}), "score_after",
    ),
    "a line of many values": (
        with_files(**{SAMPLES: b'{"index": 0, "x": [' + b"0," * 5000 + b"0]}\n"}), "2,000 values",
    ),
    # adapters
    "an adapter that names code": (
        with_files(**{CONFIG: config_bytes(auto_mapping={"parent_library": "os"})}), "is refused",
    ),
    "an adapter without a header": (with_files(**{WEIGHTS: b"\x80\x04K."}), "is refused"),
    "an adapter that is NaN": (with_files(**{WEIGHTS: NAN_WEIGHTS}), "is refused.*NaN"),
    "an adapter of another base": (
        with_files(**{WEIGHTS: weights({"base_model.model.x.lora_A.weight": [2, 3]})}), "refused",
    ),
}  # fmt: skip


def write_zip(archive: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_forged_archive_is_refused_whole(kind: str, tmp_path: Path, good: bytes) -> None:
    forge, sentence = ARCHIVES[kind]
    archive, runs = tmp_path / "forged.zip", tmp_path / "runs"
    archive.write_bytes(good)
    forge(archive)
    with pytest.raises(FtlabError, match=sentence) as error:
        open_packed(archive, runs)
    said = str(error.value)
    assert said.isprintable()
    assert len(said) < 700
    assert str(tmp_path) not in said
    assert tree(tmp_path) == {"forged.zip": archive.read_bytes()}
    assert RunStore(runs).opened() == []


def test_what_the_forged_ones_are_made_from_is_opened(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "good.zip").write_bytes(good)
    assert open_packed(tmp_path / "good.zip", tmp_path / "runs").adapters == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_without_waiting(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "x.zip")
    with pytest.raises(FtlabError, match="is no file"):
        open_packed(tmp_path / "x.zip", tmp_path / "runs")


def test_texts_in_every_field_are_shown_as_text(tmp_path: Path, good: bytes) -> None:
    archive = tmp_path / "hostile.zip"
    archive.write_bytes(good)
    files = entries(archive)
    spec = json.loads(files[SPEC])
    spec |= {"model": HOSTILE[:250], "device": HOSTILE[:250]}
    spec["task"] |= {"kind": "file", "id": "/etc/" + HOSTILE.replace("/", "|")[:200]}
    environment = dict.fromkeys((HOSTILE, "device", "metric", "threads", "cores"), HOSTILE)
    environment |= {"packages": {HOSTILE: HOSTILE}, "scored_examples": HOSTILE, "driver": HOSTILE}
    result = json.loads(files[RESULT])
    result |= {
        "notes": [HOSTILE], "reason": HOSTILE, "memory_kind": HOSTILE, "environment": environment,
        "anatomy": {HOSTILE: 1}, "memory_at_end": {HOSTILE: 1},
        "phases": {HOSTILE: {"seconds": 1.0, "peak_bytes": 10}},
    }  # fmt: skip
    sample = dict.fromkeys(("reference", "answer_before", "answer_after"), HOSTILE)
    sample |= {"verdict_before": HOSTILE, "verdict_after": HOSTILE}
    row = sample | {"index": 0, "prompt": [{"role": HOSTILE, "content": HOSTILE}]}
    files[SPEC], files[RESULT] = json.dumps(spec).encode(), json.dumps(result).encode()
    files[SAMPLES] = json.dumps(row).encode() + b"\n"
    files[METRICS] += json.dumps({"event": HOSTILE[:290], "phase": HOSTILE[:290]}).encode() + b"\n"
    write(archive, files)
    store = RunStore(tmp_path / "runs")
    said = opened_html(store, EVERYTHING, str(archive))
    assert "from another machine opened" in said
    (run,) = [run for run in store.opened() if run.run_id.endswith("02-lora")]
    data = sweep_data(store, run.spec.sweep_id)
    shown = view(data, None, {})
    pages = [
        *map(str, answer(store, Query())), *panel(run).parts(), shown.headline, shown.fairness,
        shown.unfinished, shown.bars.title if hasattr(shown.bars, "title") else "",
        sweep_report(data),
    ]  # fmt: skip
    assert sweep_options(store.table())
    assert further(data, {})
    for page in pages:
        assert "<script>window.hit" not in page
        assert "<img src=x" not in page
        assert 'href="javascript' not in page


@pytest.mark.slow
@pytest.mark.parametrize(("number", "runs"), [(0, "all"), (9e17, "02-lora"), (1e-59, "01-full")])
def test_numbers_at_the_bounds_break_no_page(
    tmp_path: Path, good: bytes, number: float, runs: str
) -> None:
    archive = tmp_path / "bounds.zip"
    archive.write_bytes(good)
    files = entries(archive)
    for name in [name for name in files if name.endswith(("result.json", "metrics.jsonl"))]:
        if runs != "all" and runs not in name:
            continue
        if name.endswith("metrics.jsonl"):
            event = {
                "event": "step",
                "step": min(int(number), 10**15) or 1,
                "loss": number,
                "tokens": 0,
            }
            files[name] += json.dumps(event).encode() + b"\n"
            continue
        result = json.loads(files[name])
        result["measures"] = {key: _at(value, number) for key, value in result["measures"].items()}
        result |= {"general_losses": [number] * 3, "anatomy": {"weights": int(number)}}
        files[name] = json.dumps(result).encode()
    write(archive, files)
    store = RunStore(tmp_path / "runs")
    data = sweep_data(store, open_packed(archive, store.folder).sweep_id)
    for group in ("runs", "sweeps", "seeds"):
        assert answer(store, Query(group=group))  # type: ignore[arg-type]
    view(data, None, {})
    further(data, {})
    title_html(data.table, data.origin, 10)
    _measured(store)
    for run in data.runs:
        panel(run)
        use_view(store, run.run_id)
    assert sweep_report(data)


def _at(value: Any, number: float) -> Any:
    if isinstance(value, str | bool) or value is None:
        return value
    return int(number) if isinstance(value, int) else float(number)


def test_a_forged_sweep_of_a_known_name_does_not_replace_it(
    tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, runs = tmp_path / "a.zip", tmp_path / "runs"
    archive.write_bytes(good)
    monkeypatch.setattr(unpack, "_DIGEST", 0)  # as if both hashes began alike
    open_packed(archive, runs)
    before = tree(runs)
    changed(archive, RESULT, notes=["forged"])
    with pytest.raises(FtlabError, match="Another sweep is open as"):
        open_packed(archive, runs)
    assert tree(runs) == before
