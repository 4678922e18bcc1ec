"""Reader of HDF5: every dataset [N, H, W] or [N, H, W, C] of intensities is a source, `file.h5::path/of/dataset`.

Intensities are uint8, uint16 or float (see `depth.py`), C is 1, 3 or 4 (RGBA, laid over black), and H and W are at
least 16, which tells images from tables of boxes or outlines. Everything else in a file is ignored. Links out of the
file, virtual datasets and external storage are not followed: a content hash vouches for one file only.

Handles never cross a fork: a child closes its copy and opens the file itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py

from usjepa.cache.sources.base import FileFacts, over_black, reading, require_ascending, unreadable
from usjepa.cache.sources.depth import Span, needs_span, span_of, to_uint8
from usjepa.cache.sources.inside import split_inside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

_KIND = "HDF5"
_DTYPES = {"uint8", "uint16", "float16", "float32", "float64"}
_SMALLEST_EDGE = 16
_CHUNK_CACHE = 64 << 20  # bytes; a compressed chunk of many frames is unpacked once, not once per frame


def image_datasets(path: Path) -> list[str]:
    """Return the names of a file's image datasets in codepoint order; SourceError when it is no HDF5 file."""
    found = []

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and _holds_images(item):
            found.append(name)

    with reading(path, _KIND), h5py.File(path, "r", locking=False) as file:
        file.visititems(visit)
    return sorted(found)


def _holds_images(dataset: h5py.Dataset) -> bool:
    shape: tuple[int, ...] = dataset.shape or ()
    if dataset.dtype.name not in _DTYPES or len(shape) not in (3, 4) or shape[0] < 1:
        return False
    return min(shape[1:3]) >= _SMALLEST_EDGE and (len(shape) == 3 or shape[3] in (1, 3, 4))


class Hdf5Reader:
    """Reads datasets of HDF5 files through h5py; keeps the last file open."""

    name = "hdf5"
    version = 1

    def __init__(self) -> None:
        self._open: tuple[int, Path, h5py.File] | None = None
        self._span: tuple[Path, Span] | None = None

    def probe(self, path: Path) -> FileFacts:
        """Read every frame and return the facts; SourceError when that fails or the path names no image dataset."""
        with reading(path, _KIND):
            dataset = self._dataset(path)
            count, height, width = dataset.shape[:3]
            for number in range(count):
                dataset[number]
            if needs_span(dataset.dtype):
                self._span_of(path, dataset)
        return FileFacts(int(count), int(height), int(width))

    def frames(self, path: Path, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames in 8 bits, grey or RGB."""
        require_ascending(path, wanted)
        for number in wanted:
            # Looked up anew for every frame: between two of them the process may have forked.
            with reading(path, _KIND):
                dataset = self._dataset(path)
                if number >= dataset.shape[0]:
                    raise unreadable(path, _KIND, f"it has {dataset.shape[0]} frames, number {number} was asked for")
                span = self._span_of(path, dataset) if needs_span(dataset.dtype) else None
                frame = to_uint8(dataset[number], span)
            yield _plain(frame)

    def _dataset(self, path: Path) -> h5py.Dataset:
        """Return the open dataset, through a handle of this process."""
        location, inside = split_inside(str(path))
        file = self._file(Path(location))
        if not inside:
            raise unreadable(path, _KIND, "it holds no dataset [N, H, W] or [N, H, W, C] of uint8, uint16 or float")
        dataset = file.get(inside, getlink=False) if _is_hard_linked(file, inside) else None
        if not isinstance(dataset, h5py.Dataset) or not _holds_images(dataset):
            raise unreadable(path, _KIND, f"it holds no dataset of images named {inside!r}")
        if dataset.is_virtual or dataset.external:
            raise unreadable(path, _KIND, f"the bytes of {inside!r} lie in other files, which its hash can't vouch for")
        return dataset

    def _file(self, path: Path) -> h5py.File:
        if self._open is not None:
            owner, known, file = self._open
            if (owner, known) == (os.getpid(), path):
                return file
            # In a forked child this closes the child's copy only. It must go before the file is opened again: HDF5
            # would otherwise recognise the file and share the inherited handle.
            self._open = None
            file.close()
        file = h5py.File(path, "r", locking=False, rdcc_nbytes=_CHUNK_CACHE)
        self._open = (os.getpid(), path, file)
        return file

    def _span_of(self, path: Path, dataset: h5py.Dataset) -> Span:
        """Return the span of the whole dataset, remembered for the one that is being read."""
        if self._span is None or self._span[0] != path:
            self._span = (path, span_of(dataset[number] for number in range(dataset.shape[0])))
        return self._span[1]


def _is_hard_linked(file: h5py.File, inside: str) -> bool:
    """Return whether every step to a dataset stays in this file: no soft and no external links."""
    group: Any = file
    for step in inside.strip("/").split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(step, getlink=True), h5py.HardLink):
            return False
        group = group[step]
    return True


def _plain(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return [H, W] or [H, W, 3] of a stored frame."""
    if frame.ndim == 3 and frame.shape[2] == 1:
        return frame[..., 0]
    return over_black(frame) if frame.ndim == 3 and frame.shape[2] == 4 else frame
