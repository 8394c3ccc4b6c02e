"""Photo filters: plain functions of an RGB picture, h x w x 3 in float32 from 0 to 255."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Picture = NDArray[np.float32]

_SEPIA = np.array(
    [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], dtype=np.float32
)
"""The mix of red, green and blue that is widely used for sepia."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""How bright red, green and blue look (ITU-R BT.601)."""


@dataclass(frozen=True)
class PhotoFilter:
    """`why` says in a sentence or two what the filter's change is like as a matrix."""

    id: str
    label: str
    why: str
    change: Callable[[Picture], Picture]

    def __call__(self, photo: Picture) -> Picture:
        """The filtered picture, kept within 0 to 255."""
        return np.clip(self.change(photo), 0, 255).astype(np.float32)


def _sepia(photo: Picture) -> Picture:
    return photo @ _SEPIA.T


def _black_and_white(photo: Picture) -> Picture:
    return np.repeat((photo @ _LUMA)[:, :, None], 3, axis=2)


def _warm(photo: Picture) -> Picture:
    return photo + np.array([26, 6, -26], dtype=np.float32)


def _cool(photo: Picture) -> Picture:
    return photo + np.array([-26, 2, 26], dtype=np.float32)


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
            "The same amount is added to every pixel, so one row and one column say it all: rank "
            "1. What is missed are pixels that could not become brighter or darker.",
            _warm,
        ),
        PhotoFilter(
            "cool",
            "Cool",
            "The same amount is added to every pixel, so one row and one column say it all: rank "
            "1. What is missed are pixels that could not become brighter or darker.",
            _cool,
        ),
        PhotoFilter(
            "window",
            "Light from the left",
            "Every row of the photo changes in the same way: rank 1. What is missed are pixels "
            "that could not become brighter or darker.",
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
