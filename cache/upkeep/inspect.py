"""Draw rows of a store as a contact sheet: frame, region, latents as colours.

Latents are shown as their first three principal components over the rows of the sheet, each stretched to 0..255:
equal colours mean similar latents within one sheet; colours of two sheets do not compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from usjepa.cache.errors import UsageError, WriteError
from usjepa.cache.frames.cells import unpack_cells
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage.durable import check_output, write_durably

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EDGE = 224
_GAP = 6
_CAPTION = 18


def write_sheet(store: str, output: str, rows: int = 8, teacher: str | None = None) -> None:
    """Write a PNG contact sheet of evenly spaced rows.

    Args:
        store: folder or URL; an unsealed one may be looked at too.
        output: path of the PNG.
        rows: how many rows to show.
        teacher: whose latents to show; none: the store's only teacher.

    Raises:
        UsageError: the store has no rows yet, or `output` is no .png or no place for a file.
        WriteError: the picture can't be written.
    """
    if not output.lower().endswith(".png"):
        raise UsageError(f"{output}: give a file name that ends in .png")
    check_output(Path(output))
    opened = open_store(store, allow_partial=True)
    if not len(opened):
        raise UsageError(f"{store}: no shard is finished yet, so there is nothing to show.")
    numbers = opened.rows[np.linspace(0, len(opened) - 1, min(rows, len(opened))).round().astype(int)]
    strips = _strips(opened, numbers, teacher)
    ok, data = cv2.imencode(".png", np.concatenate(strips, axis=0)[:, :, ::-1])
    if not ok:
        raise WriteError(f"{output}: the sheet could not be encoded as PNG.")
    write_durably(Path(output), data.tobytes())


def _strips(store: Store, numbers: NDArray[np.int64], teacher: str | None) -> list[NDArray[np.uint8]]:
    batch = store.read(numbers, teacher=teacher)
    cells = unpack_cells(batch.regions, store.size)
    colours = _latent_colours(batch.targets().numpy()) if batch.teacher else None
    strips = []
    for i, number in enumerate(numbers):
        image = batch.pixels[i].transpose(1, 2, 0)
        shown = [np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image, _region_overlay(image, cells[i])]
        if colours is not None:
            shown.append(colours[i])
        source, _, view = store.origin_of(int(number))
        caption = f"row {number}  {source.dataset}  {source.label or 'no label'}  view {view}"
        strips.append(_strip(shown, caption))
    return strips


def _region_overlay(image: NDArray[np.uint8], cells: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the frame with everything outside the region tinted red."""
    inside = cv2.resize(cells.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    shown = np.repeat(image[:, :, :1], 3, axis=2)
    shown[~inside] = shown[~inside] // 2 + np.array([100, 0, 0], np.uint8)
    return shown


def _latent_colours(latents_BTD: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return [B, h, w, 3]: the three strongest components of standardised latents over all tokens of the sheet."""
    batch, tokens, dim = latents_BTD.shape
    flat = latents_BTD.reshape(-1, dim).astype(np.float64)
    # Without this a few massive channels would be the whole picture.
    flat = (flat - flat.mean(axis=0)) / np.maximum(flat.std(axis=0), 1e-9)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    scores = flat @ vectors[:, -3:][:, ::-1]
    low, high = np.percentile(scores, [2, 98], axis=0)
    stretched = ((scores - low) / np.maximum(high - low, 1e-9)).clip(0, 1) * 255
    edge = round(tokens**0.5)
    colours: NDArray[np.uint8] = stretched.astype(np.uint8).reshape(batch, edge, tokens // edge, 3)
    return colours


def _strip(pictures: list[NDArray[np.uint8]], caption: str) -> NDArray[np.uint8]:
    width = len(pictures) * (_EDGE + _GAP)
    strip = np.full((_EDGE + _CAPTION + _GAP, width, 3), 255, np.uint8)
    cv2.putText(strip, caption, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    for i, picture in enumerate(pictures):
        left = i * (_EDGE + _GAP)
        resized = cv2.resize(picture, (_EDGE, _EDGE), interpolation=cv2.INTER_NEAREST)
        strip[_CAPTION : _CAPTION + _EDGE, left : left + _EDGE] = resized
    return strip
