"""Draw rows of a store as a contact sheet, the doubtful first.

The rows that a person should look at come first. Latents are shown as their first three principal components over the
rows of the sheet, each stretched to 0..255: equal colours mean similar latents within one sheet; colours of two sheets
do not compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from usjepa.cache.errors import UsageError, WriteError
from usjepa.cache.inspecting.as_it_was import as_they_were
from usjepa.cache.inspecting.axes import Moments, colours_of
from usjepa.cache.inspecting.doubts import doubts_of
from usjepa.cache.inspecting.examining import teacher_of
from usjepa.cache.inspecting.pictures import cells_of
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.storage.durable import check_output, write_durably
from usjepa.cache.storage.urls import shown
from usjepa.cache.store.origins.spacing import spacing_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings

_EDGE = 224
_GAP = 6
_CAPTION = 18


def write_sheet(
    store: str,
    output: str,
    rows: int = 8,
    teacher: str | None = None,
    dataset: str | None = None,
    source: str | None = None,
    settings: CacheSettings | None = None,
) -> str:
    """Write a PNG contact sheet: rows that are doubtful or blank first, then evenly spaced ones.

    Returns a line on how many rows of the store have a spacing, and its range.

    Args:
        store: folder or URL; an unsealed one may be looked at too.
        output: path of the PNG.
        rows: how many rows to show.
        teacher: whose latents to show; none: the store's only teacher.
        dataset: show rows of this one; none: of all.
        source: where the sources lie; the frame as it was is shown beside what is kept. None: it is not.
        settings: of the recipe that the store was built with; needed with `source`.

    Raises:
        UsageError: the store has no rows yet, or none of that dataset, or `output` is no .png.
        WriteError: the picture can't be written.
    """
    if not output.lower().endswith(".png"):
        raise UsageError(f"{shown(output)}: give a file name that ends in .png")
    check_output(Path(output))
    opened = open_store(store, allow_partial=True)
    if not len(opened):
        raise UsageError(f"{store}: no shard is finished yet, so there is nothing to show.")
    teacher = teacher_of(opened, teacher)
    doubts = doubts_of(opened).both
    numbers = _chosen(opened, doubts, rows, dataset)
    before = (
        {} if source is None or settings is None else dict(as_they_were(opened, numbers.tolist(), source, settings))
    )
    strips = _strips(opened, numbers, teacher, doubts, before)
    ok, data = cv2.imencode(".png", np.concatenate(strips, axis=0)[:, :, ::-1])
    if not ok:
        raise WriteError(f"{output}: the sheet could not be encoded as PNG.")
    write_durably(Path(output).absolute(), data.tobytes())
    return spacing_text(opened.spacing)


def _chosen(opened: Store, doubts: Mapping[int, str], count: int, dataset: str | None) -> NDArray[np.int64]:
    """Return the rows to show: doubtful ones of as many sources as there is room for, then evenly spaced others."""
    table = opened.table
    numbers: NDArray[np.int64] = opened.rows
    source = table.source
    if dataset is not None:
        within = np.asarray(table.dataset == dataset)
        if not within.any():
            names = ", ".join(sorted(set(table.dataset.tolist())))
            raise UsageError(f"{opened.location}: it has no rows of dataset {dataset!r}; its datasets are: {names}.")
        numbers, source = numbers[within], source[within]
    doubtful = np.isin(numbers, list(doubts))
    _, first = np.unique(source[doubtful], return_index=True)
    shown = _spread(numbers[doubtful][first], count)
    rest = numbers[doubtful][~np.isin(numbers[doubtful], shown)]
    for others in (rest, numbers[~doubtful]):
        shown = np.concatenate([shown, _spread(others, count - len(shown))])
    return shown


def _spread(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return at most `count` of the numbers, evenly spaced."""
    if len(numbers) <= count:
        return numbers
    return np.asarray(numbers[np.linspace(0, len(numbers) - 1, count).round().astype(int)], np.int64)


def _strips(
    store: Store,
    numbers: NDArray[np.int64],
    teacher: str | None,
    doubts: Mapping[int, str],
    before: Mapping[int, NDArray[np.uint8]],
) -> list[NDArray[np.uint8]]:
    batch = store.read(numbers, teacher=teacher)
    cells = cells_of(batch, store.size)
    colours = _latent_colours(batch.targets().numpy()) if batch.teacher else None
    strips = []
    for i, number in enumerate(numbers.tolist()):
        image = batch.pixels[i].transpose(1, 2, 0)
        kept = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        was = before.get(number)
        shown = [] if not before else [np.full_like(kept, 255) if was is None else was.transpose(1, 2, 0)]
        shown += [kept, _region_overlay(image if was is None else shown[0], cells[i])]
        if colours is not None:
            shown.append(colours[i])
        source, _, view = store.origin_of(number)
        down, across = store.spacing_of([number])[0]
        scale = "" if np.isnan(down) else f"  {down:.3g} x {across:.3g} mm"
        caption = f"row {number}  {source.dataset}  {source.label or 'no label'}  view {view}{scale}"
        strips.append(_strip(shown, f"{caption}  {doubts[number]}" if number in doubts else caption))
    return strips


def _region_overlay(image: NDArray[np.uint8], cells: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the frame with everything outside the region tinted red."""
    inside = cv2.resize(cells.astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    shown = np.repeat(image[:, :, :1], 3, axis=2) if image.shape[2] == 1 else image.copy()
    shown[~inside] = shown[~inside] // 2 + np.array([100, 0, 0], np.uint8)
    return shown


def _latent_colours(latents_BTD: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return [B, h, w, 3]: the three strongest components of standardised latents over all tokens of the sheet."""
    batch, tokens, dim = latents_BTD.shape
    flat = latents_BTD.reshape(-1, dim)
    moments = Moments(dim)
    moments.add(flat)
    edge = round(tokens**0.5)
    return colours_of(moments.axes(3).project(flat)).reshape(batch, edge, tokens // edge, 3)


def _strip(pictures: list[NDArray[np.uint8]], caption: str) -> NDArray[np.uint8]:
    width = len(pictures) * (_EDGE + _GAP)
    strip = np.full((_EDGE + _CAPTION + _GAP, width, 3), 255, np.uint8)
    cv2.putText(strip, caption, (2, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    for i, picture in enumerate(pictures):
        left = i * (_EDGE + _GAP)
        resized = cv2.resize(picture, (_EDGE, _EDGE), interpolation=cv2.INTER_NEAREST)
        strip[_CAPTION : _CAPTION + _EDGE, left : left + _EDGE] = resized
    return strip
