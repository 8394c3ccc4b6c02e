"""A photo, a filter, and the filter's change as one matrix, approximated at a low rank."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import shown_name
from ftlab.learn.matrices import LowRank, Matrix, decompose

Picture = NDArray[np.float32]

_SEPIA = np.array(
    [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], dtype=np.float32
)
"""The colour matrix that is widely used for sepia."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""Perceived brightness of red, green and blue (ITU-R BT.601)."""


@dataclass(frozen=True)
class PhotoFilter:
    """A filter; `why` explains in one or two sentences how its change looks as a matrix."""

    id: str
    label: str
    why: str
    change: Callable[[Picture], Picture]

    def __call__(self, photo: Picture) -> Picture:
        """Returns the filtered picture, clipped to 0 to 255."""
        return np.clip(self.change(photo), 0, 255).astype(np.float32)


def _sepia(photo: Picture) -> Picture:
    return photo @ _SEPIA.T


def _black_and_white(photo: Picture) -> Picture:
    return np.repeat((photo @ _LUMA)[:, :, None], 3, axis=2)


def _add(colour: Sequence[float], photo: Picture) -> Picture:
    return photo + np.array(colour, dtype=np.float32)


def _window(photo: Picture) -> Picture:
    across = np.linspace(70, -45, photo.shape[1], dtype=np.float32)
    return photo + across[None, :, None] * np.array([1, 0.95, 0.8], dtype=np.float32)


def _contrast(photo: Picture) -> Picture:
    return 128 + 1.5 * (photo - 128)


def _vignette(photo: Picture) -> Picture:
    height, width = photo.shape[:2]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    shade = (1 - 0.75 * ((down**2 + across**2) / 2) ** 1.2).astype(np.float32)
    return photo * shade[:, :, None]


def _blur(photo: Picture) -> Picture:
    return _by_pillow(photo, ImageFilter.GaussianBlur(3))


def _sharpen(photo: Picture) -> Picture:
    return photo + 1.5 * (photo - _by_pillow(photo, ImageFilter.GaussianBlur(1.5)))


def _by_pillow(photo: Picture, effect: ImageFilter.Filter) -> Picture:
    picture = Image.fromarray(np.rint(photo).astype(np.uint8), "RGB")
    return np.asarray(picture.filter(effect), dtype=np.float32)


_ONE = "rank 1. What is missed are pixels that could not become brighter or darker."
_SAME = f"The same amount is added to every pixel, so one row and one column say it all: {_ONE}"
_FINE = "Fine detail is many small differences with nothing in common, so every rank adds a little."

FILTERS: dict[str, PhotoFilter] = {
    f.id: f
    for f in (
        PhotoFilter(
            "sepia",
            "Sepia",
            "The same mix of colours at every pixel. The change follows the photo's own shapes: "
            "the broad ones come with the first ranks, the fine ones late.",
            _sepia,
        ),
        PhotoFilter(
            "warm",
            "Warm",
            _SAME,
            partial(_add, (26, 6, -26)),
        ),
        PhotoFilter(
            "cool",
            "Cool",
            _SAME,
            partial(_add, (-26, 2, 26)),
        ),
        PhotoFilter(
            "window",
            "Light from the left",
            f"Every row of the photo changes in the same way: {_ONE}",
            _window,
        ),
        PhotoFilter(
            "vignette",
            "Dark corners",
            "A smooth shade times the photo itself. The dark edges come first, the detail within "
            "them late.",
            _vignette,
        ),
        PhotoFilter(
            "contrast",
            "More contrast",
            "The change is half the photo again, around middle grey: it is as rich as the photo.",
            _contrast,
        ),
        PhotoFilter(
            "bw",
            "Black and white",
            "What is taken away is the colour, which is smoother than the photo itself.",
            _black_and_white,
        ),
        PhotoFilter("blur", "Blur", f"A bad case for low rank. {_FINE}", _blur),
        PhotoFilter("sharpen", "Sharpen", f"A bad case for low rank. {_FINE}", _sharpen),
    )
}

MAX_SIDE = 300
"""Maximum pixels of a photo's longer side; the SVD of its change then takes about 50 ms."""

MAX_RANK = 64
"""The largest rank on the slider."""

MAX_PIXELS = 50_000_000
"""Maximum pixels of a photo before it is scaled down; more would fill the memory."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Allowed formats. Pillow reads others too, but for some it starts another program (EPS)."""

_NO_PHOTO = "choose a photo as JPEG, PNG, WebP or GIF"
_TOO_LARGE = f"at most {MAX_PIXELS // 10**6} million are read, so scale it down first"

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Filtered:
    """One photo with one filter; both pictures are h x w x 3, float32, 0 to 255.

    `change` is the decomposition of `filtered − original` as a matrix of h x 3w."""

    original: Picture
    filtered: Picture
    change: LowRank

    def laid_over(self, rank: int) -> Bytes:
        """The original plus the change at that rank, h x w x 3 in grey levels."""
        return grey_levels(self.original + as_picture(self.change.product(rank)))

    def mean_error(self, rank: int) -> float:
        """Mean absolute difference to the filtered picture in grey levels (0 to 255), as shown."""
        wanted = grey_levels(self.filtered).astype(np.int16)
        return float(np.abs(self.laid_over(rank).astype(np.int16) - wanted).mean())


def take_apart(original: Picture, filtered: Picture, top: int | None = MAX_RANK) -> Filtered:
    """Decomposes the change between two pictures of the same size; keeps `top` ranks."""
    return Filtered(original, filtered, decompose(as_matrix(filtered - original), top))


def as_matrix(picture: Picture) -> Matrix:
    """h x w x 3 -> h x 3w: all of red, then green, then blue, side by side.

    The column order does not affect the singular values; this order can be viewed as a picture.
    """
    height, width, colours = picture.shape
    return picture.transpose(0, 2, 1).reshape(height, colours * width)


def as_picture(matrix: Matrix) -> Picture:
    """h x 3w -> h x w x 3, the inverse of `as_matrix`."""
    height, columns = matrix.shape
    return matrix.reshape(height, 3, columns // 3).transpose(0, 2, 1)


def grey_levels(picture: Picture) -> Bytes:
    """Rounds and clips to integers from 0 to 255, as a screen shows them."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def read_photo(path: Path) -> Picture:
    """Reads a photo: upright, RGB, scaled down to `MAX_SIDE`; transparent parts become white.

    Raises `FtlabError` if the file is not a readable picture, or is too large.
    """
    name = shown_name(path.name)
    try:
        with warnings.catch_warnings():
            # The check below is stricter than this warning.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise FtlabError(f"'{name}' has {width:,} x {height:,} pixels; {_TOO_LARGE}.")
                image.draft("RGB", (2 * MAX_SIDE, 2 * MAX_SIDE))  # decodes a large JPEG reduced
                image.load()
                upright = ImageOps.exif_transpose(image)
                small = _in_rgb(upright)
    except Image.DecompressionBombError:
        raise FtlabError(f"'{name}' has too many pixels; {_TOO_LARGE}.") from None
    except (OSError, ValueError, SyntaxError, EOFError):
        raise FtlabError(f"'{name}' is no picture that can be read; {_NO_PHOTO}.") from None
    return np.asarray(small, dtype=np.float32)


def shipped_photos(folder: Path, names: Sequence[tuple[str, str]]) -> dict[str, Path]:
    """Maps label to path for each (label, file name) that exists in the folder."""
    found = {label: folder / name for label, name in names}
    return {label: path for label, path in found.items() if path.is_file()}


def _in_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip them at 255
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


LESS, MORE = (39, 119, 224), (215, 96, 42)
"""Blue is negative, orange positive: distinguishable with any colour vision, on light and dark."""

HEAT_SIDES = (128, 480)
"""Maximum rows and columns of a heat map."""


def photo_address(picture: Bytes) -> str:
    """An h x w x 3 picture as a JPEG data URL."""
    # No subsampling: it would blur the colours that a filter changes.
    return _address(Image.fromarray(picture, "RGB"), "jpeg", quality=92, subsampling=0)


def heat_address(matrix: Matrix, scale: float) -> str:
    """A matrix as a transparent PNG data URL: colour is the sign, opacity the size up to `scale`.

    Sides longer than `HEAT_SIDES` are reduced by averaging: more detail would not be visible.
    """
    rows, columns = (min(side, most) for side, most in zip(matrix.shape, HEAT_SIDES, strict=True))
    small = Image.fromarray(matrix).resize((columns, rows), Image.Resampling.BOX)
    strength = np.asarray(small) / scale if scale > 0 else np.zeros((rows, columns))
    levels = np.rint(127.5 + 127.5 * np.clip(strength, -1, 1)).astype(np.uint8)
    image = Image.fromarray(levels, "P")
    image.putpalette(bytes(LESS) * 128 + bytes(MORE) * 128)
    opacity = np.rint(np.abs(2 * np.arange(256) - 255)).astype(np.uint8)
    return _address(image, "png", transparency=opacity.tobytes(), compress_level=1)


def heat_scale(matrix: Matrix) -> float:
    """The 99th percentile of the absolute values, so that a few large ones do not hide the rest."""
    return float(np.percentile(np.abs(matrix), 99)) or float(np.abs(matrix).max())


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
