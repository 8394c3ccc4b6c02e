"""Pictures and matrices as `data:` addresses, so that moving a slider writes no file."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from ftlab.learn.low_rank import Matrix
from ftlab.learn.photo import Bytes

LESS, MORE = (39, 119, 224), (215, 96, 42)
"""Blue takes away, orange adds: told apart by every kind of colour vision, on light and dark."""


HEAT_SIDES = (128, 480)
"""Most rows and columns of a heat picture."""


def photo_address(picture: Bytes) -> str:
    """An h x w x 3 picture as a JPEG address."""
    # No subsampling: it would blur the very colours that a filter changes.
    return _address(Image.fromarray(picture, "RGB"), "jpeg", quality=92, subsampling=0)


def heat_address(matrix: Matrix, scale: float) -> str:
    """A matrix as a see-through PNG address: colour is the sign, opacity the size up to `scale`.

    Sides longer than `HEAT_SIDES` are averaged down: no more could be seen.
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
    """What 99 % of a matrix's numbers stay below in size; a few large ones would hide the rest."""
    return float(np.percentile(np.abs(matrix), 99)) or float(np.abs(matrix).max())


def _address(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
