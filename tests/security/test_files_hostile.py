"""The hostile corpus in tests/data/hostile, and what is too large to lie there."""

from __future__ import annotations

import json
import os
import resource
import stat
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.models.dimensions import shape_of_model
from ftlab.models.files import read_header
from ftlab.models.reference import parse_model
from ftlab.models.resolve import resolve_model
from ftlab.playground.grid_table import prompts_of_file
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE
from ftlab.playground.uploaded import upload_adapter
from ftlab.prediction.source import find_config
from ftlab.records.published import import_files
from ftlab.tasks import files
from ftlab.tasks.files import columns_of, guess_mapping, read_rows
from ftlab.tasks.reference import TaskReference, load
from tests.data.hostile.make import TEXTS
from tests.playground.adapters import (
    adapter_folder,
    adapter_zip,
    config_bytes,
    refused,
    weights,
    with_header,
)

CORPUS = Path(__file__).parents[1] / "data" / "hostile"
TAKEN = sorted((CORPUS / "datasets" / "taken").iterdir())
REFUSED = sorted((CORPUS / "datasets" / "refused").iterdir())
CONFIGS = sorted((CORPUS / "configs").iterdir())
MODELS = sorted((CORPUS / "models").iterdir())
MEGABYTE = 2**20


def named(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.fixture
def little_memory(record_property: Callable[[str, object], None]):  # type: ignore[no-untyped-def]
    """The test may raise the process's peak by 300 MB at most."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 * 1024, f"{grown // 1024} MB"


# Data sets


@pytest.mark.hostile("data sets")
@pytest.mark.parametrize("path", TAKEN, ids=named(TAKEN))
def test_odd_text_in_a_data_set_stays_the_text_it_is(path: Path) -> None:
    rows = read_rows(path)
    assert guess_mapping(columns_of(rows), rows)
    _, data = load(TaskReference("file", str(path)))
    if path.name.startswith("texts"):
        cells = {str(row["completion"]) for row in rows}
        kept = {example.completion for example in (*data.train, *data.tuning, *data.held_out)}
        assert kept <= {cell.strip() for cell in cells}
        assert {"<script>hit()</script>", "=1+1"} <= kept


@pytest.mark.hostile("data sets")
@pytest.mark.parametrize("path", REFUSED, ids=named(REFUSED))
def test_a_broken_data_set_is_refused_in_one_sentence(path: Path) -> None:
    with pytest.raises(FtlabError) as error:
        load(TaskReference("file", str(path)))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1_500


@pytest.mark.hostile("data sets")
@pytest.mark.parametrize("path", REFUSED, ids=named(REFUSED))
def test_a_broken_file_of_prompts_or_results_is_refused_in_a_sentence(
    path: Path, tmp_path: Path
) -> None:
    if path.name not in ("no-prompt.json", "empty-cells.csv"):
        with pytest.raises(FtlabError):
            prompts_of_file(path)
    report = import_files([path], tmp_path)
    assert not report.imported
    assert len(report.refused) == 1


@pytest.mark.hostile("data sets")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl"])
def test_a_cell_of_ten_megabytes_is_refused(tmp_path: Path, name: str) -> None:
    cell = "x" * (10 * MEGABYTE)
    text = {
        "a.csv": f"prompt,completion\n{cell},b\n",
        "a.json": json.dumps([{"prompt": cell, "completion": "b"}]),
        "a.jsonl": json.dumps({"prompt": cell, "completion": "b"}),
    }[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(FtlabError, match=r"more than 100,000 characters|line of more than"):
        read_rows(tmp_path / name)


@pytest.mark.hostile("data sets")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "b.json"])
def test_a_hundred_thousand_columns_are_refused(tmp_path: Path, name: str) -> None:
    columns = [f"c{number}" for number in range(100_000)]
    row = dict.fromkeys(columns, 1)
    text = {
        "a.csv": ",".join(columns) + "\n" + ",".join(["1"] * len(columns)) + "\n",
        "a.json": json.dumps([row]),
        "a.jsonl": json.dumps(row),
        "b.json": json.dumps([{column: 1} for column in columns]),  # each row has another one
    }[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(FtlabError, match="has 100,000 columns, more than 1,000"):
        read_rows(tmp_path / name)


@pytest.mark.hostile("data sets")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("nested", [False, True], ids=["texts", "lists of texts"])
def test_a_small_parquet_file_that_repeats_a_large_text_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    import pyarrow
    import pyarrow.parquet

    rows, megabytes = 400, 4
    monkeypatch.setattr(files, "MAX_PARQUET_BYTES", 64 * MEGABYTE)
    cells = pyarrow.DictionaryArray.from_arrays(
        pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array(["x" * megabytes * MEGABYTE])
    )
    if nested:
        cells = pyarrow.ListArray.from_arrays(list(range(rows + 1)), cells)
    table = pyarrow.table({"prompt": cells})
    path = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(table, path, dictionary_pagesize_limit=64 * MEGABYTE)
    assert path.stat().st_size < 8 * MEGABYTE
    with pytest.raises(FtlabError, match="unpacks to 1,600 MB"):
        read_rows(path)


@pytest.mark.hostile("data sets")
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.parquet", "a.txt"])
def test_a_pipe_in_place_of_a_data_set_is_refused_without_waiting(
    tmp_path: Path, name: str
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(FtlabError):
        prompts_of_file(tmp_path / name)
    with pytest.raises(FtlabError):
        read_rows(tmp_path / name)


@pytest.mark.hostile("data sets")
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.parquet", "a.txt"])
def test_an_endless_sparse_file_is_refused_unread(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, 5 * 2**30)
    with pytest.raises(FtlabError, match="MB"):
        prompts_of_file(tmp_path / name)


# Models


@pytest.mark.hostile("models")
@pytest.mark.parametrize("folder", MODELS, ids=named(MODELS))
def test_a_folder_that_is_no_safe_model_is_refused_before_a_weight_is_opened(folder: Path) -> None:
    with pytest.raises(FtlabError) as error:
        resolve_model(str(folder))
    assert len(str(error.value)) < 1_000
    assert shape_of_model(str(folder)) is None


@pytest.mark.hostile("models")
@pytest.mark.parametrize(
    "name",
    [
        "../../etc", "/etc/passwd", "/dev", "/proc/self", "~root/x", "~nobody-here", "a/../../b",
        "http://169.254.169.254/latest", "https://huggingface.co/a/b", "file:///etc/passwd",
        "hf://a/b", "s3://a/b", "a//b", "a/b/c", "-a/b", "a b/c", "a/b\nc", "a\x00b", "\ud800",
        "x" * 5_000, "a/" + "b" * 500 + "/c", ".", "..", "C:\\models", "\\\\host\\share",
    ],
)  # fmt: skip
def test_a_text_that_names_no_model_is_a_sentence_and_fetches_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    monkeypatch.setattr("ftlab.prediction.source._from_hub", fetched)
    for read in (parse_model, find_config, resolve_model):
        with pytest.raises(FtlabError):
            read(name)


@pytest.mark.hostile("models")
def test_a_pipe_or_a_device_in_place_of_a_config_is_refused_without_waiting(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "config.json")
    for name in (tmp_path, tmp_path / "config.json", "/dev/zero", "/dev/stdin", "/dev/tty"):
        with pytest.raises(FtlabError):
            find_config(str(name))


@pytest.mark.hostile("models")
@pytest.mark.parametrize("kind", ["sparse", "pipe", "device", "no text", "list", "deep"])
def test_a_config_in_the_cache_of_the_hub_is_read_under_the_same_limits(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.json"
    if kind == "sparse":
        file.touch()
        os.truncate(file, 2**40)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        texts = {"no text": b"\xff\xfe", "list": b"[1]", "deep": b"[" * 100_000}
        file.write_bytes(texts[kind])
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(file))
    with pytest.raises(FtlabError) as error:
        find_config("owner/model")
    assert len(str(error.value)) < 300


# Adapters


@pytest.mark.hostile("adapter configs")
@pytest.mark.parametrize("path", CONFIGS, ids=named(CONFIGS))
def test_an_adapter_whose_config_asks_for_harm_is_refused(tmp_path: Path, path: Path) -> None:
    refused(adapter_folder(tmp_path / "a", path.read_bytes()), tmp_path / "runs")
    entries = {CONFIG_FILE: path.read_bytes(), WEIGHTS_FILE: weights()}
    refused(adapter_zip(tmp_path / "a.zip", entries), tmp_path / "runs")


CATASTROPHIC = [
    "(a+)+$", "(a|a)*b", "(.*)*x", "^(([a-z])+.)+[A-Z]([a-z])+$", "(?:.*?){40}$", "(\\w+\\.?)+!",
    ".*.*.*.*.*.*.*.*x", "a*a*a*a*a*a*a*b", "([\\w.]*){9,}$", ".?" * 45 + "Z", "((.+)+)+Z",
    "(.|.)" * 30 + "Z",
]  # fmt: skip
BACK = ["(a)\\1", "(?<!a)b", "(.*(?!a))*b", "(?:.?){1000}{1000}", "(a{1,99}){99}{99}", "*a", "(a"]
PATTERN_FIELDS = (
    "target_modules", "exclude_modules", "layers_pattern", "target_parameters", "modules_to_save",
    "feedforward_modules", "rank_pattern", "alpha_pattern",
)  # fmt: skip


def patterned(field: str, pattern: str) -> list[bytes]:
    """Configurations with the pattern in that field, in each form that it may have."""
    if field in ("rank_pattern", "alpha_pattern"):
        return [config_bytes(**{field: {pattern: 2}})]
    return [config_bytes(**{field: value}) for value in (pattern, [pattern])]


@pytest.mark.hostile("adapter configs")
@pytest.mark.parametrize("pattern", CATASTROPHIC)
@pytest.mark.parametrize("field", PATTERN_FIELDS)
def test_a_pattern_that_re_would_run_for_years_keeps_nobody_waiting(
    tmp_path: Path, field: str, pattern: str
) -> None:
    """It is taken or refused; what it matches is told by a matcher that does not backtrack."""
    for config in patterned(field, pattern):
        source = adapter_folder(tmp_path / "a", config)
        began = time.process_time()
        with suppress(FtlabError):
            upload_adapter(source, tmp_path / "runs")
        assert time.process_time() - began < 2


@pytest.mark.hostile("adapter configs")
@pytest.mark.parametrize("pattern", BACK)
@pytest.mark.parametrize("field", PATTERN_FIELDS)
def test_a_pattern_that_cannot_be_matched_without_backtracking_is_refused(
    tmp_path: Path, field: str, pattern: str
) -> None:
    for config in patterned(field, pattern):
        source = adapter_folder(tmp_path / "a", config)
        sentence = refused(source, tmp_path / "runs")
        assert f"has a pattern in '{field}' that is not taken" in sentence
        assert "name the layers in a list" in sentence
        entries = {CONFIG_FILE: config, WEIGHTS_FILE: weights()}
        assert refused(adapter_zip(tmp_path / "a.zip", entries), tmp_path / "runs") == sentence


@pytest.mark.hostile("adapter configs")
@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_kwargs": {"trust_remote_code": True}},
        {"tokenizer_kwargs": {"a": {"trust_remote_code": 1}}},
        {"tokenizer_kwargs": {"use_fast": False}},
        {"trust_remote_code": True},
        {"runtime_config": {"a": [{"trust_remote_code": True}]}},
        {"model_kwargs": {"device_map": "auto"}},
    ],
)
def test_an_adapter_that_says_how_to_load_other_files_is_refused(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    sentence = refused(adapter_folder(tmp_path / "a", config_bytes(**changes)), tmp_path / "runs")
    assert "trust_remote_code" in sentence or "how to load other files" in sentence


@pytest.mark.parametrize(
    "pattern",
    [
        r".*(language_model).*\.(q_proj|v_proj)$", r"^(?!.*vision).*(?:q_proj|k_proj).*",
        r"(?:.*?(?:vision|visual).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)"
        r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|v_proj)))",
    ],
)  # fmt: skip
def test_patterns_that_people_write_are_taken(tmp_path: Path, pattern: str) -> None:
    source = adapter_folder(tmp_path / "a", config_bytes(target_modules=pattern))
    assert upload_adapter(source, tmp_path / "runs").method == "lora"


CLIMBING = [
    "../x", "a/../../x", "/x", "//x", "\\x", "..\\x", "a\\..\\..\\x", "C:x", "C:\\x", "c:/x",
    "./../x", "a/b/../../../x", "..", "../", "/", "\\\\host\\share\\x", "a/..\\../x",
]  # fmt: skip


@pytest.mark.hostile("adapter zips")
@pytest.mark.parametrize("name", CLIMBING)
def test_a_zip_entry_that_leads_out_is_refused_and_writes_nothing(
    tmp_path: Path, name: str
) -> None:
    entries = {CONFIG_FILE: config_bytes(), WEIGHTS_FILE: weights(), name: b"x"}
    refused(adapter_zip(tmp_path / "a.zip", entries), tmp_path / "runs")


@pytest.mark.hostile("adapter zips")
@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_zip_entry_that_is_a_link_or_a_device_is_refused(
    tmp_path: Path, kind: int, name: str
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for entry, data in ((CONFIG_FILE, config_bytes()), (WEIGHTS_FILE, weights())):
            info = zipfile.ZipInfo(entry)
            info.external_attr = ((kind if entry == name else stat.S_IFREG) | 0o777) << 16
            archive.writestr(info, data)
    refused(tmp_path / "a.zip", tmp_path / "runs")


@pytest.mark.hostile("adapter zips")
@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "adapter_model.pkl"])
def test_a_pickle_is_never_opened_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    import pickle

    data = pickle.dumps(Evil())
    refused(adapter_folder(tmp_path / "a", tensors=data), tmp_path / "runs")
    refused(adapter_zip(tmp_path / "a.zip", {CONFIG_FILE: config_bytes(), name: data}), tmp_path)
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, tmp_path / "runs")
    assert not (tmp_path / "ran").exists()


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "U8") -> object:
    return {"dtype": dtype, "shape": shape or [end - begin], "data_offsets": [begin, end]}


HEADERS = {
    "overlapping": {"a": entry(0, 8), "b": entry(4, 12)},
    "a gap": {"a": entry(0, 4), "b": entry(8, 12)},
    "not from the start": {"a": entry(4, 8)},
    "backwards": {"a": {"dtype": "U8", "shape": [4], "data_offsets": [8, 4]}},
    "negative": {"a": {"dtype": "U8", "shape": [4], "data_offsets": [-4, 0]}},
    "negative shape": {"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 1]}},
    "huge offsets": {"a": {"dtype": "U8", "shape": [2**62], "data_offsets": [0, 2**62]}},
    "beyond 64 bits": {"a": {"dtype": "U8", "shape": [2**70], "data_offsets": [0, 2**70]}},
    "shape that wraps": {"a": entry(0, 4, [2**32, 2**32, 4])},
    "floats": {"a": {"dtype": "U8", "shape": [4.0], "data_offsets": [0, 4]}},
    "true": {"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}},
    "texts": {"a": {"dtype": "U8", "shape": ["4"], "data_offsets": ["0", "4"]}},
    "unknown dtype": {"a": entry(0, 4, dtype="OBJECT")},
    "a field too many": {"a": {**entry(0, 4), "evil": 1}},  # type: ignore[dict-item]
    "a field too few": {"a": {"dtype": "U8", "shape": [4]}},
    "a thousand sides": {"a": entry(0, 1, [1] * 1000)},
    "metadata of lists": {"__metadata__": {"a": []}, "a": entry(0, 4)},
    "metadata is a text": {"__metadata__": "x", "a": entry(0, 4)},
    "nothing": {},
    "a list": [entry(0, 4)],
    "no data": {"a": entry(0, 100)},
}


@pytest.mark.hostile("safetensors headers")
@pytest.mark.parametrize("name", HEADERS)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    tensors = with_header(json.dumps(HEADERS[name]).encode(), bytes(12))
    refused(adapter_folder(tmp_path / "a", tensors=tensors), tmp_path / "runs")


@pytest.mark.hostile("safetensors headers")
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("length", [100 * MEGABYTE, 2**31, 2**63, 2**64 - 1, 0, 1])
def test_a_header_that_claims_too_much_is_refused_before_it_is_read(
    tmp_path: Path, length: int
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{")
    os.truncate(path, min(length + 8, 200 * MEGABYTE))
    with path.open("rb") as stream, pytest.raises(FtlabError, match="does not begin with a header"):
        read_header(stream, path.name)


def test_the_corpus_is_what_its_script_makes() -> None:
    assert len(TEXTS) > 60
    assert len(TAKEN) >= 8
    assert len(REFUSED) >= 30
