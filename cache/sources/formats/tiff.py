"""Read the pages of TIFF files that a plain image library gets wrong, through tifffile.

Which pages are pictures, which are thumbnails or masks of others, and how many pictures one directory holds (a stack
of ImageJ), is asked here for every TIFF. Samples of 8 bits are left to Pillow; all others (words, signed ones, floats)
are decoded here.
"""

from __future__ import annotations

import contextlib
import logging
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.formats.plausible import require_frame, require_room

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from tifffile import TiffFile, TiffPage, TiffPageSeries

_REDUCED, _MASK = 1, 4
"""Bits of NewSubfileType: a smaller version of another page, a page that says what of another is shown."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
"""Values of SampleFormat."""
_PILLOW_READS = {1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32809, 32946, 34676, 34677, 34925, 50000}
"""Values of Compression that libtiff decodes; imagecodecs decodes others, such as JPEG 2000."""
_ASSOCIATED, _UNASSOCIATED = 1, 2
"""Values of ExtraSamples: transparency whose colours are multiplied already, and whose are not."""


class Layout(NamedTuple):
    """How a TIFF is to be read."""

    pages: tuple[int, ...]
    """Directories that hold pictures of their own, in their order."""
    stacked: int
    """Pictures in the only directory of a stack; 0 where each directory holds one."""
    deep: bool
    """Whether its samples are other than unsigned integers of up to 8 bits, or compressed as Pillow can't undo."""
    inverted: frozenset[int]
    """Numbers of the pictures whose 0 is white, in a file that is decoded here."""


def layout_of(file: Path) -> Layout:
    """Return how a TIFF is to be read; ValueError when it is cut short, or its samples are no intensities."""
    with _opened(file) as tiff:
        pages = [_page(tiff, number) for number in range(len(tiff.pages))]
        for page in pages:
            require_frame(page.imagelength, page.imagewidth)
        require_room(max(sum(page.nbytes for page in pages), tiff.series[0].nbytes if len(pages) == 1 else 0), file)
        kept = [number for number, page in enumerate(pages) if not _kind(page) & (_REDUCED | _MASK)]
        kept = kept or list(range(len(pages)))
        shown = [pages[number] for number in kept]
        deep = any(map(_is_deep, shown))
        stacked = _stacked(tiff, shown[0]) if len(pages) == 1 else 0
        if not deep and not stacked:
            return Layout(tuple(kept), 0, False, frozenset())
        for page in shown:
            if page.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB):
                raise ValueError(f"its samples are {page.dtype} of a kind that is not read: {page.photometric!r}")
        white = [page.photometric == _WHITE_IS_ZERO for page in (shown * stacked if stacked else shown)]
        return Layout(tuple(kept), stacked, deep, frozenset(np.flatnonzero(white).tolist()))


def _is_deep(page: TiffPage) -> bool:
    """Return whether Pillow would cut the samples of a page down, take them for others, or not undo their packing."""
    plain = page.bitspersample <= 8 and page.sampleformat in (_UNSIGNED, None, 4)
    veiled = page.photometric == _WHITE_IS_ZERO and page.samplesperpixel > 1  # transparency where 0 is white
    return not plain or veiled or page.compression not in _PILLOW_READS


def samples_of(file: Path, layout: Layout, wanted: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Yield pictures of a file that is deep or a stack, as stored: [H, W], [H, W, 3] or [H, W, 4]."""
    with _opened(file) as tiff:
        if layout.stacked:
            yield from _of_stack(tiff, wanted)
            return
        size = tiff.filehandle.size
        for number in wanted:
            safe_point()
            page = _page(tiff, layout.pages[number])
            ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
            if max(ends, default=0) > size:
                raise ValueError(f"it is cut short: it should hold {max(ends):,} bytes and holds {size:,}")
            yield upright(_colours(page.asarray(), page), _orientation(page))


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[TiffFile]:
    from tifffile import TiffFile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it says on stderr what it forgives
    with TiffFile(file, _multifile=False) as tiff:  # OME names other files, which are sources of their own
        yield tiff


def _page(tiff: TiffFile, number: int) -> TiffPage:
    """Return a directory with all of its tags: tifffile takes those of later ones for those of the first."""
    page: Any = tiff.pages[number]
    whole: TiffPage = page if hasattr(page, "tags") else page.aspage()
    return whole


def _kind(page: TiffPage) -> int:
    """Return NewSubfileType; the older SubfileType has 2 for a smaller version."""
    kind = int(page.subfiletype or 0)
    older = page.tags.get(255)
    return kind | _REDUCED if older is not None and older.value == 2 else kind


def _stacked(tiff: TiffFile, page: TiffPage) -> int:
    """Return how many pictures the only directory stands for, 0 where it is its own."""
    (series, *_) = tiff.series
    count = math.prod(_leading(series)) if math.prod(series.shape) > math.prod(page.shape) else 0
    declared = int((tiff.imagej_metadata or {}).get("images", 1))
    if declared > max(count, 1):  # tifffile then shows the first alone
        raise ValueError(f"it is cut short: it should hold {declared} pictures")
    return count


def _leading(series: TiffPageSeries) -> tuple[int, ...]:
    """Return the axes of a series that count its pictures."""
    colours = series.axes.endswith("S")
    return tuple(series.shape[: -3 if colours else -2])


def _of_stack(tiff: TiffFile, wanted: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Yield pictures of a stack in one directory, which lie one after the other behind the first."""
    series = tiff.series[0]
    shape = tuple(series.shape[len(_leading(series)) :])
    if series.dataoffset is None:
        pictures = series.asarray().reshape(-1, *shape)
        yield from (pictures[number] for number in wanted)
        return
    dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
    nbytes = dtype.itemsize * math.prod(shape)
    whole = series.dataoffset + nbytes * math.prod(_leading(series))
    if whole > tiff.filehandle.size:
        raise ValueError(f"it is cut short: it should hold {whole:,} bytes and holds {tiff.filehandle.size:,}")
    for number in wanted:
        safe_point()
        tiff.filehandle.seek(series.dataoffset + number * nbytes)
        picture = np.frombuffer(tiff.filehandle.read(nbytes), dtype).reshape(shape)
        yield picture.astype(dtype.newbyteorder("="))


def _colours(samples: NDArray[Any], page: TiffPage) -> NDArray[Any]:
    """Return a page's samples as [H, W], [H, W, 3], or [H, W, 4] where the fourth is transparency."""
    if samples.ndim == 3 and page.planarconfig == 2:
        samples = np.moveaxis(samples, 0, -1)
    count = 3 if page.photometric == _RGB else 1
    if samples.ndim == 2:
        return samples
    if samples.ndim != 3 or samples.shape[2] < count or (count == 1 and samples.shape[2] > 2):
        raise ValueError(f"its pages hold samples {list(samples.shape)}, which are neither grey nor RGB")
    extra = tuple(page.extrasamples or ())
    if samples.shape[2] == count + 1 and extra[:1] == (_UNASSOCIATED,) and samples[..., -1].any():
        return samples if count == 3 else np.concatenate([samples[..., [0, 0, 0]], samples[..., 1:]], axis=-1)
    # What is transparent is laid over black: colours that are multiplied already are what is shown then.
    return samples[..., :3] if count == 3 else samples[..., 0]


def _orientation(page: TiffPage) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None else 1


def upright(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return a picture turned as its tag says (TIFF 6.0, Orientation: 1 to 8)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    across = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if across else 1])
