"""Describe a segment's two tables: its sources, and its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from usjepa.cache.store.columns import LENGTHS, Columns, nothing, read_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

WITHDRAWN = "withdrawn"
"""Stands for path, group and reason of a source that was removed, and for the reason of the holes that its rows are."""


def tombstone(content_hash: str) -> str:
    """Return what stands for the content hash of a source that was removed: it recognises the file, and no more."""
    return xxhash.xxh3_128_hexdigest(f"{WITHDRAWN} {content_hash}".encode())


@dataclass(frozen=True, eq=False)
class SourceTable(Columns):
    """A line per source: a file, or a dataset within an HDF5 file."""

    path: NDArray[np.object_]
    """Relative to the source's root, POSIX; `file.h5::name` within an HDF5 file."""
    dataset: NDArray[np.object_]
    group: NDArray[np.object_]
    """Patient or clip; unique within its dataset, never to straddle a split."""
    label: NDArray[np.object_]
    """Empty for none."""
    split: NDArray[np.object_]
    """Empty for none."""
    reader: NDArray[np.object_]
    """Name of the reader that decodes it, followed by `:version` from version 2 on."""
    content_hash: NDArray[np.object_]
    """xxh3-128, 32 hex digits."""
    frames: NDArray[np.int32]
    """Decoded frames; 0 where it can't be read."""
    height: NDArray[np.int32]
    """Pixels, of the first frame."""
    width: NDArray[np.int32]
    """Pixels, of the first frame."""
    error: NDArray[np.object_]
    """Why it can't be read; empty where it can."""
    spacing_down: NDArray[np.float64] = field(default_factory=nothing)
    """Millimetres per pixel of the frames, NaN where the file does not say."""
    spacing_across: NDArray[np.float64] = field(default_factory=nothing)
    passed_over: NDArray[np.int32] = field(default_factory=nothing)
    """Frames that have no rows because they differ too little from the last one kept (`cache.min_change`)."""


@dataclass(frozen=True, eq=False)
class RowTable(Columns):
    """A line per row: which frame of which source, and the view cut from it."""

    source: NDArray[np.int32]
    """Index into the segment's sources."""
    frame: NDArray[np.int32]
    view: NDArray[np.int32]
    """0 is the plain frame."""
    top: NDArray[np.int32]
    """Crop box in pixels of the frame."""
    left: NDArray[np.int32]
    height: NDArray[np.int32]
    width: NDArray[np.int32]
    flip_horizontal: NDArray[np.bool_]
    flip_vertical: NDArray[np.bool_]
    spacing_down: NDArray[np.float64] = field(default_factory=nothing)
    """Millimetres per stored pixel: of the view, at the size that it is kept in; NaN where that is not known."""
    spacing_across: NDArray[np.float64] = field(default_factory=nothing)


class Places(NamedTuple):
    """Of every row its source, frame and view: a third of a `RowTable`."""

    source: NDArray[np.int32]
    frame: NDArray[np.int32]
    view: NDArray[np.int16]

    @classmethod
    def from_parquet(cls, data: bytes, most: int | None = None) -> Places:
        """Return these columns of a `RowTable` on disk; raises DamageError as its `from_parquet` does."""
        source, frame, view = read_columns(RowTable, data, cls._fields, most)
        made = cls(source.copy(), frame.copy(), view.astype(np.int16))
        del source, frame, view
        pa.default_memory_pool().release_unused()  # Arrow would keep what it decoded into
        return made


def read_spacing(data: bytes, most: int | None = None) -> NDArray[np.float64]:
    """Return the spacing [n, 2] of a `RowTable` on disk, down and across; raises DamageError as its `from_parquet`."""
    return np.stack(read_columns(RowTable, data, tuple(LENGTHS), most), axis=1)
