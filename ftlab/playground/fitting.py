"""Checks by names and shapes whether an adapter's tensors fit a base model, without torch.

The checks follow PEFT: they compare the layers that the configuration names, each layer's tensors
in the weights, and their shapes. Patterns (regular expressions) are not run: they are for the names
in the loaded model, which differ in some files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import did_you_mean, plural, shown_name
from ftlab.methods.dimensions import ModelShape, block_of
from ftlab.methods.peft_rules import Refused, read_object, shown
from ftlab.models.dimensions import shape_of_model
from ftlab.models.files import read_header
from ftlab.models.reference import BUNDLED_ID, model_label, parse_model
from ftlab.models.resolve import ResolvedModel, local_folder

Shape = tuple[int, ...]

PREFIX = "base_model.model."
"""PEFT's prefix of layer names."""

_LAYERED = (
    "LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA", "FOURIERFT", "MISS",
    "C3A", "SHIRA", "RANDLORA", "HIRA",
)  # fmt: skip
"""Adapter kinds that have their own tensors for each adapted layer."""

_SOFT_TOKENS = ("PROMPT_TUNING", "P_TUNING", "CPT")

_SIDES = {
    "lora_A": "ri", "lora_B": "or", "lora_A.weight": "ri", "lora_B.weight": "or",
    "lora_B.bias": "o", "lora_E": "r1", "lora_magnitude_vector": "o",
    "lora_magnitude_vector.weight": "o", "hada_w1_a": "or", "hada_w2_a": "or", "hada_w1_b": "ri",
    "hada_w2_b": "ri", "vera_lambda_b": "o", "vera_lambda_d": "r", "boft_s": "o1", "hra_u": "ir",
    "miss_block": "ro",
}  # fmt: skip
"""Shapes of a linear layer's adapter tensors: o = outputs, i = inputs, r = rank, and 1."""

_SIDES_OF_EMBEDDINGS = {"lora_embedding_A": "ro", "lora_embedding_B": "ir"}
"""The same for an embedding, whose weight is (tokens, width)."""

_EITHER_WAY = ("c_attn", "c_proj", "c_fc")
"""Layers that some models store as (inputs, outputs) and others do not."""

_OWN = ("", "base_layer.", "original_module.", "modules_to_save.", "ln_tuning_layers.")
"""Prefixes of `weight` or `bias` if a tensor has the same shape as the base's tensor."""

_HEADS = ("lm_head", "embed_out", "output")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_PLAIN = re.compile(r"[\w.]+")


@dataclass(frozen=True)
class Tensors:
    """The content of an adapter's two files: its configuration and its tensors' shapes by name."""

    config: Mapping[str, Any]
    shapes: Mapping[str, Shape]


class _Misfit(Exception):
    """The first mismatch, described as a clause."""


def misfit(adapter: Tensors, base: ModelShape) -> str:
    """The first mismatch as a clause, such as "its target_modules name …"; "" if there is none."""
    try:
        _Check(adapter, base).run()
    except _Misfit as found:
        return str(found)
    return ""


@dataclass(frozen=True)
class _Check:
    adapter: Tensors
    base: ModelShape

    def run(self) -> None:
        kind = self.adapter.config.get("peft_type")
        if kind in (*_SOFT_TOKENS, "PREFIX_TUNING"):
            self._check_soft_tokens()
            return
        self._check_names("target_modules")
        self._check_names("modules_to_save")
        self._check_patterns()
        adapted: dict[str, set[str]] = {}
        for key, shape in self.adapter.shapes.items():
            name, tensor = self._place(key)
            if name and not self._is_expert(name):
                self._check_shape(key, name, tensor, shape)
                if not tensor.startswith(_OWN[1:]) and tensor not in ("weight", "bias"):
                    adapted.setdefault(name, set()).add(tensor.removesuffix(".weight"))
        if kind in _LAYERED:
            self._check_layers(set(adapted))
        if kind == "LORA":
            self._check_parts(adapted)

    # ---- soft tokens

    def _check_soft_tokens(self) -> None:
        config, kind = self.adapter.config, self.adapter.config["peft_type"]
        shape = self.adapter.shapes.get("prompt_embeddings")
        if shape is None:
            raise _Misfit("the weights hold no prompt_embeddings, the soft tokens")
        base = self.base
        wanted = base.hidden
        what = f"a token of the model has {wanted:,} numbers"
        if kind == "PREFIX_TUNING":
            wanted = 2 * base.layers * base.key_width
            what = f"keys and values of all layers have {wanted:,} numbers a token"
        if wanted and (len(shape) != 2 or shape[1] != wanted):
            raise _Misfit(f"prompt_embeddings is {_shown(shape)}, and {what}")
        tokens = config.get("num_virtual_tokens")
        if kind != "CPT" and shape[:1] != (tokens,):
            raise _Misfit(f"prompt_embeddings is {_shown(shape)}, and num_virtual_tokens={tokens}")

    # ---- the layers that the configuration names

    def _check_names(self, field: str) -> None:
        """Each name must equal a layer's name or the end of one."""
        for name in self._names(field):
            if self._matches(name):
                continue
            if field != "modules_to_save" or not any(
                module.endswith(name[:80]) for module in self._modules
            ):
                raise _Misfit(
                    f"its {field} name {shown(name)}, and no layer has that name{self._near(name)}"
                )

    def _check_patterns(self) -> None:
        for field in ("rank_pattern", "alpha_pattern"):
            pattern = self.adapter.config.get(field)
            if self.adapter.config.get("peft_type") == "ADALORA" or not isinstance(pattern, dict):
                continue
            for name in pattern:
                if _PLAIN.fullmatch(name) and not self._matches(name):
                    raise _Misfit(
                        f"its {field} names {shown(name)}, and no layer has that name"
                        f"{self._near(name)}"
                    )

    def _check_layers(self, adapted: set[str]) -> None:
        """The layers in the configuration must be exactly those with tensors in the weights."""
        config = self.adapter.config
        targets = config.get("target_modules")
        unknown = self.base.has_experts or config.get("target_parameters")
        unknown = unknown or config.get("layers_pattern") or config.get("trainable_token_indices")
        unknown = unknown or isinstance(config.get("exclude_modules"), str)
        unknown = unknown or config.get("ensure_weight_tying")
        if not isinstance(targets, list) or unknown:
            return
        names = {name for name in targets if isinstance(name, str)}
        wanted = {name for name in self._leaves if self._is_wanted(name, names)}
        missing = sorted(wanted - adapted, key=_in_order)
        if missing:
            raise _Misfit(
                f"its target_modules ask for {len(wanted):,} layers, and the weights hold nothing "
                f"for {len(missing):,} of them, as {missing[0]}"
            )
        over = sorted(adapted - wanted, key=_in_order)
        if over:
            raise _Misfit(f"the weights are for {over[0]} too, which its target_modules exclude")

    def _check_parts(self, adapted: Mapping[str, set[str]]) -> None:
        """Each layer must have both matrices, and the extra tensors of the configuration."""
        config = self.adapter.config
        if any(config.get(f"{name}_config") for name in ("velora", "monteclora")):
            return
        more = {"lora_magnitude_vector"} if config.get("use_dora") else set()
        for name, parts in adapted.items():
            held = {part for part in parts if part.startswith("lora_")}
            if held & {"lora_embedding_A", "lora_embedding_B"}:
                wanted = {"lora_embedding_A", "lora_embedding_B"} | more
            elif held:
                bias = {"lora_B.bias"} if config.get("lora_bias") else set()
                wanted = {"lora_A", "lora_B"} | more | bias
            else:
                continue
            if wanted - held:
                raise _Misfit(f"the weights hold no {min(wanted - held)} for {name}")
            if held - wanted:
                raise _Misfit(
                    f"the weights hold {name}.{min(held - wanted)}, and its configuration asks "
                    "for none (use_dora, lora_bias)"
                )

    def _is_wanted(self, name: str, targets: set[str]) -> bool:
        """Same decision as `check_target_module_exists` in peft/tuners/tuners_utils.py."""
        if not any(end in targets for end in self._ends_of(name)):
            return False
        if any(end in self._excluded for end in self._ends_of(name)):
            return False
        if any(part in self._saved for part in name.split(".")):
            return False
        only = self.adapter.config.get("layers_to_transform")
        if only is None or only == []:
            return True
        return block_of(f".{name}.") in (only if isinstance(only, list) else [only])

    @cached_property
    def _excluded(self) -> set[str]:
        return set(self._names("exclude_modules"))

    @cached_property
    def _saved(self) -> set[str]:
        return set(self._names("modules_to_save"))

    def _names(self, field: str) -> Iterator[str]:
        """Yields the literal names: the items of a list, or a string that is not a pattern."""
        value = self.adapter.config.get(field)
        if isinstance(value, list):
            yield from (name for name in value if isinstance(name, str))
        elif isinstance(value, str) and re.fullmatch(r"\w+", value):
            yield value

    # ---- the tensors

    def _place(self, key: str) -> tuple[str, str]:
        """Splits a tensor's name into its layer ("" if it belongs to no layer) and the rest."""
        if not key.startswith("base_model."):
            raise _Misfit(
                f"the weights hold {shown(key)}, and PEFT's names begin with {PREFIX[:-1]}"
            )
        if ".default." in key:
            raise _Misfit(
                f"the weights hold {shown(key)}, with the name of an adapter in it that "
                "save_pretrained leaves out"
            )
        path = key.removeprefix("base_model.").removeprefix("model.")
        before, experts, rest = path.partition(".experts.")
        if experts and self.base.has_experts:  # the file uses other names for the parent module
            return f"{before}.experts", rest
        parts = path.split(".")
        for first in (0, 1):  # some models' files omit the outermost module
            for last in range(len(parts) - 1, first, -1):
                name = ".".join(parts[first:last])
                if name in self._modules:
                    return self._inner(name, parts[last:], key)
        if len(parts) < 3:
            return "", path  # for example vera_A, which all layers share
        raise _Misfit(
            f"the weights hold {_short(key)}, and the model has no {shown_name(parts[0], 60)}"
        )

    def _inner(self, name: str, rest: list[str], key: str) -> tuple[str, str]:
        """Raises `_Misfit` for a module that only holds others: it has no weight to adapt."""
        inner = len(rest) > 1 and rest[0] not in ("token_adapter", *[o[:-1] for o in _OWN])
        if self._modules[name] is None and inner and not self._is_expert(name):
            known = {m.rpartition(".")[2] for m in self._modules if m.startswith(f"{name}.")}
            near = did_you_mean(rest[0], known).strip()
            raise _Misfit(
                f"the weights hold {_short(key)}, and the model has no layer "
                f"{name}.{shown_name(rest[0], 60)}"
                f"{f' ({near[0].lower()}{near[1:]})' if near else ''}"
            )
        return name, ".".join(rest)

    def _check_shape(self, key: str, name: str, tensor: str, shape: Shape) -> None:
        own = self._modules[name]
        if own is None:
            return
        for before in _OWN:
            if tensor == f"{before}weight" and shape != own:
                raise _Misfit(f"{_short(key)} is {_shown(shape)}, and the base's is {_shown(own)}")
        if len(own) != 2:
            return
        if tensor.endswith("trainable_tokens_delta"):
            fits, what = len(shape) == 2 and shape[1] == own[1], f"a token has {own[1]:,} numbers"
        elif tensor in _SIDES_OF_EMBEDDINGS:
            fits = self._fits(_SIDES_OF_EMBEDDINGS[tensor], shape, own)
            what = f"the embedding is {_shown(own)}"
        else:
            outputs, inputs = self._sizes.get(name, own)
            fits = self._fits_layer(name, tensor, shape, (outputs, inputs))
            what = f"that layer has {inputs:,} inputs and {outputs:,} outputs"
        if not fits:
            raise _Misfit(f"{_short(key)} is {_shown(shape)}, and {what}")
        rank = self._rank_of(name)
        ranked = tensor in ("lora_A.weight", "lora_embedding_A")
        if ranked and rank is not None and shape[:1] not in ((rank,), ()):
            raise _Misfit(f"{_short(key)} has rank {shape[0]:,}, and its r there is {rank:,}")

    def _fits_layer(self, name: str, tensor: str, shape: Shape, own: Shape) -> bool:
        if name.endswith(_EITHER_WAY) and name not in self._sizes:
            return True
        if tensor == "ia3_l":
            return shape in ((own[0], 1), (1, own[1]))
        if tensor == "oft_R.weight" and len(shape) == 2:
            size = (1 + math.isqrt(1 + 8 * shape[1])) // 2  # of a block with shape[1] angles
            return shape[0] == 1 or shape[0] * size == own[1]
        sides = _SIDES.get(tensor)
        return sides is None or self._fits(sides, shape, own)

    @staticmethod
    def _fits(sides: str, shape: Shape, own: Shape) -> bool:
        known = {"o": own[0], "i": own[1], "1": 1}
        return len(shape) == len(sides) and all(
            size == known.get(side, size) for side, size in zip(sides, shape, strict=True)
        )

    def _rank_of(self, name: str) -> int | None:
        """LoRA's rank in that layer; `None` if it depends on a regular expression."""
        config = self.adapter.config
        pattern = config.get("rank_pattern") or {}
        if config.get("peft_type") != "LORA" or not all(map(_PLAIN.fullmatch, pattern)):
            return None
        ends = set(self._ends_of(name))
        found = (rank for key, rank in pattern.items() if key in ends)
        rank = next(found, config.get("r", 8))
        return rank if type(rank) is int else None

    # ---- the base

    @cached_property
    def _modules(self) -> dict[str, Shape | None]:
        """Weight shape by module name; `None` if the module has no weight of its own."""
        found: dict[str, Shape | None] = {}
        for key, shape in self.base.weights.items():
            name, _, last = key.rpartition(".")
            if last == "weight":
                found[name] = shape
            while name:
                found.setdefault(name, None)
                name = name.rpartition(".")[0]
        tied = next((s for n, s in found.items() if n.rpartition(".")[2] in _EMBEDDINGS), None)
        if not any(name.rpartition(".")[2] in _HEADS for name in found):
            found |= dict.fromkeys(_HEADS, tied)
        return found

    @cached_property
    def _sizes(self) -> dict[str, Shape]:
        return {layer.name: (layer.outputs, layer.inputs) for layer in self.base.linears}

    @cached_property
    def _leaves(self) -> list[str]:
        return [name for name, shape in self._modules.items() if shape is not None]

    @cached_property
    def _ends(self) -> set[str]:
        return {end for name in self._modules for end in self._ends_of(name)}

    @staticmethod
    def _ends_of(name: str) -> Iterator[str]:
        """ "a.b.c" -> "a.b.c", "b.c", "c"."""
        while name:
            yield name
            name = name.partition(".")[2]

    def _matches(self, name: str) -> bool:
        return name in self._ends or name.partition(".")[2] in self._ends

    def _near(self, name: str) -> str:
        """The most similar layer name, in brackets."""
        known = {end for end in self._ends if "." not in end and not end.isdigit()}
        near = did_you_mean(name.rpartition(".")[2], known).strip()
        return f" ({near[0].lower()}{near[1:]})" if near else ""

    def _is_expert(self, name: str) -> bool:
        """Experts are not checked: they are one tensor in memory but many in the file."""
        return ".experts" in name or (self.base.has_experts and ".mlp" in f".{name}")


def _short(key: str) -> str:
    return shown_name(key.removeprefix(PREFIX), 120)


def _shown(shape: Shape) -> str:
    return f"({', '.join(f'{size:,}' for size in shape)}{',' if len(shape) == 1 else ''})"


def _in_order(name: str) -> list[tuple[int, str]]:
    """Block 2 before block 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


_MAX_CONFIG_BYTES = 2**20
_KEPT = 200

_Files = tuple[tuple[str, int], ...]


def why_not_on(files: tuple[Path, Path], model: str) -> str | None:
    """The first mismatch of an adapter's files (configuration, weights) with a base, as a clause.

    "" if they fit; `None` if unknown: the base is not on this machine, or a file is missing.
    """
    shape = shape_of_model(model)
    if shape is None:
        return None
    try:
        return _misfit(_stamps(files), shape)
    except (FtlabError, Refused, OSError):
        return None  # attaching the adapter reports the error


def count_tensors(files: tuple[Path, Path]) -> int:
    """Returns the number of the adapter's tensors; 0 if its files cannot be read."""
    try:
        return len(_read(_stamps(files)).shapes)
    except (FtlabError, Refused, OSError):
        return 0


def _stamps(files: tuple[Path, Path]) -> _Files:
    return tuple((str(file), file.stat().st_mtime_ns) for file in files)


@lru_cache(maxsize=_KEPT)
def _misfit(stamps: _Files, base: ModelShape) -> str:
    """`shape_of_model` returns the same `base` while its files are unchanged."""
    return misfit(_read(stamps), base)


@lru_cache(maxsize=64)
def _read(stamps: _Files) -> Tensors:
    """Reads the two files; cached by path and modification time."""
    (config, _), (weights, _) = stamps
    with Path(config).open("rb") as stream:
        found = read_object(stream.read(_MAX_CONFIG_BYTES))
    with Path(weights).open("rb") as stream:
        return Tensors(found, read_header(stream, Path(weights).name).shapes)


def fitting_words(tensors: int, model: str) -> str:
    """A clause such as "its 210 tensors fit SmolLM2-135M-Instruct"."""
    fit = "fits" if tensors == 1 else "fit"
    return f"its {plural(tensors, 'tensor')} {fit} {base_name(model)}"


def base_name(model: str) -> str:
    """The base's name to show: without a local folder path; without the bundled model's owner."""
    return BUNDLED_ID.rpartition("/")[2] if model in ("bundled", BUNDLED_ID) else model_label(model)


def is_the_same(place: str, model: str) -> bool:
    """Whether the folder `place` is the base's folder or holds identical weights.

    The weights are hashed only if the files have the same sizes.
    """
    try:
        here = parse_model(place)
        folder = local_folder(parse_model(model))
        if here.kind != "folder" or folder is None:
            return False
        other = Path(here.name)
        if other.resolve() == folder.resolve():
            return True
        return _sizes(other) == _sizes(folder) and (
            ResolvedModel(here, other).fingerprint() == ResolvedModel(here, folder).fingerprint()
        )
    except (FtlabError, OSError, ValueError):
        return False


def _sizes(folder: Path) -> list[int]:
    return [file.stat().st_size for file in sorted(folder.glob("*.safetensors"))]
