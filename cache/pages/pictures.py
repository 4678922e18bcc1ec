"""Put pictures into a page as data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def png_uri(pixels_HWC: NDArray[np.uint8], edge: int = 224) -> str:
    """Return pixels as the data URI of a PNG, at most `edge` pixels wide and high; the same pixels give the same text.

    Args:
        pixels_HWC: uint8 [height, width], or [height, width, channels] of 1 (grey), 3 (RGB) or 4 (RGBA) channels.
        edge: larger pictures are reduced to it, by the mean of the pixels that become one.
    """
    return _uri(pixels_HWC, edge, "PNG", optimize=True)


def jpeg_uri(pixels_HWC: NDArray[np.uint8], edge: int = 224, quality: int = 80) -> str:
    """Return pixels as the data URI of a JPEG, which is a fifth of a PNG's size for a speckled frame."""
    return _uri(pixels_HWC, edge, "JPEG", quality=quality)


def stored_picture(pixels_CSS: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a store's pixels in the order that pictures have."""
    return np.ascontiguousarray(pixels_CSS.transpose(1, 2, 0))


def _uri(pixels_HWC: NDArray[np.uint8], edge: int, kind: str, **options: int) -> str:
    from PIL import Image

    flat = pixels_HWC[..., 0] if pixels_HWC.ndim == 3 and pixels_HWC.shape[2] == 1 else pixels_HWC
    image = Image.fromarray(np.ascontiguousarray(flat))
    largest = max(image.size)
    if largest > edge:
        size = (max(1, round(image.width * edge / largest)), max(1, round(image.height * edge / largest)))
        image = image.resize(size, Image.Resampling.BOX)
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(sink.getvalue()).decode()
