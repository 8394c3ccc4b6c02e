"""Reads and checks the two files of an uploaded adapter, without PEFT.

Archives are not unpacked: both files are opened as streams, and the caller chooses the names under
which it saves them. Links are never followed, pickles are never opened.

An upload is untrusted. Its configuration must name a kind of adapter that can answer alone. It must
not name code to import, and must not change or replace the base model.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import did_you_mean, plural, shown_name
from ftlab.methods.peft_rules import (
    CANNOT_ANSWER,
    WAY_OUT,
    Refused,
    base_changes,
    foreign_part,
    read_object,
    shown,
    unknown_type,
    wrong_pattern,
)
from ftlab.methods.registry import METHODS
from ftlab.models.bundled import bundled_folder
from ftlab.models.files import Header
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE

MAX_BYTES = {CONFIG_FILE: 2**20, WEIGHTS_FILE: 2 * 2**30}
"""Maximum size of each file."""

OpenFile = Callable[[str], BinaryIO]

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_FULL_MODEL = ("config.json", "model.safetensors", "model.safetensors.index.json")
_UNPACKABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others can ask for gigabytes of memory
_MAX_ENTRIES_BYTES = 2**20
_ENCRYPTED = 0x1  # bit of an entry's flags
SMALL_BYTES = 2**24  # up to this size an entry may have any compression ratio
MOST_TIMES = 50  # maximum ratio above that size; trained weights hardly compress


@contextmanager
def adapter_files(source: Path) -> Iterator[OpenFile]:
    """Yields `open_file(name)`, for `CONFIG_FILE` and `WEIGHTS_FILE` of a folder or a .zip.

    A stream is never longer than its declared size, and that is at most `MAX_BYTES`; sizes are
    checked before a file is opened. Raises `FtlabError` unless there is exactly one adapter, and
    also for damage found during reading.
    """
    name = shown_name(source.name)
    try:
        mode = source.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "invalid name"
        raise FtlabError(f"There is no adapter at '{name}' ({why}); check the path.") from None
    if stat.S_ISDIR(mode):
        yield _in_folder(source, name)
    elif stat.S_ISREG(mode) and source.suffix.lower() == ".zip":
        with open_zip(source, name) as archive:
            try:
                yield _in_zip(archive, name)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise damaged(name, error) from None
    elif source.suffix.lower() in _PICKLES:
        raise _only_pickle(name)
    else:
        raise FtlabError(
            f"'{name}' is neither a folder nor a .zip; put {CONFIG_FILE} and {WEIGHTS_FILE} into "
            "one and upload that."
        )


def _in_folder(folder: Path, name: str) -> OpenFile:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise _unreadable(name, error) from None
    _check_names(names, name)
    for wanted in MAX_BYTES:
        with suppress(OSError):  # opening the file reports the error
            _check_size(wanted, (folder / wanted).lstat().st_size)

    def open_file(wanted: str) -> BinaryIO:
        path = folder / wanted
        if path.is_symlink():
            raise FtlabError(
                f"{wanted} in '{name}' is a link, and links are not followed; copy the folder with "
                "the files themselves (cp -rL) and upload the copy."
            )
        try:
            # Do not wait for a pipe's writer; do not follow a link created after the check above.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            raise _unreadable(wanted, error) from None
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise FtlabError(f"{wanted} in '{name}' is no file; put the file itself there.")
            _check_size(wanted, found.st_size)
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise

    return open_file


class _EntryReader(io.FileIO):
    """A zip file that limits the size of each read.

    `zipfile` reads the central directory at once and creates an object per entry. A zip with a huge
    number of entries would fill the memory before any entry could be checked.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = _MAX_ENTRIES_BYTES + 1 if size is None or size < 0 else size
        data = super().read(wanted) if wanted <= _MAX_ENTRIES_BYTES + 1 else None
        if data is None or len(data) > _MAX_ENTRIES_BYTES:
            raise zipfile.BadZipFile("its list of entries is too long")
        return data


@contextmanager
def open_zip(source: Path, name: str) -> Iterator[zipfile.ZipFile]:
    try:
        file = _EntryReader(source)
    except OSError as error:
        raise _unreadable(name, error) from None
    with file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise damaged(name, error) from None
        with archive:
            yield archive


def _in_zip(archive: zipfile.ZipFile, name: str) -> OpenFile:
    _check_sizes(archive.infolist(), cast(io.FileIO, archive.fp), name)
    parts = [(_parts(info.filename, name), info) for info in archive.infolist()]
    entries = [
        (path, info) for path, info in parts if not info.is_dir() and path[:1] != ("__MACOSX",)
    ]
    configs = list(dict.fromkeys(path for path, _ in entries if path[-1] == CONFIG_FILE))
    if len(configs) > 1:
        where = ", ".join(repr("/".join(path)[:60]) for path in configs[:3])
        raise FtlabError(f"'{name}' holds several adapters ({where}); zip one of them alone.")
    if not configs:
        _check_names([path[-1] for path, _ in entries], name)
    parent = configs[0][:-1]
    if len(parent) > 1:
        raise FtlabError(
            f"The adapter in '{name}' is {len(parent)} folders deep; zip its own folder alone."
        )
    _check_names([path[-1] for path, _ in entries if path[:-1] == parent], name)

    def open_file(wanted: str) -> BinaryIO:
        found = [info for path, info in entries if path == (*parent, wanted)]
        if len(found) > 1:
            raise FtlabError(f"'{name}' holds {wanted} twice; zip the folder again.")
        check_entry(found[0], wanted, name)
        try:
            return cast(BinaryIO, archive.open(found[0]))
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            raise damaged(name, error) from None

    return open_file


def _check_sizes(entries: Collection[zipfile.ZipInfo], file: io.FileIO, name: str) -> None:
    """Checks sizes by the zip's central directory only; no entry is decompressed."""
    for info in entries:
        wanted = re.split(r"[/\\]", info.filename)[-1]
        if wanted not in MAX_BYTES:
            continue
        _check_size(wanted, info.file_size)
        if info.file_size > max(SMALL_BYTES, MOST_TIMES * info.compress_size):
            raise FtlabError(
                f"{wanted} in '{name}' unpacks to {info.file_size:,} bytes out of "
                f"{info.compress_size:,}, as no trained adapter does; zip its folder again."
            )
    if sum(info.compress_size for info in entries) > os.fstat(file.fileno()).st_size:
        raise FtlabError(
            f"The entries of '{name}' declare more bytes than the zip has; zip the folder again."
        )


def _parts(path: str, name: str) -> tuple[str, ...]:
    """Splits a path; raises `FtlabError` if it is empty or leads outside the zip."""
    parts = tuple(part for part in re.split(r"[/\\]", path) if part not in ("", "."))
    if not parts or ".." in parts or re.match(r"[/\\]|[A-Za-z]:", path):
        raise FtlabError(
            f"'{name}' holds {path[:60]!r}, a path outside the zip; zip the adapter's folder again."
        )
    return parts


def check_entry(info: zipfile.ZipInfo, wanted: str, name: str) -> None:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise FtlabError(
            f"{wanted} in '{name}' is a link, not a file; zip the folder again with the files "
            "themselves."
        )
    if info.flag_bits & _ENCRYPTED:
        raise FtlabError(f"'{name}' has a password; zip the folder again without one.")
    if info.compress_type not in _UNPACKABLE:
        raise FtlabError(
            f"The compression of '{name}' is not supported; zip the folder again with 'zip -r'."
        )


def _check_names(names: Collection[str], where: str) -> None:
    """Raises `FtlabError` with a fitting explanation if the adapter's two files are not there."""
    if CONFIG_FILE not in names:
        if any(name in names for name in _FULL_MODEL):
            raise FtlabError(
                f"'{where}' holds a full model, not an adapter: there is no {CONFIG_FILE}; choose "
                "it as the base model instead."
            )
        inner = next((name for name in sorted(names) if name.lower().endswith(".zip")), "")
        if inner:
            raise FtlabError(
                f"'{where}' holds no {CONFIG_FILE} but '{shown_name(inner)}'; upload that zip."
            )
        raise FtlabError(
            f"'{where}' holds no {CONFIG_FILE}, so it is no PEFT adapter; upload the folder that "
            "save_pretrained wrote."
        )
    if WEIGHTS_FILE not in names:
        if any(name.lower().endswith(_PICKLES) for name in names):
            raise _only_pickle(where)
        if any(re.fullmatch(r"adapter_model-\d+-of-\d+\.safetensors", name) for name in names):
            raise FtlabError(
                f"'{where}' has its weights in several files, which PEFT does not read; join them "
                f"into one {WEIGHTS_FILE}."
            )
        raise FtlabError(
            f"'{where}' holds {CONFIG_FILE} but no {WEIGHTS_FILE}; put the weights beside it."
        )


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES[name]:
        raise FtlabError(
            f"{name} has {size:,} bytes; at most {MAX_BYTES[name]:,} are accepted, so upload a "
            "smaller adapter."
        )


def _only_pickle(where: str) -> FtlabError:
    return FtlabError(
        f"'{where}' has its weights in a pickle only. Pickle files can run code when they are "
        "opened and are never read; save it again with safe_serialization=True."
    )


def damaged(name: str, error: Exception) -> FtlabError:
    why = " ".join(str(error).split())[:80] or "it ends too early"
    return FtlabError(f"'{name}' is damaged or no zip ({why}); make it or download it again.")


def _unreadable(name: str, error: OSError) -> FtlabError:
    return FtlabError(f"'{name}' cannot be read ({error.strerror}); make it readable.")


MAX_NAME_CHARACTERS = 200

_WAYS_OUT = {
    "init_lora_weights": "save it converted to plain LoRA (save_pretrained with "
    "path_initial_model_for_weight_conversion) and upload that",
    "loftq": "upload a LoRA trained on the published weights",
    "kasa_config": "upload a plain LoRA",
    "layer_replication": "upload one without",
    "bias": "upload an adapter trained with bias='none'",
}

_SOFT = ("PROMPT_TUNING", "P_TUNING")
_PATH = re.compile(r"[/~.\\]|[A-Za-z]:[/\\]|\w+://")
_HUB_CACHE = re.compile(r"models--([\w.-]+)[/\\]snapshots\b")
_GENERATING_CLASS = re.compile(r"\w+(ForCausalLM|LMHeadModel|ForConditionalGeneration)")


@dataclass(frozen=True)
class AdapterFacts:
    """The facts that are read from an adapter's configuration.

    `model` is the base's public name, `place` the base's folder path ("": it was given by name),
    `method` a method of the registry or PEFT's type in lower case. `rank` is LoRA's largest rank,
    `tokens` the token count of a prompt method (`None`: not applicable). `variant` is the method id
    of a special kind of LoRA, "dora" or "rslora"; else "".
    """

    peft_type: str
    model: str
    rank: int | None = None
    tokens: int | None = None
    place: str = ""
    variant: str = ""

    @property
    def method(self) -> str:
        """The method id: for methods that PEFT has too, PEFT's type in lower case."""
        return self.variant or self.peft_type.lower()

    @property
    def kind(self) -> str:
        """The name to show: the method's label, or PEFT's type if it has none."""
        return METHODS[self.method].label if self.method in METHODS else self.peft_type

    @property
    def summary(self) -> str:
        """A short description such as "LoRA r=8"."""
        if self.rank is not None:
            return f"{self.kind} r={self.rank}"
        return self.kind if self.tokens is None else f"{self.kind} {self.tokens} tokens"

    def describe(self, ranks: Sequence[int]) -> str:
        """The summary, with the ranks if layers differ: "LoRA rank 8, 2 layers at 4".

        `ranks` has one number per adapted layer. The most frequent rank comes first.
        """
        counted = Counter(ranks).most_common()
        if self.rank is None or len(counted) < 2:
            return self.summary
        (most, _), *others = counted
        shown = [f"{plural(number, 'layer')} at {rank}" for rank, number in others[:3]]
        more = sum(number for _, number in others[3:])
        shown += [f"{plural(more, 'layer')} at others"] if more else []
        return f"{self.kind} rank {most}, {', '.join(shown)}"


def check_config(data: bytes) -> AdapterFacts:
    """Returns the adapter's facts; raises `FtlabError` with the first reason if it is unusable."""
    try:
        config = read_object(data)
    except Refused as error:
        _refuse(error.what, "save the adapter again")
    peft_type = _peft_type(config)
    _check_task(config)
    foreign = foreign_part(config)
    if foreign:
        _refuse(foreign, "upload an adapter that PEFT knows and that needs no other file")
    for field, what in base_changes(config):  # all panes share one base
        loftq = str(config.get(field)).lower().startswith("loftq")
        _refuse(what, _WAYS_OUT["loftq" if loftq else field])
    wrong = wrong_pattern(config)
    if wrong:
        _refuse(wrong, WAY_OUT)
    model, tokens = _base_model(config), "num_virtual_tokens"
    return AdapterFacts(
        peft_type=peft_type,
        model=model,
        place=_place(config, model),
        variant=_variant(config) if peft_type == "LORA" else "",
        rank=_rank(config) if peft_type == "LORA" else None,
        tokens=_whole(config.get(tokens), tokens) if peft_type in _SOFT else None,
    )


def public_name(model: str) -> str:
    """Returns a base model's name without its local path: a path is reduced to its last part.

    Hub ids are unchanged. A folder of the Hub's cache becomes its Hub id. The folder in which ftlab
    keeps the bundled model becomes that model's id.
    """
    cached = _HUB_CACHE.search(model)
    if cached:
        return cached[1].replace("--", "/", 1)
    parts = [part for part in re.split(r"[/\\]", model) if part.strip(" .~")]
    if parts and parts[-1] == bundled_folder().name:
        return BUNDLED_ID
    if _PATH.match(model) or len(parts) > 2:
        return parts[-1] if parts else ""
    return "/".join(parts)


def _peft_type(config: Mapping[str, Any]) -> str:
    peft_type = config.get("peft_type")
    unknown = unknown_type(peft_type)
    if unknown:
        _refuse(unknown, "save the adapter again with that version")
    assert isinstance(peft_type, str)
    if peft_type in CANNOT_ANSWER:
        raise FtlabError(
            f"A {peft_type} adapter cannot answer in a pane of its own: "
            f"{CANNOT_ANSWER[peft_type]}; upload another kind, such as LORA."
        )
    return peft_type


def _check_task(config: Mapping[str, Any]) -> None:
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        _refuse(
            f"has the task_type {shown(task)}, and only CAUSAL_LM writes text",
            "upload an adapter of a language model",
        )
    mapping = config.get("auto_mapping")
    if not mapping:
        return
    # Without a task type PEFT stores the base's class here, and would import any library named.
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    name = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if not isinstance(library, str) or not re.fullmatch(r"transformers(\.\w+)*", library):
        _refuse(
            f"asks in auto_mapping to import {shown(library)}, and an adapter's own code is "
            "never run",
            "remove auto_mapping and set task_type to CAUSAL_LM",
        )
    if not isinstance(name, str) or not _GENERATING_CLASS.fullmatch(name):
        _refuse(
            f"was made for {shown(name)} (auto_mapping), which writes no text",
            "upload an adapter of a language model",
        )


def _base_model(config: Mapping[str, Any]) -> str:
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named.strip():
        _refuse(
            "does not say which model it was trained on",
            "write the model's id into base_model_name_or_path",
        )
    model = public_name(named.strip())
    if not model or len(model) > MAX_NAME_CHARACTERS or not model.isprintable():
        _refuse(
            f"names no model in base_model_name_or_path ({shown(model)})",
            "write the model's id there",
        )
    return model


def _place(config: Mapping[str, Any], model: str) -> str:
    """The base's folder path if the public name is only its last part; else ""."""
    named = str(config.get("base_model_name_or_path")).strip()
    is_cached = model == BUNDLED_ID or _HUB_CACHE.search(named)
    return "" if is_cached or named.rstrip("/") == model else named


def _variant(config: Mapping[str, Any]) -> str:
    """The id of the LoRA variant whose feature is switched on; "" for plain LoRA."""
    features = {
        method.peft_traits.feature: method.id
        for method in METHODS.values()
        if method.peft_traits is not None and method.quantises is None
    }
    return next((features[name] for name in sorted(features) if name and config.get(name)), "")


def _rank(config: Mapping[str, Any]) -> int:
    pattern = config.get("rank_pattern") or {}
    if not isinstance(pattern, dict):
        _refuse("has a rank_pattern that is no object", "save the adapter again")
    rank = _whole(config.get("r", 8), "r")
    return max([rank, *(_whole(value, "rank_pattern") for value in pattern.values())])


def _whole(value: Any, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        _refuse(f"has {key}={shown(value)}, which is no whole number above 0", "save it again")
    return value


def _refuse(what: str, way_out: str) -> NoReturn:
    raise FtlabError(f"adapter_config.json {what}; {way_out}.") from None


_FIELDS = """
    ab_svd_init act_fn adapter_layers adapter_len adapters alora_invocation_tokens alpha
    alpha_pattern apply_GS arrow_config asa_importance_beta asa_schedule_exponent
    asa_target_subspaces asa_uncertainty_beta auto_mapping auxiliary_loss_weight
    base_model_name_or_path beta1 beta2 bias block_share block_size block_size_pattern
    boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor cayley_neumann_eps coft
    config_A_B config_C config_D_E corda_config cpt_mask cpt_token_ids cpt_tokens_type_mask
    d_initial decompose_both decompose_factor decomposition_method deft_dropout delora_lambda
    deltaT depth effective_rank enable_softmax enable_softmax_topk encoder_dropout
    encoder_hidden_size encoder_num_layers encoder_reparameterization_type ensure_weight_tying
    eps eva_config exclude_modules fan_in_fan_out feedforward_modules final_warmup frod_dropout
    generator_seed global_scaling_weight gralora_dropout gralora_k group_size hidden_size
    hira_dropout hybrid_r inference_mode init_ia3_weights init_logits_std init_lora_weights
    init_r init_scale init_theta_d_bound init_v_bound init_vector_bank_bound init_warmup
    init_weights kasa_config lambda_pattern layer_replication layers_pattern layers_to_transform
    layerwise_scalings loftq_config lora_alpha lora_bias lora_dropout lora_ga_config
    mask_interval mask_type megatron_config megatron_core mini_r miss_dropout module_dropout
    modules_to_save monteclora_config n_frequency n_frequency_pattern n_skills n_splits n_tasks
    num_B num_attention_heads num_cayley_neumann_terms num_frozen_tokens num_layers num_ranks
    num_subspaces num_tasks num_transformer_submodules num_vectors num_virtual_tokens
    oft_block_size opt_loss_decay_factor opt_projection_epsilon opt_projection_format_epsilon
    opt_weighted_loss_type orth_reg_weight para peft_type peft_version poly_type
    prefix_projection progressbar proj_seed projection_prng_key projection_seed
    prompt_tuning_init prompt_tuning_init_state_dict_path prompt_tuning_init_task
    prompt_tuning_init_text proportional_parameters psoft_alpha psoft_dropout psoft_mag_a
    psoft_mag_b psoft_orth psoft_svd psoft_svd_lowrank_niter pvera_dropout qalora_group_size r
    randlora_alpha randlora_dropout random_loc_seed random_seed rank_dropout rank_dropout_scale
    rank_pattern regularization_alpha revision runtime_config runtime_offload_base_weight
    sample_at_inference save_indices save_only_topk_weights save_precomputed_indices
    save_projection scaling scaling_pass_value select_top shadow_alpha shadow_dropout
    shadow_hidden_size shadow_intermediate_size shadow_model shadow_num_attention_heads
    shadow_num_hidden_layers share_embeddings softmax_temperature sparse sparse_rate sparsity
    stride_A subspace_rank svd_threshold target_modules target_parameters target_r
    target_svd_config task_type tfinal theta_d_length tinit tinylora_dropout token_dim
    token_indices tokenizer_kwargs tokenizer_name_or_path top_k_lora topk total_step
    trainable_token_indices u unilora_dropout update_hidden_size use_asa use_bdlora
    use_cayley_neumann use_dora use_dynamic_rank use_effective_conv2d use_idwt use_qalora
    use_rslora use_trainable_adapters variant vblora_dropout vector_length velora_config
    vera_dropout very_sparse wavelet_family weight_tying xlora_depth xlora_dropout_p xlora_size
"""

KEYS = frozenset(_FIELDS.split())
"""The fields of all configurations of PEFT 0.21. A field of another adapter kind does no harm."""


def unknown_key(config: Mapping[str, Any]) -> str:
    """Describes the first key that PEFT does not know, as a part of a sentence; "" if none.

    An unknown key with an empty value is accepted: it is a default of another PEFT version.
    """
    for key, value in config.items():
        if key not in KEYS and value not in (None, False, "", [], {}):
            return (
                f"has the key {shown(key)}, which PEFT 0.21 does not know and ignores."
                f"{did_you_mean(key, KEYS)}"
            )
    return ""


_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""Integer type and exponent bits by dtype; only NaN and infinity have all exponent bits set."""

_BYTES_AT_ONCE = 2**24


def no_numbers(file: Path, header: Header) -> str:
    """Returns the name of the first tensor that contains NaN or infinity; "" if none does."""
    import numpy as np

    with file.open("rb") as stream:
        for name, dtype, start, length in _tensors(header):
            kind, exponent = _EXPONENTS[dtype]
            stream.seek(start)
            while length:
                data = stream.read(min(length, _BYTES_AT_ONCE))
                if not data:
                    return ""
                length -= len(data)
                if ((np.frombuffer(data, kind) & exponent) == exponent).any():
                    return name
    return ""


def _tensors(header: Header) -> Iterator[tuple[str, str, int, int]]:
    """Yields `(name, dtype, file offset, bytes)` of each float tensor that is not empty."""
    for name, entry in json.loads(header.raw[8:]).items():
        if name != "__metadata__" and entry["dtype"] in _EXPONENTS and math.prod(entry["shape"]):
            begin, end = entry["data_offsets"]
            yield name, entry["dtype"], len(header.raw) + begin, end - begin
