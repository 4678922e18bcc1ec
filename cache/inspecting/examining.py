"""Look at rows: hash what they show, pool their latents, tell blank ones.

Rows are read piece by piece; of each a hash, a mean latent and a reason stay. Shape suffixes: n rows looked at, T patch
tokens, D features, K bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.frames.blank import why_blank
from usjepa.cache.frames.prepare import grey_of
from usjepa.cache.inspecting.axes import Moments
from usjepa.cache.inspecting.pictures import cells_of
from usjepa.cache.perceptual import BITS, picture_signs
from usjepa.cache.teacher.layers import square_grid
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.reading.store import Store

    Ints = NDArray[np.int64]

_PIECE_NBYTES, _PIECE_ROWS = 64 << 20, 64
_TOKENS_A_ROW = 64
"""Patches of a row that count for the axes."""


@dataclass(frozen=True)
class Examined:
    """What is known of rows that were looked at, ascending."""

    numbers: Ints
    """[n] row numbers."""
    bits_nK: NDArray[np.float32]
    """Perceptual hashes of -1 and 1; all 0 for a blank row."""
    blank: dict[int, str]
    """Row number -> why it shows no echo."""
    pooled_nD: NDArray[np.float32] | None
    """Mean latent of the patches that touch the region, NaN where one is not finite; None without latents."""
    moments: Moments | None
    """Of the patches that touch the region, at most 64 a row."""


def teacher_of(store: Store, teacher: str | None) -> str | None:
    """Return whose latents to show, None where a store has none; raises UsageError where that is not known."""
    held = store.latents
    if teacher is None and not held:
        return None
    name = teacher or (held[0] if len(held) == 1 else None)
    if name is None or name not in held:
        raise UsageError(f"{store.location}: say whose latents with --teacher; it holds {', '.join(held) or 'none'}.")
    square_grid(store.layers[f"latents/{name}"].shape[0], f"{store.location}: latents/{name}")
    return name


def pieces(store: Store, numbers: Ints, teacher: str | None, label: str) -> Iterator[Batch]:
    """Yield rows, ascending, in batches of bounded memory; `label` names the progress bar."""
    nbytes = sum(int(np.prod(layer.shape)) * 4 for layer in store.layers.values() if layer.teacher in (None, teacher))
    rows = max(1, min(_PIECE_ROWS, _PIECE_NBYTES // max(nbytes, 1)))
    mine = [] if teacher is None else [f"latents/{teacher}", f"scales/{teacher}"]
    names = [name for name in ["pixels", "regions", *mine] if name in store.layers]
    with ProgressBar(len(numbers), label) as bar:
        for first in range(0, len(numbers), rows):
            yield store.read(numbers[first : first + rows], layers=names)
            bar.update(len(numbers[first : first + rows]))


def patches_of(cells_Bcc: NDArray[np.bool_], tokens: int) -> NDArray[np.bool_]:
    """Return which of T patches, a square grid, touch the region, bool [B, T]."""
    edge = round(tokens**0.5)
    shares = [cv2.resize(one.astype(np.float32), (edge, edge), interpolation=cv2.INTER_AREA) for one in cells_Bcc]
    return np.stack(shares).reshape(len(cells_Bcc), -1) > 0


def examine(store: Store, numbers: Ints, teacher: str | None) -> Examined:
    """Look at rows, ascending; with `teacher` at its latents too.

    Raises:
        DamageError: a row's bytes are not those that were built.
    """
    dim = 0 if teacher is None else store.layers[f"latents/{teacher}"].shape[1]
    moments = None if teacher is None else Moments(dim)
    bits, blank, pooled = np.zeros((len(numbers), BITS), np.float32), dict[int, str](), np.empty((len(numbers), dim))
    done = 0
    for batch in pieces(store, numbers, teacher, "looking at rows"):
        part = slice(done, done + len(batch.rows))
        cells = cells_of(batch, store.size)
        bits[part] = picture_signs(grey_of(batch.pixels))
        blank |= _blank(batch, cells)
        if moments is not None:
            latents = batch.targets().numpy()
            pooled[part] = _pooled(latents, patches_of(cells, latents.shape[1]), moments)
        done = part.stop
    return Examined(numbers, bits, blank, pooled.astype(np.float32) if moments else None, moments)


def _blank(batch: Batch, cells: NDArray[np.bool_]) -> dict[int, str]:
    pixels = batch.pixels
    images: NDArray[Any] = pixels[:, 0] if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1)
    whys = {int(row): why_blank(image, cell) for row, image, cell in zip(batch.rows, images, cells, strict=True)}
    return {row: why for row, why in whys.items() if why}


def _pooled(latents_BTD: NDArray[np.float32], valid_BT: NDArray[np.bool_], moments: Moments) -> NDArray[np.float64]:
    """Return mean latents [B, D] of the patches that touch the region, and count some of these in."""
    means = np.empty((len(latents_BTD), latents_BTD.shape[2]))
    some = [latents_BTD[:0].reshape(0, latents_BTD.shape[2])]
    for place, (latents, valid) in enumerate(zip(latents_BTD, valid_BT, strict=True)):
        mine = latents[valid] if valid.any() else latents
        means[place] = mean = mine.mean(axis=0, dtype=np.float64)
        if np.isfinite(mean).all() and valid.any():
            spaced = np.linspace(0, len(mine) - 1, min(len(mine), _TOKENS_A_ROW)).round().astype(int)
            some.append(mine[spaced])
    moments.add(np.concatenate(some))
    return means
