"""Find the most similar patches of other patients for each patch.

Similar is the cosine of latents that were standardised channel by channel and projected on their first axes. All that a
page needs is computed beforehand and packed, so that it works without a server.

Shape suffixes: R rows, T patches, K axes, q patches that are asked for, N neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEIGHBOURS = 6
"""Neighbours of a patch."""
NBYTES = 5 * NEIGHBOURS
"""Packed bytes a patch."""
NONE = 0xFFFF
_MOST_CANDIDATES = 40_000
_BLOCK = 256
_SORTED = 64
"""Rows whose best patches are sorted, of all that are shown."""
_BARRED = -4.0
"""Below every cosine."""


@dataclass(frozen=True)
class Nearest:
    """Neighbours of every patch, most similar first; one of each patient before a second of any."""

    row_RTN: NDArray[np.uint16]
    """Which row, by its place; `NONE` where there is none."""
    patch_RTN: NDArray[np.uint16]
    cosine_RTN: NDArray[np.int8]
    """In 1/127."""
    step: int
    """Every how many patches, down and across, were looked among."""

    def packed(self, row: int) -> bytes:
        """Return a row's neighbours: places and patches as little-endian 16-bit numbers [T, N], then cosines."""
        numbers = (self.row_RTN[row].astype("<u2"), self.patch_RTN[row].astype("<u2"), self.cosine_RTN[row])
        return b"".join(np.ascontiguousarray(one).tobytes() for one in numbers)


def nearest(coordinates_RTK: NDArray[np.float32], valid_RT: NDArray[np.bool_], patient_R: NDArray[Any]) -> Nearest:
    """Find the neighbours of each valid patch among the valid patches of other patients.

    Args:
        coordinates_RTK: of each patch of a square grid.
        valid_RT: patches that touch the region, and are finite.
        patient_R: equal for rows of one patient.
    """
    rows, tokens, axes = coordinates_RTK.shape
    valid_RT = valid_RT & np.isfinite(coordinates_RTK).all(axis=2)
    unit = np.where(valid_RT[:, :, None], coordinates_RTK, 0)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=2, keepdims=True), 1e-12)
    step, patches = _some_patches(rows, tokens)
    # One more axis bars patches outside the region: their cosine would be 0, which is above others.
    candidates = np.zeros((rows, len(patches), axes + 1), np.float32)
    candidates[:, :, :axes] = unit[:, patches]
    candidates[:, :, axes] = np.where(valid_RT[:, patches], 0, _BARRED)
    flat = candidates.reshape(-1, axes + 1).T
    found = Nearest(
        np.full((rows, tokens, NEIGHBOURS), NONE, np.uint16),
        np.zeros((rows, tokens, NEIGHBOURS), np.uint16),
        np.zeros((rows, tokens, NEIGHBOURS), np.int8),
        step,
    )
    with ProgressBar(rows, "comparing patches") as bar:
        for row in range(rows):
            mine = np.flatnonzero(valid_RT[row])
            for first in range(0, len(mine), _BLOCK):
                asked = mine[first : first + _BLOCK]
                queries = np.concatenate([unit[row, asked], np.ones((len(asked), 1), np.float32)], axis=1)
                cosines = (queries @ flat).reshape(len(asked), rows, len(patches))
                best = cosines.argmax(axis=2)
                cosine = np.take_along_axis(cosines, best[:, :, None], axis=2)[:, :, 0]
                cosine[:, patient_R == patient_R[row]] = _BARRED
                _keep(found, row, asked, _one_a_patient(cosine, patient_R), cosine, patches[best])
            bar.update(1)
    return found


def _some_patches(rows: int, tokens: int) -> tuple[int, NDArray[np.int64]]:
    """Return the step, and the patches of a row that are looked among: all, or every second, third, ..."""
    edge = round(tokens**0.5)
    step = max(1, int(np.ceil((rows * tokens / _MOST_CANDIDATES) ** 0.5)))
    grid = np.arange(tokens).reshape(edge, -1)
    return step, grid[step // 2 :: step, step // 2 :: step].ravel()


def _one_a_patient(cosine_qR: NDArray[np.float32], patient_R: NDArray[Any]) -> NDArray[np.int64]:
    """Return rows in the order in which they are shown: the best of each patient first, each by cosine."""
    some = min(_SORTED, cosine_qR.shape[1])
    order = np.sort(np.argpartition(-cosine_qR, some - 1, axis=1)[:, :some], axis=1)
    within = np.argsort(-np.take_along_axis(cosine_qR, order, axis=1), axis=1, kind="stable")
    order = np.take_along_axis(order, within, axis=1)
    _, code = np.unique(patient_R, return_inverse=True)
    ordered = code[order]
    # A patient's rows sorted stably: the first of each run is its best.
    by_patient = np.argsort(ordered, axis=1, kind="stable")
    sorted_ = np.take_along_axis(ordered, by_patient, axis=1)
    again = np.zeros(order.shape, bool)
    again[:, 1:] = sorted_[:, 1:] == sorted_[:, :-1]
    repeated = np.zeros(order.shape, bool)
    np.put_along_axis(repeated, by_patient, again, axis=1)
    shown = np.argsort(repeated, axis=1, kind="stable")[:, :NEIGHBOURS]
    return np.take_along_axis(order, shown, axis=1)


def _keep(
    found: Nearest,
    row: int,
    asked: NDArray[np.int64],
    rows_qN: NDArray[np.int64],
    cosine_qR: NDArray[np.float32],
    patch_qR: NDArray[np.int64],
) -> None:
    """Note the neighbours of some patches of a row; those that are barred are none."""
    cosine = np.take_along_axis(cosine_qR, rows_qN, axis=1)
    patch = np.take_along_axis(patch_qR, rows_qN, axis=1)
    none, width = cosine < -1.5, rows_qN.shape[1]
    found.row_RTN[row, asked, :width] = np.where(none, NONE, rows_qN)
    found.patch_RTN[row, asked, :width] = np.where(none, 0, patch)
    found.cosine_RTN[row, asked, :width] = np.where(none, 0, (cosine * 127).round().clip(-127, 127)).astype(np.int8)
