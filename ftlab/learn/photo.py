"""A photo, a filter, and the filter's change as one matrix that is cut down to a low rank."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ftlab.errors import FtlabError
from ftlab.learn.filters import Picture
from ftlab.learn.low_rank import LowRank, Matrix, decompose
from ftlab.words import shown_name

MAX_SIDE = 300
"""Pixels of a photo's longer side: its change is then taken apart in about 50 ms."""

MAX_RANK = 64
"""The largest rank on the slider."""

MAX_PIXELS = 50_000_000
"""What a photo may have before it is scaled down; more would fill the memory."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow knows others, some of which start a program of the machine (EPS)."""

_NO_PHOTO = "choose a photo as JPEG, PNG, WebP or GIF"
_TOO_LARGE = f"at most {MAX_PIXELS // 10**6} million are read, so scale it down first"

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Filtered:
    """One photo under one filter: both pictures h x w x 3 of float32 from 0 to 255, and the
    decomposition of `filtered − original` as a matrix of h x 3w."""

    original: Picture
    filtered: Picture
    change: LowRank

    def laid_over(self, rank: int) -> Bytes:
        """The untouched original with the change of that rank on top, h x w x 3 in grey levels."""
        return grey_levels(self.original + as_picture(self.change.product(rank)))

    def mean_error(self, rank: int) -> float:
        """Mean difference to the filtered picture in grey levels (0 to 255), as both are shown."""
        wanted = grey_levels(self.filtered).astype(np.int16)
        return float(np.abs(self.laid_over(rank).astype(np.int16) - wanted).mean())


def take_apart(original: Picture, filtered: Picture, top: int | None = MAX_RANK) -> Filtered:
    """The decomposition of the change between two pictures of one size; `top` ranks are kept."""
    return Filtered(original, filtered, decompose(as_matrix(filtered - original), top))


def as_matrix(picture: Picture) -> Matrix:
    """h x w x 3 -> h x 3w: all of red, then green, then blue, side by side.

    The order of the columns does not matter to singular values; this one can be looked at.
    """
    height, width, colours = picture.shape
    return picture.transpose(0, 2, 1).reshape(height, colours * width)


def as_picture(matrix: Matrix) -> Picture:
    """h x 3w -> h x w x 3, the other way round."""
    height, columns = matrix.shape
    return matrix.reshape(height, 3, columns // 3).transpose(0, 2, 1)


def grey_levels(picture: Picture) -> Bytes:
    """Whole numbers from 0 to 255, as a screen shows them."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def read_photo(path: Path) -> Picture:
    """The photo upright and in RGB, scaled down to `MAX_SIDE`; see-through parts become white.

    Raises `FtlabError` if the file is no picture that can be read, or is too large.
    """
    name = shown_name(path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_check` is stricter
            with Image.open(path, formats=_FORMATS) as image:
                _check(image, name)
                image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))  # a large JPEG is read reduced
                image.load()
                upright = ImageOps.exif_transpose(image)
                small = _in_rgb(upright)
    except Image.DecompressionBombError:
        raise FtlabError(f"'{name}' has too many pixels; {_TOO_LARGE}.") from None
    except (OSError, ValueError, SyntaxError, EOFError):
        raise FtlabError(f"'{name}' is no picture that can be read; {_NO_PHOTO}.") from None
    return np.asarray(small, dtype=np.float32)


def shipped_photos(folder: Path, names: Sequence[tuple[str, str]]) -> dict[str, Path]:
    """Label to path for each (label, file name) that is in the folder."""
    found = {label: folder / name for label, name in names}
    return {label: path for label, path in found.items() if path.is_file()}


def _check(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise FtlabError(f"'{name}' has {width:,} x {height:,} pixels; {_TOO_LARGE}.")


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would cut them at 255
        values = np.asarray(image, dtype=np.float64)
        values = np.nan_to_num(values)
        low, high = min(0.0, float(values.min())), float(values.max())
        levels = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
        image = Image.fromarray(levels.astype(np.uint8), "L")
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    if "A" in image.getbands() or "a" in image.getbands():
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return image.convert("RGB")
