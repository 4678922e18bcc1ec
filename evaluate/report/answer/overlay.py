"""Lay the colours of patch tokens over frames.

Colours are the first three principal components of all the frames' patch tokens within the scan, together: patches of
one colour are alike to the encoder. No label takes part in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.pages.pictures import png_uri, stored_picture
from usjepa.evaluate.encoders.pooling import region_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch

EDGE = 192
"""Pixels of a picture."""
_COLOURED = 0.55
"""Share of the colours over the frame."""
_FEWEST = 4
"""Patches that components are made of."""
_INSIDE = 0.5
"""Share of a patch that lies in the scan where it takes part in the components."""


def overlays(batch: Batch, tokens_NHWD: NDArray[np.float32] | None) -> list[str]:
    """Return each frame under its colours as a data URI; "" without tokens."""
    if tokens_NHWD is None:
        return [""] * len(batch.pixels)
    grid = (tokens_NHWD.shape[1], tokens_NHWD.shape[2])
    colours = token_colours(tokens_NHWD, region_shares(batch, grid) >= _INSIDE)
    cells = unpack_cells(batch.regions, batch.pixels.shape[-1])
    pairs = zip(batch.pixels, colours, cells, strict=True)
    return [png_uri(blended(frame, one, scan), EDGE) for frame, one, scan in pairs]


def token_colours(tokens_NHWD: NDArray[np.float32], inside_NHW: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the first three principal components of the patches as red, green and blue, uint8 [n, H, W, 3].

    Args:
        tokens_NHWD: patch tokens.
        inside_NHW: the patches that the components are of; fewer than four: all.
    """
    shape = tokens_NHWD.shape
    flat, used = tokens_NHWD.reshape(-1, shape[-1]).astype(np.float64), inside_NHW.reshape(-1)
    if used.sum() < _FEWEST:
        used = np.ones_like(used)
    flat -= flat[used].mean(axis=0)
    _, _, directions = np.linalg.svd(flat[used], full_matrices=False)
    # The sign of a component is arbitrary: its largest entry is made positive.
    first = directions[:3]
    first = first * np.sign(first[np.arange(len(first)), np.abs(first).argmax(axis=1)])[:, None]
    parts = np.zeros((len(flat), 3))
    parts[:, : len(first)] = flat @ first.T
    low, high = np.percentile(parts[used], (2, 98), axis=0)
    scaled = np.clip((parts - low) / np.where(high > low, high - low, 1.0), 0, 1)
    colours: NDArray[np.uint8] = np.rint(255 * scaled).astype(np.uint8).reshape(*shape[:3], 3)
    return colours


def blended(
    pixels_CSS: NDArray[np.uint8], colours_HW3: NDArray[np.uint8], cells_RR: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return a frame under the colours of its patches, within the cells of the scan: uint8 [S, S, 3]."""
    edge = pixels_CSS.shape[-1]
    frame = np.broadcast_to(stored_picture(pixels_CSS)[..., :3], (edge, edge, 3)).astype(np.float64)
    at = np.arange(edge)
    rows, columns = (at * patches // edge for patches in colours_HW3.shape[:2])
    inside = cells_RR[at * len(cells_RR) // edge][:, at * len(cells_RR) // edge]
    share = np.where(inside if inside.any() else True, _COLOURED, 0.0)[..., None]
    mixed: NDArray[np.uint8] = np.rint((1 - share) * frame + share * colours_HW3[rows][:, columns]).astype(np.uint8)
    return mixed
