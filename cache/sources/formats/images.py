"""Read still images (PNG, JPEG, TIFF, BMP, WebP) through Pillow.

Pages of TIFF, and pictures of an animated WebP or PNG, are frames.
Grey stays grey; palettes become RGB; transparency is laid over black; deeper samples follow `depth.py`. The orientation
that a camera or scanner recorded is applied, so that depth runs downwards as a viewer shows it. Samples that Pillow
would cut down to 8 bits, or take for others, are decoded by tifffile (`tiff.py`) and imagecodecs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import FileFacts, Reader, over_black
from usjepa.cache.sources.formats.depth import Span, needs_span, span_of, to_uint8
from usjepa.cache.sources.formats.plausible import require_frame, require_room
from usjepa.cache.sources.formats.tiff import Layout, layout_of, samples_of, upright

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
"""Only these decoders are tried: Pillow has dozens, some of which start other programs."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF files begin, the last two with places of 64 bits."""
_FIRST_PAGE_ONLY = "MPO"
"""A kind of JPEG whose further pages are previews, not images of their own."""
_ORIENTATION = 274
"""EXIF tag."""
_COLOUR_MAP = 320
"""Tag of a TIFF's palette."""
_SCALES = {"L;2": 85, "L;4": 17}
"""Pillow's name of how a PNG packs greys -> what it multiplies them by, but not the value that is transparent."""


class ImageReader(Reader):
    """Read still images."""

    name = "images"
    version = 3
    title = "an image"
    endings = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")
    frames_apart = True

    def __init__(self) -> None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = None  # its limit lies below 16,384 x 16,384; `plausible.py` has ours
        self._span: tuple[Path, Span] | None = None
        self._layout: tuple[Path, Layout | None] | None = None
        self._still: tuple[Path, NDArray[Any]] | None = None

    def probe(self, file: Path, image: str = "") -> FileFacts:
        """Decode every page and return the facts; ValueError when pages differ in size."""
        self._layout = self._span = self._still = None
        shapes: list[tuple[int, int]] = []
        for page in _pages(file, self._layout_of(file), None):
            shapes.append((page.shape[0], page.shape[1]))
            # What is probed is looked at next: a still is decoded, and fetched from a slow share, once.
            self._still = (file, page) if len(shapes) == 1 else None
        if len(set(shapes)) > 1:
            odd = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
            raise ValueError(f"page {odd} is {shapes[odd]} pixels, the first {shapes[0]}")
        return FileFacts(len(shapes), *shapes[0])

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted pages in 8 bits."""
        del image
        layout = self._layout_of(file)
        inverted = layout.inverted if layout is not None else frozenset()
        still, self._still = self._still, None
        pages = [still[1]] if still is not None and still[0] == file and list(wanted) == [0] else None
        for number, page in zip(wanted, pages or _pages(file, layout, wanted), strict=True):
            span = self._span_of(file, layout, pages) if needs_span(page.dtype) else None
            yield _over_black(page, span, number in inverted)

    def _layout_of(self, file: Path) -> Layout | None:
        """Return how a TIFF is to be read, remembered for the file that is being read."""
        if self._layout is None or self._layout[0] != file:
            self._layout = (file, _layout(file))
        return self._layout[1]

    def _span_of(self, file: Path, layout: Layout | None, pages: Sequence[NDArray[Any]] | None) -> Span:
        """Return the span of the whole file, remembered for the file that is being read."""
        if self._span is None or self._span[0] != file:
            self._span = (file, span_of(_intensities(page) for page in pages or _pages(file, layout, None)))
        return self._span[1]


def _layout(file: Path) -> Layout | None:
    """Return how a TIFF is to be read, None for other formats."""
    with file.open("rb") as opened:
        return layout_of(file) if opened.read(4) in _TIFF else None


def _intensities(page: NDArray[Any]) -> NDArray[Any]:
    """Return the samples of a page that are not transparency."""
    return page[..., :3] if page.ndim == 3 else page


def _over_black(page: NDArray[Any], span: Span | None, inverted: bool) -> NDArray[np.uint8]:
    """Return a page in 8 bits, where 0 is white inverted, and then what is transparent as black."""
    colour = to_uint8(_intensities(page), span)
    if inverted:
        colour = np.asarray(255 - colour, np.uint8)
    if page.ndim < 3 or page.shape[2] != 4:
        return colour
    alpha = page[..., 3:]
    if alpha.dtype != np.uint8:
        alpha = to_uint8(alpha, Span(0, float(alpha.max())))
    return over_black(np.concatenate([colour, alpha], axis=-1))


def _pages(file: Path, layout: Layout | None, wanted: Sequence[int] | None) -> Iterator[NDArray[Any]]:
    """Yield pages as stored: [H, W], [H, W, 3] or [H, W, 4]; all of them when `wanted` is None."""
    if layout is not None and (layout.deep or layout.stacked):
        every = range(layout.stacked or len(layout.pages))
        yield from samples_of(file, layout, every if wanted is None else wanted)
        return
    # An open file, not its path: Pillow maps uncompressed files that it can find, and scrambles those to be turned.
    with file.open("rb") as opened:
        _require_whole_webp(opened)
        try:
            image = _opened(opened)
        except ValueError:
            if (words := _words_of_jpeg(opened)) is None:
                raise
            yield from (words for _ in (wanted if wanted is not None else [0]))
            return
        places = _places(image) if layout is None else layout.pages
        for place in places if wanted is None else (places[number] for number in wanted):
            safe_point()
            if place:
                image.seek(place)
            if layout is None:  # of a TIFF, all pages were looked at
                require_frame(image.height, image.width)
                require_room(image.height * image.width * len(image.getbands()), file)
            yield _samples(image, opened)


def _places(image: Image.Image) -> range:
    """Return which pages of an opened image are frames; of an animated PNG not the still that others show."""
    count = 1 if image.format == _FIRST_PAGE_ONLY else getattr(image, "n_frames", 1)
    return range(int(count > 1 and bool(getattr(image, "default_image", False))), count)


def _require_whole_webp(file: BinaryIO) -> None:
    """Raise ValueError where a WebP is cut short: the decoder makes up what is missing."""
    head = file.read(12)
    size = file.seek(0, 2)
    file.seek(0)
    declared = 8 + int.from_bytes(head[4:8], "little")
    if head[:4] == b"RIFF" and head[8:] == b"WEBP" and declared > size:
        raise ValueError(f"it is cut short: it should hold {declared:,} bytes and holds {size:,}")


def _words_of_jpeg(file: BinaryIO) -> NDArray[Any] | None:
    """Return the samples of a JPEG of 12 bits, which Pillow does not know; None where a file is no such JPEG."""
    import imagecodecs

    file.seek(0)
    stream = file.read()
    place = next((at for mark in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2") if (at := stream.find(mark)) >= 0), -1)
    frame = stream[place : place + 9]  # marker, length, bits, height, width
    if stream[:3] != b"\xff\xd8\xff" or place < 0 or frame[4:5] != b"\x0c":
        return None
    require_frame(int.from_bytes(frame[5:7], "big"), int.from_bytes(frame[7:9], "big"))
    if stream.rfind(b"\xff\xd9") < stream.find(b"\xff\xda"):  # the decoder would make up what is missing
        raise ValueError("it is cut short: the end of its samples is missing")
    return np.asarray(imagecodecs.jpeg8_decode(stream))


def _opened(file: BinaryIO) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError("its bytes are none of a PNG, JPEG, TIFF, BMP or WebP") from error


def _samples(image: Image.Image, file: BinaryIO) -> NDArray[Any]:
    """Return an opened page's samples, upright; modes that NumPy has no equal for are converted first."""
    from PIL import ImageOps

    bitmap = image.format == "BMP"
    tiles: Any = getattr(image, "tile", ())
    deep = image.format == "PNG" and any("16" in str(tile[3]) for tile in tiles) and not image.mode.startswith("I")
    if deep and getattr(image, "n_frames", 1) == 1:
        return _words_of_png(image, file)
    if image.mode == "P" and image.format == "TIFF":
        _mend_palette(image)
    hidden, scale = image.info.get("transparency"), next((_SCALES.get(str(tile[3]), 1) for tile in tiles), 1)
    image = ImageOps.exif_transpose(image)
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("LA", "La", "PA") or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
        image = image.convert("RGB")
    samples = np.asarray(image)
    if bitmap and image.mode == "RGBA" and not samples[..., 3].any():
        samples = np.ascontiguousarray(samples[..., :3])  # it fills up a word of 32 bits, and was never written
    if hidden is not None and image.mode in ("L", "RGB", "I;16", "I;16B"):
        samples = _hidden_black(samples, np.multiply(hidden, scale))
    # Pillow's big-endian 16-bit mode comes as >u2; the rest of the code expects the machine's own order.
    return samples.astype(samples.dtype.newbyteorder("="), copy=False)


def _mend_palette(image: Image.Image) -> None:
    """Take the colours of a TIFF's palette for bytes where none is larger; some writers forget that they are words."""
    entries = np.asarray(getattr(image, "tag_v2", {}).get(_COLOUR_MAP, ()), np.int64)
    if entries.size and entries.max() < 256:
        image.load()  # what is loaded later brings its own palette
        image.putpalette(entries.reshape(3, -1).T.astype(np.uint8).tobytes())


def _hidden_black(samples: NDArray[Any], hidden: NDArray[Any]) -> NDArray[Any]:
    """Return grey or RGB samples with the one value that is transparent (PNG, tRNS) as black."""
    found = samples == hidden
    return np.where(found.all(axis=-1, keepdims=True) if samples.ndim == 3 else found, 0, samples).astype(samples.dtype)


def _words_of_png(image: Image.Image, file: BinaryIO) -> NDArray[Any]:
    """Return the 16-bit samples of a PNG in colour or with transparency, which Pillow cuts down to their upper byte."""
    import imagecodecs

    image.load()  # checks that it is whole
    file.seek(0)
    words = imagecodecs.png_decode(file.read())
    if words.shape[2] == 2:
        words = words[..., [0, 0, 0, 1]]
    return upright(words, image.getexif().get(_ORIENTATION, 1))
