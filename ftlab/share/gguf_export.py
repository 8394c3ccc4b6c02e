"""Writes a merged model or a plain LoRA adapter as one GGUF file, and reads it back.

The format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors are read, rounded and written
one at a time, so the memory is that of a few copies of the largest in 32 bits. The file is written
beside its place and renamed at the end, after it was read back; until then nothing that is there is
touched.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Stored
from gguf import LlamaFileType
from numpy.typing import NDArray

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import Matrix, Tensors, open_tensors
from ftlab.models.files import read_model_json
from ftlab.share.bundle import check_room
from ftlab.share.gguf_architectures import (
    Architecture,
    Config,
    Value,
    architecture_of,
    laid_out,
    model_keys,
    rope_factors,
)
from ftlab.share.gguf_tokenizer import Vocabulary, read_vocabulary

Say = Callable[[str], None]

QUANT_VERSION = int(gguf.GGML_QUANT_VERSION)


@dataclass(frozen=True)
class Rounding:
    """A type of weights: how a matrix is stored, and how far a stored value may be from its source.

    `file` is the whole file's type (`general.file_type`). The bounds are half a step of the type:
    `relative` to the value, `absolute` where the type's exponents end.
    """

    stored: Stored
    file: LlamaFileType
    relative: float = 0.0
    absolute: float = 0.0


ROUNDINGS = {
    "f16": Rounding(Stored.F16, LlamaFileType.MOSTLY_F16, 2.0**-11, 2.0**-25),
    "bf16": Rounding(Stored.BF16, LlamaFileType.MOSTLY_BF16, 2.0**-8),
    "f32": Rounding(Stored.F32, LlamaFileType.ALL_F32),
    "q8_0": Rounding(Stored.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""By the name in `--type`. Vectors, as of norms and biases, are always in 32 bits."""

_Q8_BLOCK = 32
_Q8_STEPS = 0.57 / 127
"""Half a step of the largest value over 127, and what rounding that step to f16 adds at 127."""


@dataclass(frozen=True)
class Planned:
    """A tensor of the file: `make` reads its source and lays it out as llama.cpp has it."""

    name: str
    shape: tuple[int, ...]
    type: str
    make: Callable[[], Matrix]

    @property
    def bytes(self) -> int:
        block, size = gguf.GGML_QUANT_SIZES[ROUNDINGS[self.type].stored]
        return int(np.prod(self.shape, dtype=np.int64)) // block * size


@dataclass(frozen=True)
class Contents:
    """All that goes into one GGUF file. `keys` are general, of the model and of the adapter."""

    architecture: str
    keys: Mapping[str, Value]
    tensors: tuple[Planned, ...]
    vocabulary: Vocabulary | None = None


def model_contents(folder: Path, kind: str, name: str, licence: str | None = None) -> Contents:
    """What the whole model in the folder becomes in the type `kind`; `name` is for people.

    `licence` is the base's, if it is known.

    Raises `FtlabError` if llama.cpp has no such model, or would read it as another.
    """
    config = config_of(folder, name)
    architecture = architecture_of(config, name)
    vocabulary = read_vocabulary(folder, config, name)
    names = tensor_names(architecture, config)
    tensors = []
    weights = open_tensors(folder)
    for source in weights.names:
        if source == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue  # llama.cpp takes the embedding where there is no output
        target = target_name(names, source, name)
        shape = weights.shape(source)
        _check_shape(source, shape, config, name)
        make = _laid_out(architecture, config, source, weights)
        tensors.append(Planned(target, shape, _type_of(target, shape, kind), make))
    factors = rope_factors(config)
    if factors is not None:
        tensors.append(Planned("rope_freqs.weight", factors.shape, "f32", lambda: factors))
    parameters = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    keys: dict[str, Value] = {
        "general.type": "model",
        "general.name": name,
        "general.size_label": gguf.size_label(parameters, parameters, 0, 0),
        "general.file_type": int(ROUNDINGS[kind].file),
        "general.quantization_version": QUANT_VERSION,
    }
    if licence is not None:
        keys["general.license"] = licence
    return Contents(
        architecture.gguf, keys | model_keys(architecture, config), tuple(tensors), vocabulary
    )


def _laid_out(
    architecture: Architecture, config: Config, source: str, weights: Tensors
) -> Callable[[], Matrix]:
    return lambda: laid_out(architecture, config, source, weights.read(source))


def config_of(folder: Path, name: str) -> dict[str, Any]:
    try:
        return read_model_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise FtlabError(
            f"config.json of {name} cannot be read ({error}); merge the run again."
        ) from None


def tensor_names(architecture: Architecture, config: Config) -> gguf.TensorNameMap:
    by_name = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    return gguf.get_tensor_name_map(by_name[architecture.gguf], int(config["num_hidden_layers"]))


def target_name(names: gguf.TensorNameMap, source: str, model: str) -> str:
    found = names.get_name(source, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise FtlabError(
            f"GGUF has no place for {source} of {model}; ask llama.cpp's convert_hf_to_gguf.py "
            "for it, with the folder of the merged model."
        )
    return str(found)


def _check_shape(source: str, shape: tuple[int, ...], config: Config, model: str) -> None:
    embeds = source.endswith(("embed_tokens.weight", "lm_head.weight"))
    if embeds and shape[0] != config["vocab_size"]:
        raise FtlabError(
            f"{source} of {model} has {shape[0]:,} rows and its config.json a vocab_size of "
            f"{config['vocab_size']:,}; merge the run again."
        )


def _type_of(name: str, shape: tuple[int, ...], kind: str) -> str:
    """Vectors and norms in 32 bits; rows that are no whole blocks of q8_0 in f16, as llama.cpp."""
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return "f32"
    return "f16" if kind == "q8_0" and shape[-1] % _Q8_BLOCK else kind


def write_gguf(contents: Contents, target: Path, replace: bool, say: Say = lambda _: None) -> int:
    """Writes the file, reads it back, and returns its size in bytes.

    Raises `FtlabError` if the target exists, unless `replace`; if it cannot be written; or if what
    was written is not the source's rounding. Then nothing is left and what was there stays.
    """
    check_target(target, replace)
    check_room(sum(tensor.bytes for tensor in contents.tensors), target.parent, "The file")
    with _beside(target, replace) as temporary:
        say("writing")
        _write(contents, temporary)
        say("reading back")
        check_gguf(contents, temporary)
        size = temporary.stat().st_size
    return size


def check_target(target: Path, replace: bool) -> None:
    if target.is_dir():
        raise FtlabError(f"'{target}' is a folder; name a file in it, as in {target / 'my.gguf'}.")
    if target.exists() and not replace:
        raise FtlabError(f"'{target}' is there already; name another file, or add --replace.")
    if not target.parent.is_dir():
        raise FtlabError(f"The folder '{target.parent}' does not exist; make it first.")


@contextlib.contextmanager
def _beside(target: Path, replace: bool) -> Iterator[Path]:
    """A file in the target's folder, which takes its name at the end and is gone at any error."""
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            check_target(target, replace)
            temporary.chmod(0o644)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise FtlabError(
            f"'{target}' cannot be written ({error.strerror or error}); free some space, or name "
            "a file in a folder that can be written."
        ) from None


def _write(contents: Contents, file: Path) -> None:
    writer = gguf.GGUFWriter(file, contents.architecture)
    for key, value in contents.keys.items():
        _add(writer, key, value)
    if contents.vocabulary is not None:
        _add_vocabulary(writer, contents.vocabulary)
    for tensor in contents.tensors:
        stored = ROUNDINGS[tensor.type].stored
        as_bytes = gguf.quant_shape_to_byte_shape(tensor.shape, stored)
        writer.add_tensor_info(tensor.name, as_bytes, np.dtype(np.uint8), tensor.bytes, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for tensor in contents.tensors:
            writer.write_tensor_data(_rounded(tensor, tensor.make()))
    finally:
        writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.kinds)
    writer.add_token_merges(vocabulary.merges)
    for key, value in (*vocabulary.ids.items(), *vocabulary.flags.items()):
        _add(writer, key, value)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)


def _rounded(tensor: Planned, source: Matrix) -> NDArray[np.uint8]:
    with np.errstate(over="ignore"):  # an infinity is found when the file is read back
        found = gguf.quantize(np.ascontiguousarray(source), ROUNDINGS[tensor.type].stored)
    return found.view(np.uint8)


def check_gguf(contents: Contents, file: Path) -> None:
    """Reads the file back; raises `FtlabError` if anything is missing or not the source's rounding.

    The bound of each value is computed from the source alone, not by rounding it again.
    """
    reader = gguf.GGUFReader(file)
    for key, value in _all_keys(contents).items():
        field = reader.get_field(key)
        found = None if field is None else field.contents()
        if isinstance(value, float):
            value = float(np.float32(value))
        if found != value:
            _differs(file, key)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    if set(stored) != {tensor.name for tensor in contents.tensors}:
        _differs(file, "the list of tensors")
    for tensor in contents.tensors:
        found = stored[tensor.name]
        source = tensor.make()
        values = gguf.dequantize(found.data, found.tensor_type).reshape(tensor.shape)
        if not np.isfinite(source).all():
            raise FtlabError(
                f"{tensor.name} has values that are not finite, so the model cannot answer; run it "
                "again with a lower learning rate."
            )
        if not np.isfinite(values).all():
            raise FtlabError(
                f"{tensor.name} has values beyond 65,504, the largest of f16; add --type bf16 or "
                "--type f32."
            )
        if not (np.abs(values - source) <= _bound(source, tensor.type)).all():
            _differs(file, tensor.name)


def _all_keys(contents: Contents) -> dict[str, Any]:
    keys: dict[str, Any] = {"general.architecture": contents.architecture, **contents.keys}
    vocabulary = contents.vocabulary
    if vocabulary is not None:
        keys |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": vocabulary.pre,
            "tokenizer.ggml.tokens": list(vocabulary.tokens),
            "tokenizer.ggml.token_type": list(vocabulary.kinds),
            "tokenizer.ggml.merges": list(vocabulary.merges),
            "tokenizer.chat_template": vocabulary.chat_template,
        }
        keys |= vocabulary.ids
        keys |= vocabulary.flags
    return keys


def _bound(source: Matrix, kind: str) -> Matrix:
    """How far a stored value may be from its source; shape of the source."""
    if kind == "q8_0":
        blocks = np.abs(source).reshape(-1, _Q8_BLOCK)
        largest = blocks.max(axis=1, keepdims=True)
        bound = np.broadcast_to(largest * _Q8_STEPS + 127 * 2.0**-25, blocks.shape)
        return bound.reshape(source.shape).astype(np.float32)
    rounding = ROUNDINGS[kind]
    return (np.abs(source) * rounding.relative + rounding.absolute).astype(np.float32)


def _differs(file: Path, what: str) -> None:
    raise FtlabError(
        f"{what} does not read back as it was written, so the file was not kept; check the disk of "
        f"'{file.parent}', and export again."
    )
