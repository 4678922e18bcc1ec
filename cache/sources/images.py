"""Reader of still images: png, jpg, tif and bmp; the pages of a TIFF are its frames.

Grey stays grey; palettes become RGB; transparency is laid over black; deeper samples follow `depth.py`. The orientation
that a camera or scanner recorded is applied, so that depth runs downwards as a viewer shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from usjepa.cache.sources.base import FileFacts, over_black, reading, require_ascending, unreadable
from usjepa.cache.sources.depth import Span, needs_span, span_of, to_uint8

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_KIND = "an image"
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
"""Only these decoders are tried: Pillow knows dozens, some of which start other programs."""

_FIRST_PAGE_ONLY = {"PNG", "MPO"}
"""Formats whose further pages are animation or (MPO, a kind of JPEG) previews, not images of their own."""


class ImageReader:
    """Reads still images through Pillow."""

    name = "images"
    version = 1

    def __init__(self) -> None:
        self._span: tuple[Path, Span] | None = None

    def probe(self, path: Path) -> FileFacts:
        """Decode every page and return the facts; SourceError when that fails or pages differ in size."""
        shapes = [page.shape[:2] for page in self._pages(path, None)]
        if len(set(shapes)) > 1:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise unreadable(path, _KIND, f"page {odd} is {shapes[odd]} pixels, the first {shapes[0]}")
        for _ in self.frames(path, [0]):
            pass  # deeper samples that can't become intensities are found out here, not in the middle of a build
        return FileFacts(len(shapes), *shapes[0])

    def frames(self, path: Path, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted pages in 8 bits."""
        require_ascending(path, wanted)
        for page in self._pages(path, wanted):
            span = self._span_of(path) if needs_span(page.dtype) else None
            with reading(path, _KIND):
                frame = to_uint8(page, span)
            yield over_black(frame) if frame.ndim == 3 and frame.shape[2] == 4 else frame

    def _pages(self, path: Path, wanted: Sequence[int] | None) -> Iterator[NDArray[Any]]:
        """Yield pages as stored: [H, W], [H, W, 3] or [H, W, 4]; all of them when `wanted` is None."""
        with reading(path, _KIND), _opened(path) as image:
            if wanted is None:
                wanted = range(1 if image.format in _FIRST_PAGE_ONLY else getattr(image, "n_frames", 1))
            for number in wanted:
                if number:
                    image.seek(number)
                yield _samples(ImageOps.exif_transpose(image))

    def _span_of(self, path: Path) -> Span:
        """Return the span of the whole file, remembered for the file that is being read."""
        if self._span is None or self._span[0] != path:
            with reading(path, _KIND):
                self._span = (path, span_of(self._pages(path, None)))
        return self._span[1]


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise unreadable(path, _KIND, "its bytes are none of a PNG, JPEG, TIFF or BMP") from error


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
