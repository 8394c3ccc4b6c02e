"""Reads and compares weight matrices of a base and its fine-tunings, with numpy only.

Hu et al. 2021 (arXiv 2106.09685): a frozen W of shape (out, in) becomes W + s·B·A, with A of (r,
in), B of (out, r) and s = alpha / r, or alpha / sqrt(r) in rsLoRA (arXiv 2312.03732).

The first r terms of a matrix's singular value decomposition are its best approximation of rank r in
the Frobenius norm (Eckart & Young 1936, doi:10.1007/BF02288367).

numpy has no bfloat16. Its bits, shifted left by 16, are those of the float32 with the same value.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ftlab.basics.errors import FtlabError
from ftlab.models.bundled import bundled_folder, is_fetched
from ftlab.models.files import DTYPE_BYTES, read_header
from ftlab.models.reference import model_label, parse_model
from ftlab.playground.adapter_files import check_config
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE
from ftlab.settings.training import DtypePolicy, Optimizer

Matrix = NDArray[np.float32]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class LowRank:
    """The first k terms of the SVD of an m x n matrix, and all its min(m, n) singular values.

    `left` is m x k, `right` is k x n; `values` are in descending order.
    """

    left: Matrix
    values: Values
    right: Matrix

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def top(self) -> int:
        """The largest available rank."""
        return self.left.shape[1]

    def factors(self, rank: int) -> tuple[Matrix, Matrix]:
        """B (m x rank) and A (rank x n); each contains the square roots of the singular values."""
        root = np.sqrt(self.values[:rank]).astype(np.float32)
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]

    def product(self, rank: int) -> Matrix:
        """B·A (m x n), the best approximation of that rank."""
        b, a = self.factors(rank)
        return b @ a


def decompose(matrix: Matrix, top: int | None = None) -> LowRank:
    """Computes the SVD of a matrix and keeps its first `top` terms (`None`: all)."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return LowRank(left[:, :top].copy(), values.astype(np.float64), right[:top].copy())


def energies(values: Values) -> Values:
    """Each singular value's share of the squared Frobenius norm; all 0 for a zero matrix."""
    squares = np.square(values, dtype=np.float64)
    total = float(squares.sum())
    return squares / total if total > 0 else np.zeros_like(squares)


def kept(values: Values, rank: int) -> float:
    """Share of the energy (squared Frobenius norm) in the first `rank` terms; 1 for no change."""
    return float(energies(values)[:rank].sum()) if values.any() else 1.0


def missed(values: Values, rank: int) -> float:
    """Relative error of the best approximation of that rank: ‖X − B·A‖ / ‖X‖, Frobenius norms.

    By Eckart & Young ‖X − B·A‖ is the root of the sum of the squared omitted singular values.
    """
    return float(np.sqrt(energies(values)[rank:].sum()))


def rank_for(values: Values, share: float) -> int:
    """The smallest number of terms with that share (0 to 1) of the energy; 0 for a zero matrix."""
    if not values.any():
        return 0
    reached = np.cumsum(energies(values)) >= share * (1 - 1e-9)
    return int(np.argmax(reached)) + 1 if reached.any() else len(values)


def effective_rank(values: Values) -> float:
    """The effective rank of a matrix, a number between 1 and its rank; 0 for a zero matrix.

    exp of the entropy of the singular values divided by their sum (Roy & Vetterli 2007, "The
    effective rank", EUSIPCO).
    """
    total = float(values.sum())
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def product_values(b: Matrix, a: Matrix) -> Values:
    """Singular values of B·A (m x r times r x n), computed without forming the m x n product.

    B = Q₁R₁ and Aᵀ = Q₂R₂ with orthonormal Q, so B·A has the singular values of R₁R₂ᵀ.
    """
    left: Values = np.asarray(np.linalg.qr(b.astype(np.float64), mode="r"))
    right: Values = np.asarray(np.linalg.qr(a.T.astype(np.float64), mode="r"))
    return np.linalg.svdvals(left @ right.T)


def stored(shape: tuple[int, int], rank: int) -> int:
    """Count of numbers in B and A of an m x n matrix: r(m + n)."""
    return rank * sum(shape)


_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Entry:
    """A tensor's location: its data begins at byte `offset` of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Tensors:
    """The tensors of one file or of all shards of a model; each is read only on request."""

    place: Path
    entries: Mapping[str, Entry]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)

    def entry(self, name: str) -> Entry:
        """Returns a tensor's entry; raises `FtlabError` with some known names if it is unknown."""
        if name not in self.entries:
            some = ", ".join(list(self.entries)[:3])
            raise FtlabError(
                f"'{self.place.name}' holds no tensor '{name[:120]}'; it has {len(self.entries)}, "
                f"such as {some}."
            )
        return self.entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entry(name).shape

    def read(self, name: str) -> NDArray[np.float32]:
        """Returns a copy of the whole tensor; raises `FtlabError` if not F32, F16 or BF16."""
        return _to_float32(self._mapped(name))

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Returns rows `start` to `stop` (exclusive); reads only these rows from the disk."""
        return _to_float32(self._mapped(name)[start:stop])

    def _mapped(self, name: str) -> NDArray[np.generic]:
        entry = self.entry(name)
        if entry.dtype not in _STORED:
            raise FtlabError(
                f"The tensor '{name[:120]}' of '{entry.path.name}' is of {entry.dtype}; only "
                f"{', '.join(_STORED)} are read, so save the weights in one of them."
            )
        dtype = np.dtype(_STORED[entry.dtype])
        if 0 in entry.shape:
            return np.zeros(entry.shape, dtype)  # an empty tensor cannot be mapped
        try:
            return np.memmap(entry.path, dtype, "r", entry.offset, entry.shape)
        except (OSError, ValueError) as error:
            raise FtlabError(f"'{entry.path.name}' cannot be read ({error}).") from None


def open_tensors(place: Path) -> Tensors:
    """Opens the tensors of a .safetensors file, or of all such files in a folder.

    Raises `FtlabError` if there are none, or a file is not a complete safetensors file.
    """
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    if not files:
        raise FtlabError(f"The folder '{place.name}' holds no .safetensors file; run it again.")
    entries: dict[str, Entry] = {}
    for file in files:
        entries |= _entries(file)
    return Tensors(place, entries)


def _entries(file: Path) -> dict[str, Entry]:
    try:
        with file.open("rb") as stream:
            header = read_header(stream, file.name)
        size = file.stat().st_size
    except OSError as error:
        raise FtlabError(f"'{file.name}' cannot be read ({error.strerror}).") from None
    if size < header.file_bytes:
        raise FtlabError(
            f"'{file.name}' is cut off: {size:,} of {header.file_bytes:,} bytes are there; copy it "
            "again."
        )
    described = json.loads(header.raw[8:])
    return {
        name: Entry(
            file,
            described[name]["dtype"],
            shape,
            len(header.raw) + described[name]["data_offsets"][0],
        )
        for name, shape in header.shapes.items()
    }


def _to_float32(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.array(stored, np.float32)


_NAME = re.compile(r"[\w.]+")
_PREFIX, _DOWN, _UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

_NOT_PLAIN = (
    "use_dora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out",
    "alora_invocation_tokens", "monteclora_config", "velora_config",
)  # fmt: skip
"""Settings of PEFT's LoraConfig with which the change is not just s·B·A."""


@dataclass(frozen=True)
class LoraPair:
    """The change of one weight matrix: `up` (out, r) times `down` (r, in) times `scale`."""

    down: NDArray[np.float32]
    up: NDArray[np.float32]
    scale: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def change(self) -> NDArray[np.float32]:
        """s·B·A as one matrix, (out, in)."""
        return np.float32(self.scale) * (self.up @ self.down)


@dataclass(frozen=True)
class Lora:
    """A LoRA; `weights` names the base's changed tensors: "model.layers.0.mlp.up_proj.weight"."""

    tensors: Tensors
    config: Mapping[str, Any]
    weights: tuple[str, ...]

    def pair(self, weight: str) -> LoraPair:
        """Reads B and A of a tensor; raises `FtlabError` if missing or if shapes do not match."""
        module = weight.removesuffix(".weight")
        down = self.tensors.read(f"{_PREFIX}{module}{_DOWN}")
        up = self.tensors.read(f"{_PREFIX}{module}{_UP}")
        if down.ndim != 2 or up.ndim != 2 or not down.size or up.shape[1] != down.shape[0]:
            raise FtlabError(
                f"A {down.shape} and B {up.shape} of '{module}' do not fit together; save the "
                "adapter again."
            )
        return LoraPair(down, up, scale_of(module, down.shape[0], self.config))


def scale_of(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """Returns s of the module; raises `FtlabError` if the configured alpha is not a number."""
    alpha = _alpha(module, config)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise FtlabError(
            f"{CONFIG_FILE} has the lora_alpha {str(alpha)[:40]!r}, which is no number; save the "
            "adapter again."
        )
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def open_lora(folder: Path) -> Lora:
    """Opens the LoRA in the folder (PEFT's file format).

    Raises `FtlabError` for another kind of adapter, a variant whose change is not s·B·A, or files
    that are missing or damaged.
    """
    try:
        data = (folder / CONFIG_FILE).read_bytes()
    except OSError as error:
        raise FtlabError(
            f"The adapter has no {CONFIG_FILE} that can be read ({error.strerror}); train it again."
        ) from None
    facts = check_config(data)
    if facts.peft_type != "LORA":
        raise FtlabError(f"This is a {facts.peft_type} adapter; only LoRA is shown here.")
    config = json.loads(data)
    for key in _NOT_PLAIN:
        if config.get(key):
            raise FtlabError(
                f"This LoRA sets {key}, so its change is not s·B·A; choose a plain one."
            )
    tensors = open_tensors(folder / WEIGHTS_FILE)
    weights = tuple(
        name.removeprefix(_PREFIX).removesuffix(_DOWN) + ".weight"
        for name in tensors.names
        if name.startswith(_PREFIX) and name.endswith(_DOWN)
    )
    if not weights:
        raise FtlabError(f"{WEIGHTS_FILE} holds no pair of lora_A and lora_B; save it again.")
    return Lora(tensors, config, weights)


def _alpha(module: str, config: Mapping[str, Any]) -> Any:
    """The first value of `alpha_pattern` whose key matches the end of the name, as in PEFT.

    PEFT treats keys as regular expressions. An untrusted one can keep Python busy for ever, so
    only plain names are accepted here; raises `FtlabError` for any other key.
    """
    pattern = config.get("alpha_pattern")
    for key, value in (pattern if isinstance(pattern, dict) else {}).items():
        if not _NAME.fullmatch(key):
            raise FtlabError(
                f"alpha_pattern in {CONFIG_FILE} has the key {key[:40]!r}, a regular expression; "
                "here only module names such as 'q_proj' are read."
            )
        if module == key or module.endswith(f".{key}"):
            return value
    return config.get("lora_alpha", 8)


_LAYER = re.compile(r"(?:.*\.)?(?:layers|h|blocks|layer)\.(\d+)\.(.+)")

OUTSIDE = -1
"""The layer number of a matrix that belongs to no layer, such as the output head."""


@dataclass(frozen=True)
class MatrixChange:
    """ΔW (m x n) of one weight matrix; `values` are its singular values, at most `rank` of them.

    `module` is the matrix's full name in the base model.
    """

    module: str
    shape: tuple[int, int]
    rank: int
    scale: float
    values: Values

    @property
    def layer(self) -> int:
        match = _LAYER.fullmatch(self.module)
        return int(match[1]) if match else OUTSIDE

    @property
    def part(self) -> str:
        """Its name within the layer, such as "q_proj"."""
        match = _LAYER.fullmatch(self.module)
        return (match[2] if match else self.module).rpartition(".")[2]

    @property
    def name(self) -> str:
        """A short name such as "layers.12.q_proj"."""
        return self.part if self.layer == OUTSIDE else f"layers.{self.layer}.{self.part}"

    @property
    def size(self) -> float:
        """Frobenius norm of ΔW."""
        return float(np.sqrt(np.square(self.values).sum()))

    @property
    def effective_rank(self) -> float:
        return effective_rank(self.values)

    @property
    def numbers(self) -> int:
        """Count of numbers in B and A."""
        return stored(self.shape, self.rank)


@dataclass(frozen=True)
class AdapterChange:
    """The matrices that an adapter changes, by layer.

    `number_bytes` is the size of one number in its file. If two matrices of a layer have the same
    name (attention and cross-attention), the second is omitted and counted in `left_out`."""

    matrices: tuple[MatrixChange, ...]
    number_bytes: int = 4
    left_out: int = 0
    rank_stabilised: bool = False

    def find(self, layer: int, part: str) -> MatrixChange:
        """Returns that part of that layer; else the layer's first matrix; else the first of all."""
        same_layer = [m for m in self.matrices if m.layer == layer]
        named = [m for m in same_layer if m.part == part]
        return (named or same_layer or list(self.matrices))[0]

    @property
    def layers(self) -> list[int]:
        return list(dict.fromkeys(m.layer for m in self.matrices))

    def parts(self, layer: int) -> list[str]:
        return [m.part for m in self.matrices if m.layer == layer]


def read_adapter(folder: Path) -> AdapterChange:
    """Reads the change of every matrix that the adapter in that folder changes.

    Raises `FtlabError` if it is not a LoRA, or a file is missing or damaged.
    """
    lora = open_lora(folder)
    matrices = [_matrix(lora, weight) for weight in lora.weights]
    named: dict[tuple[int, str], MatrixChange] = {}
    for matrix in sorted(matrices, key=lambda m: (m.layer == OUTSIDE, m.layer)):
        named.setdefault((matrix.layer, matrix.part), matrix)
    return AdapterChange(
        tuple(named.values()),
        max(DTYPE_BYTES[entry.dtype] for entry in lora.tensors.entries.values()),
        len(matrices) - len(named),
        bool(lora.config.get("use_rslora")),
    )


def _matrix(lora: Lora, weight: str) -> MatrixChange:
    module = weight.removesuffix(".weight")
    pair = lora.pair(weight)
    _check_finite(f"The adapter's B or A of '{module[:80]}'", pair.up, pair.down)
    return MatrixChange(
        module,
        (pair.up.shape[0], pair.down.shape[1]),
        pair.rank,
        pair.scale,
        abs(pair.scale) * product_values(pair.up, pair.down),
    )


def _check_finite(what: str, *arrays: Matrix) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise FtlabError(
            f"{what} has a value that is not finite: its training diverged; choose another run."
        )


MAX_SIDE = 2048
"""Maximum shorter side. The SVD's time grows with its cube; larger matrices would be too slow."""


@dataclass(frozen=True)
class FullChange:
    """All singular values of the change, descending; `bits` per number in the tuned file."""

    values: Values
    bits: int


def full_change(base: Path, tuned: Path, module: str) -> FullChange:
    """Computes the singular values of tuned − base for the weight of one module.

    `base` and `tuned` are folders of safetensors. Only that matrix is read, by memory map. Raises
    `FtlabError` if it is missing in one of them, the shapes differ, or it is too large for an SVD.
    """
    name = f"{module}.weight"
    before, after = open_tensors(base), open_tensors(tuned)
    shape = before.shape(name)
    if after.shape(name) != shape or len(shape) != 2:
        raise FtlabError(
            f"'{module[:80]}' is {_size(shape)} in the base and {_size(after.shape(name))} in the "
            "full fine-tuning, so they are not of one model; choose another run."
        )
    if min(shape) > MAX_SIDE:
        raise FtlabError(
            f"'{module[:80]}' is {_size(shape)}, too large to decompose while you wait (at "
            f"most {MAX_SIDE:,} on its shorter side); choose a smaller matrix."
        )
    change = after.read(name) - before.read(name)
    _check_finite(f"The full fine-tuning's '{module[:80]}'", change)
    values = np.linalg.svdvals(change).astype(np.float64)
    return FullChange(values, 8 * DTYPE_BYTES[after.entry(name).dtype])


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{side:,}" for side in shape)


_AT_ONCE = 2**20  # numbers of a tensor that are in memory as float32 at a time
_DECODER_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_EIGHT_BIT = 1 + 4 / 256  # bitsandbytes: one byte per number, and one float32 per 256 numbers


@dataclass(frozen=True)
class TrainingBytes:
    """Bytes in memory for each trainable weight, from forward pass to the optimizer's step."""

    weight: float
    gradient: float
    first_moment: float
    second_moment: float

    @property
    def total(self) -> float:
        return self.weight + self.gradient + self.first_moment + self.second_moment


def training_bytes(
    policy: DtypePolicy, optimizer: Optimizer = "adamw", adapter: bool = False
) -> TrainingBytes:
    """Bytes by dtype policy: weight, gradient and AdamW's two moments (arXiv 1711.05101).

    Trainable weights are bf16 only in full fine-tuning under `bf16`; adapters always have fp32
    masters. Gradients and torch's moments have the weight's dtype. 8-bit AdamW (arXiv 2110.02861)
    stores a moment in one byte plus its share of a block's scale.
    """
    size = 2.0 if policy == "bf16" and not adapter else 4.0
    moment = size if optimizer == "adamw" else _EIGHT_BIT
    return TrainingBytes(size, size, moment, moment)


def tensor_changes(base: Tensors, tuned: Tensors) -> pd.DataFrame:
    """One row per tensor: `tensor`, `layer` (NaN: none), `numbers`, `changed`, `moved`, `size`.

    `changed` counts the stored numbers that differ at all; `moved` and `size` are the squared
    Frobenius norms of the change and of the base's tensor. At most a few MB of a tensor are in
    memory. Raises `FtlabError` if the shapes differ or there is no common tensor.
    """
    shared = [name for name in base.names if name in tuned.entries]
    if not shared:
        raise FtlabError("The run's model and its base have no tensor in common; train it again.")
    rows = []
    for name in shared:
        if base.shape(name) != tuned.shape(name):
            raise FtlabError(
                f"'{name}' has the shape {tuned.shape(name)} in the run and {base.shape(name)} in "
                "its base model, so they are of different models."
            )
        changed, moved, size, numbers = 0, 0.0, 0.0, 0
        for before, after in _pieces(base, tuned, name):
            change = after - before
            changed += int(np.count_nonzero(change))
            moved += float(np.vdot(change, change))
            size += float(np.vdot(before, before))
            numbers += before.size
        match = _DECODER_LAYER.search(name)
        rows.append([name, int(match[1]) if match else None, numbers, changed, moved, size])
    frame = pd.DataFrame(rows, columns=["tensor", "layer", "numbers", "changed", "moved", "size"])
    return frame.astype({"layer": float})


def layer_changes(tensors: pd.DataFrame) -> pd.DataFrame:
    """One row per part of the model, first to last: `part`, `numbers`, `share`, `relative`.

    `share` is the share of numbers that changed at all; `relative` is the Frobenius norm of the
    change divided by that of the base. Parts: the embeddings, every layer, and all other tensors.
    """
    outside = np.where(tensors["tensor"].str.contains("embed|wte|wpe"), -1.0, np.inf)
    place = tensors["layer"].where(tensors["layer"].notna(), pd.Series(outside, tensors.index))
    sums = tensors.groupby(place)[["numbers", "changed", "moved", "size"]].sum().sort_index()
    parts = {-1.0: "embeddings", np.inf: "last norm"}
    return pd.DataFrame(
        {
            "part": [parts.get(key, f"layer {key:.0f}") for key in sums.index],
            "numbers": sums["numbers"].to_numpy(),
            "share": (sums["changed"] / sums["numbers"]).to_numpy(),
            "relative": np.sqrt(sums["moved"] / sums["size"].where(sums["size"] > 0)).to_numpy(),
        }
    )


def overall(tensors: pd.DataFrame) -> tuple[float, float]:
    """`(share, relative)` of the whole model, as in `layer_changes`."""
    size = float(tensors["size"].sum())
    relative = float(np.sqrt(tensors["moved"].sum() / size)) if size else float("nan")
    return float(tensors["changed"].sum() / tensors["numbers"].sum()), relative


def _pieces(
    base: Tensors, tuned: Tensors, name: str
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    rows, *rest = (*base.shape(name), 1)
    step = max(1, _AT_ONCE // max(1, int(np.prod(rest))))
    for start in range(0, rows, step):
        yield base.rows(name, start, start + step), tuned.rows(name, start, start + step)


FETCH = "The bundled model is not on this machine yet: run `python -m ftlab model` once."

_MATRIX = re.compile(r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+_proj)\.weight")


def base_folder(model: str) -> Path:
    """Returns the folder of a model that is already on this machine; downloads nothing.

    Raises `FtlabError` with a solution if it is not there.
    """
    reference = parse_model(model)
    if reference.kind == "bundled":
        if not is_fetched():
            raise FtlabError(FETCH)
        return bundled_folder()
    if reference.kind == "folder":
        return Path(reference.name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(reference.name, local_files_only=True))
    except Exception:  # the solution is the same for every cache problem
        raise FtlabError(
            f"The weights of '{model_label(reference.name)}' are not on this machine; train on it "
            "once, or choose a run of another model."
        ) from None


def matrices(names: tuple[str, ...]) -> dict[tuple[int, str], str]:
    """Maps (layer, module), such as (12, "q_proj"), to each projection's tensor name, by layer."""
    found = {}
    for name in names:
        match = _MATRIX.fullmatch(name)
        if match:
            found[int(match[1]), match[2]] = name
    return dict(sorted(found.items()))
