"""Draw a row's frame, its region and its latents as small pictures for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.pages.pictures import png_uri, stored_picture

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch

EDGE = 256
"""Pixels that a frame has on a page at most: those of larger rows are averaged."""
_WITHIN, _OUTSIDE, _RIM = 0, 1, 2
_COLOURS = np.array([(0, 0, 0, 0), (213, 94, 0, 110), (255, 176, 0, 255)], np.uint8)
"""Red, green, blue and opacity of a cell within the region, outside, and outside at its rim."""


def cells_of(batch: Batch, size: int) -> NDArray[np.bool_]:
    """Return the cells [B, S / 2, S / 2] of the rows' regions; the whole frame where the store keeps none."""
    packed = batch.arrays.get("regions")
    if packed is None:
        return np.ones((len(batch.rows), size // 2, size // 2), np.bool_)
    return unpack_cells(packed, size)


def frame_uri(pixels_CSS: NDArray[np.uint8]) -> str:
    """Return stored pixels as a picture without loss, at most `EDGE` wide."""
    return png_uri(stored_picture(pixels_CSS), EDGE)


def region_uri(cells: NDArray[np.bool_]) -> str:
    """Return what lies over a frame, a pixel a cell: outside the region tinted, its rim drawn; empty for all of it."""
    if cells.all():
        return ""
    inside = np.pad(cells, 1)
    beside = inside[:-2, 1:-1] | inside[2:, 1:-1] | inside[1:-1, :-2] | inside[1:-1, 2:]
    return png_uri(_COLOURS[np.where(cells, _WITHIN, np.where(beside, _RIM, _OUTSIDE))], len(cells))


def colours_uri(colours_TC: NDArray[np.uint8]) -> str:
    """Return the colours [T, 3] of a square grid of patches, a pixel a patch."""
    edge = round(len(colours_TC) ** 0.5)
    return png_uri(colours_TC.reshape(edge, edge, 3), edge)
