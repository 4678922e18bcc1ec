"""Refuse files that claim far more samples than their bytes can hold.

A header costs nothing: 1.4 kB of HDF5 may claim 100 million frames, and an image of 100 kB a side of 100,000 pixels.
What a header claims is compared with the file's size before any memory is taken or time spent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MOST_PIXELS = 1 << 28
"""Of a frame: 16,384 x 16,384. Preparing one takes about 11 bytes a pixel, so 3 GB."""
_EXPANSION = 1100
"""Most bytes that a byte of a file stands for. Deflate reaches 1,032 (zlib, "Maximum Compression Factor"); images of
echo reach about 10."""
_FREE_NBYTES = 1 << 26
"""Claims below this are not looked into, so that blank pages and masks may be as small as they like."""


def require_frame(height: int, width: int) -> None:
    """Raise ValueError where a frame has more pixels than are read."""
    if height * width > MOST_PIXELS:
        raise ValueError(f"it claims a frame of {height:,} x {width:,} pixels; at most {MOST_PIXELS:,} are read")


def require_room(claimed_nbytes: int, file: Path, held_nbytes: int | None = None) -> None:
    """Raise ValueError where a file claims more bytes of samples than it can hold, however well it is compressed.

    `held_nbytes` are those of a folder, which counts as one file.
    """
    size = file.stat().st_size if held_nbytes is None else held_nbytes
    if claimed_nbytes > _FREE_NBYTES + _EXPANSION * size:
        raise ValueError(f"it claims {claimed_nbytes:,} bytes of samples, which its {size:,} bytes can't hold")
