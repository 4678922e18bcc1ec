"""Read the image datasets of HDF5 files through h5py; each is a source, `file.h5::path/of/dataset`.

Which data sets hold images, and how their axes are read, is told in `sets.py`; C is 1, 3 or 4 (RGBA, laid over
black), and samples follow `depth.py`; what attributes say of how they are shown, `hdf5_images.py` applies. Links out of
the file, virtual datasets and external storage are not followed: a content hash vouches for one file only.

Handles never cross a fork: a child closes its copy and opens the file itself.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import FileFacts, Reader
from usjepa.cache.sources.formats.arrays.hdf5_images import Picture
from usjepa.cache.sources.formats.arrays.sets import (
    Axes,
    axes_of,
    doubts_of,
    frame_of,
    image_sets,
    unwanted,
    without_images,
)
from usjepa.cache.sources.formats.depth import Span, span_of
from usjepa.cache.sources.formats.packed.memory import openable
from usjepa.cache.sources.formats.plausible import require_frame, require_room

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import h5py
    import numpy as np
    from numpy.typing import NDArray

_CHUNK_CACHE_NBYTES = 1 << 30
"""A compressed chunk of many frames is unpacked once, not once per frame, where the chunks of a frame fit in here."""
_MATLAB = b"MATLAB 7.3"
"""How a file begins that `save` wrote; what `h5write` writes has no mark."""
_CHUNK_SLOTS = 10007
"""A prime above the chunks of a frame: two that share a slot of the cache drive each other out."""


class Hdf5Reader(Reader):
    """Read datasets of HDF5 files; keep the last file open."""

    name = "hdf5"
    version = 4
    title = "HDF5"
    endings = (".h5", ".hdf5")
    container = True
    frames_apart = True

    def __init__(self) -> None:
        self._open: tuple[int, Path, h5py.File] | None = None
        self._span: tuple[Path, str, Span] | None = None

    def images(self, file: Path) -> list[str]:
        """Return the names of a file's image datasets in codepoint order."""
        with _opened(file) as opened:
            return list(image_sets(data_sets(opened)))

    def doubts(self, file: Path) -> dict[str, str]:
        """Return which of them hold something else, by what their names and samples say."""
        with _opened(file) as opened:
            return _doubts(data_sets(opened))

    def probe(self, file: Path, image: str) -> FileFacts:
        """Read every frame and return the facts; ValueError when `image` names no image dataset."""
        picture, axes = self._picture(file, image)
        require_frame(axes.height, axes.width)
        require_room(math.prod(picture.shape) * picture.dtype.itemsize, file)  # `nbytes` overflows
        _require_small_chunks(picture.dataset)
        span = self._span_of(file, image, picture, axes) if picture.needs_span else None
        for number in range(axes.frames):
            frame = frame_of(picture, axes, number)
            if picture.is_told:
                picture.show(frame, span)  # where what is told can't be, it is refused here
            safe_point()
        return FileFacts(axes.frames, axes.height, axes.width)

    def frames(self, file: Path, image: str, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames in 8 bits, grey or RGB."""
        for number in wanted:
            # Looked up anew for every frame: between two of them the process may have forked.
            picture, axes = self._picture(file, image)
            if number >= axes.frames:
                raise ValueError(f"it has {axes.frames} frames, none with number {number}")
            span = self._span_of(file, image, picture, axes) if picture.needs_span else None
            yield picture.show(frame_of(picture, axes, number), span)

    def _picture(self, file: Path, image: str) -> tuple[Picture, Axes]:
        """Return the open dataset, through a handle of this process, and how its axes are read."""
        opened = self._file(file)
        if not image:
            raise ValueError(_without_wanted(data_sets(opened)))
        dataset: Any = opened.get(image, getlink=False) if _is_hard_linked(opened, image) else None
        picture = Picture(dataset) if hasattr(dataset, "dtype") else None
        axes = axes_of(picture) if picture is not None else None
        if picture is None or axes is None:
            found = f": it is {dataset.dtype} {list(dataset.shape or ())}" if hasattr(dataset, "dtype") else ""
            raise ValueError(f"it holds no dataset of images named {image!r}{found}")
        if _is_elsewhere(dataset):
            raise ValueError(f"the bytes of {image!r} lie in other files, which its hash can't vouch for")
        return picture, axes

    def _file(self, file: Path) -> h5py.File:
        if self._open is not None:
            owner, known, opened = self._open
            if (owner, known) == (os.getpid(), file):
                return opened
            # In a forked child this closes the child's copy only. It must go before the file is opened again: HDF5
            # would otherwise recognise the file and share the inherited handle.
            self._open = None
            opened.close()
        opened = _opened(file)
        self._open = (os.getpid(), file, opened)
        return opened

    def _span_of(self, file: Path, image: str, picture: Picture, axes: Axes) -> Span:
        """Return the span of the whole dataset, remembered for the one that is being read."""
        if self._span is None or self._span[:2] != (file, image):
            frames = (frame_of(picture, axes, number) for number in range(axes.frames))
            self._span = (file, image, span_of(part for part in map(picture.intensities, frames) if part.size))
        return self._span[2]


def _opened(file: Path) -> h5py.File:
    """Return an open file; ValueError where it is MATLAB's, which writes all axes in reverse."""
    import h5py

    with file.open("rb") as head:
        if head.read(len(_MATLAB)) == _MATLAB:
            raise ValueError("MATLAB wrote it, with its axes in reverse; give it the ending .mat, as which it is read")
    return h5py.File(openable(file), "r", locking=False, rdcc_nbytes=_CHUNK_CACHE_NBYTES, rdcc_nslots=_CHUNK_SLOTS)


def data_sets(file: h5py.File) -> dict[str, Picture]:
    """Return all data sets of a file by name; those that links name are found where they lie."""
    import h5py

    found: dict[str, Picture] = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        safe_point()
        if isinstance(item, h5py.Dataset):
            found[name] = Picture(item)

    file.visititems(visit)
    return found


def _doubts(found: dict[str, Picture]) -> dict[str, str]:
    return doubts_of({name: found[name] for name in image_sets(found) if not _is_elsewhere(found[name].dataset)})


def _without_wanted(found: dict[str, Picture]) -> str:
    """Return why no image of a file is read: it holds none, or all that could be were left out."""
    doubts = _doubts(found)
    return unwanted(doubts) if doubts else without_images(found)


def _is_elsewhere(dataset: Any) -> bool:
    """Return whether the bytes of a dataset lie in other files."""
    return bool(dataset.is_virtual or dataset.external)


def _require_small_chunks(dataset: h5py.Dataset) -> None:
    """Refuse chunks of so many frames that all of them would have to be unpacked again for each frame."""
    chunks: tuple[int, ...] | None = dataset.chunks
    if chunks is None or chunks[0] == 1 or len(chunks) == 2:
        return
    tiles = math.prod(-(-edge // chunk) for edge, chunk in zip(dataset.shape[1:], chunks[1:], strict=True))
    nbytes = tiles * math.prod(chunks) * dataset.dtype.itemsize
    if nbytes > _CHUNK_CACHE_NBYTES:
        raise ValueError(
            f"one frame of it lies in chunks {chunks} of {nbytes:,} bytes together, at most {_CHUNK_CACHE_NBYTES:,} "
            "are unpacked; write it again with chunks of one frame"
        )


def _is_hard_linked(file: h5py.File, image: str) -> bool:
    """Return whether every step to a dataset stays in this file: no soft and no external links."""
    import h5py

    group: Any = file
    for step in image.strip("/").split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(step, getlink=True), h5py.HardLink):
            return False
        group = group[step]
    return True
