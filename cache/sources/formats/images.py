"""Read still images (PNG, JPEG, TIFF, BMP) through Pillow; TIFF pages are frames.

Grey stays grey; palettes become RGB; transparency is laid over black; deeper samples follow `depth.py`. The orientation
that a camera or scanner recorded is applied, so that depth runs downwards as a viewer shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.sources.base import FileFacts, Reader, over_black
from usjepa.cache.sources.formats.depth import Span, needs_span, span_of, to_uint8

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
"""Only these decoders are tried: Pillow has dozens, some of which start other programs."""

_FIRST_PAGE_ONLY = {"PNG", "MPO"}
"""Formats whose further pages are animation or (MPO, a kind of JPEG) previews, not images of their own."""


class ImageReader(Reader):
    """Read still images."""

    name = "images"
    version = 1
    title = "an image"
    endings = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

    def __init__(self) -> None:
        self._span: tuple[Path, Span] | None = None

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Decode every page and return the facts; ValueError when pages differ in size."""
        shapes = [page.shape[:2] for page in _pages(file, None)]
        if len(set(shapes)) > 1:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(f"page {odd} is {shapes[odd]} pixels, the first {shapes[0]}")
        for _ in self.frames(file, image, [0]):
            pass  # deeper samples that can't become intensities are found out here, not in the middle of a build
        return FileFacts(len(shapes), *shapes[0])

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted pages in 8 bits."""
        del image
        for page in _pages(file, wanted):
            frame = to_uint8(page, self._span_of(file) if needs_span(page.dtype) else None)
            yield over_black(frame) if frame.ndim == 3 and frame.shape[2] == 4 else frame

    def _span_of(self, file: Path) -> Span:
        """Return the span of the whole file, remembered for the file that is being read."""
        if self._span is None or self._span[0] != file:
            self._span = (file, span_of(_pages(file, None)))
        return self._span[1]


def _pages(file: Path, wanted: Sequence[int] | None) -> Iterator[NDArray[Any]]:
    """Yield pages as stored: [H, W], [H, W, 3] or [H, W, 4]; all of them when `wanted` is None."""
    from PIL import ImageOps

    with _opened(file) as image:
        if wanted is None:
            wanted = range(1 if image.format in _FIRST_PAGE_ONLY else getattr(image, "n_frames", 1))
        for number in wanted:
            if number:
                image.seek(number)
            yield _samples(ImageOps.exif_transpose(image))


def _opened(file: Path) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError("its bytes are none of a PNG, JPEG, TIFF or BMP") from error


def _samples(image: Image.Image) -> NDArray[Any]:
    """Return an opened page's samples; modes that NumPy has no equal for are converted first."""
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("LA", "La", "PA") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    samples = np.asarray(image)
    # Pillow's big-endian 16-bit mode comes as >u2; the rest of the code expects the machine's own order.
    return samples.astype(samples.dtype.newbyteorder("="), copy=False)
