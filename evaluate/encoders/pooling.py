"""Pool patch tokens into one vector per frame, where it isn't the plain mean.

The paper doesn't state its pooling. The mean over all patches is the default here and what other reports give; what is
small in a frame, as a lesion is, nearly drowns in it, and patches that show no scan weigh as much as those that do.
`region` weighs each patch by how much of it lies in the frame's scan region (the region of USrc-JEPA); `max` adds each
feature's largest value, side by side with the mean.
Either throws places away, which decide much (a ventricle lies above or below): `grid2` keeps the mean of each quarter
of the frame, `tokens` all of them. They are long (4 D, T D numbers), and so are what a probe has to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.cells import unpack_cells
from usjepa.evaluate.encoders.models import POOLING, ModelEncoder
from usjepa.evaluate.encoders.tokens import TokenGiver

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.recipes.evaluate import Pooling
    from usjepa.evaluate.encoders.base import Encoder

    Floats = NDArray[np.float32]

_POOLINGS: dict[Pooling, str] = {
    "mean": POOLING,
    "mean+max": "mean and maximum of patch tokens, side by side",
    "region": "mean of patch tokens, weighed by their share of the scan's region",
    "region+max": "mean weighed by share of the scan's region, and maximum within it, side by side",
    "grid2": "means of the frame's four quarters (2 x 2), side by side",
    "tokens": "all patch tokens, side by side",
}


@dataclass
class _Pooled:
    """An encoder whose patch tokens are pooled in another way than by their mean."""

    encoder: Encoder
    how: Pooling

    @property
    def name(self) -> str:
        """The encoder's."""
        return self.encoder.name

    @property
    def pooling(self) -> str:
        """How a frame becomes one vector."""
        return _POOLINGS[self.how]

    @property
    def given(self) -> str:
        """The encoder's."""
        return self.encoder.given

    @property
    def layers(self) -> tuple[str, ...]:
        """The encoder's, and the regions where they matter, with the pixels that they lie over."""
        more = ("pixels", "regions") if "region" in self.how else ()
        return tuple(dict.fromkeys((*self.encoder.layers, *more)))

    @property
    def identity(self) -> dict[str, Json]:
        """The encoder's, and how its tokens are pooled."""
        return {"pooling": self.pooling, "encoder": self.encoder.identity}

    def features(self, batch: Batch) -> Floats:
        """Return float32 [B, D]; [B, 2 D] with the maximum, [B, 4 D] of quarters, [B, T D] of tokens."""
        assert isinstance(self.encoder, TokenGiver)
        parts_BPD = self._parts(self.encoder.tokens(batch), batch)
        flat = parts_BPD.reshape(-1, parts_BPD.shape[-1])
        if isinstance(self.encoder, ModelEncoder):
            flat = self.encoder.normalised(flat)
        return flat.reshape(len(parts_BPD), -1)

    def _parts(self, tokens_BHWD: Floats, batch: Batch) -> Floats:
        """Return what stands side by side, float32 [B, P, D]."""
        if self.how == "tokens":
            return tokens_BHWD.reshape(len(tokens_BHWD), -1, tokens_BHWD.shape[-1])
        if self.how == "grid2":
            return _quarters(tokens_BHWD)
        grid = (tokens_BHWD.shape[1], tokens_BHWD.shape[2])
        shares_BHW = region_shares(batch, grid) if "region" in self.how else np.ones(tokens_BHWD.shape[:3], np.float32)
        return np.stack(_pooled(tokens_BHWD, shares_BHW, "max" in self.how), axis=1)


def pooled_by(encoder: Encoder, how: Pooling) -> Encoder:
    """Return the encoder, pooled so; as it is where the mean is wanted, or where its features are no mean of tokens."""
    return encoder if how == "mean" or encoder.pooling != POOLING else _Pooled(encoder, how)


def _pooled(tokens_BHWD: Floats, shares_BHW: Floats, maximum: bool) -> list[Floats]:
    """Return the mean over places weighed by shares and, if wanted, the maximum where they are above 0: [B, D] each."""
    weight_BHW = shares_BHW / shares_BHW.sum(axis=(1, 2), keepdims=True)
    parts = [np.einsum("bhwd,bhw->bd", tokens_BHWD, weight_BHW)]
    if maximum:
        inside = np.where(shares_BHW[..., None] > 0, tokens_BHWD, -np.inf)
        parts.append(inside.max(axis=(1, 2)))
    return [part.astype(np.float32) for part in parts]


def _quarters(tokens_BHWD: Floats) -> Floats:
    """Return the means of the frame's quarters, rows first: float32 [B, 4, D].

    Where a grid has an odd edge, the middle row or column of patches counts half in either half.
    """
    down, across = (_overlaps(patches, 2).astype(np.float32) for patches in tokens_BHWD.shape[1:3])
    means = np.einsum("yh,bhwd,xw->byxd", down, tokens_BHWD, across, optimize=True)
    return np.ascontiguousarray(means, dtype=np.float32).reshape(len(means), 4, -1)


def region_shares(batch: Batch, grid: tuple[int, int]) -> Floats:
    """Return how much of each patch lies in the scan's region, from 0 to 1: float32 [B, H, W] for a grid (H, W).

    A patch may end within a cell of the region. A frame whose region is empty has shares of 1: all of it is looked at.
    """
    cells_BRR = unpack_cells(batch.regions, batch.pixels.shape[-1]).astype(np.float64)
    down, across = (_overlaps(cells_BRR.shape[1], patches) for patches in grid)
    shares_BHW: Floats = (down @ cells_BRR @ across.T).astype(np.float32)
    shares_BHW[shares_BHW.sum(axis=(1, 2)) == 0] = 1.0
    return shares_BHW


def _overlaps(cells: int, patches: int) -> NDArray[np.float64]:
    """Return how much of each patch each cell covers along one edge, [patches, cells]; rows sum to 1.

    Counted in whole 1 / (cells * patches): a rounding error would be a share above 0, and let the maximum see a patch
    that only touches the region's edge.
    """
    cell, patch = np.arange(cells), np.arange(patches)[:, None]
    first = np.maximum(cell * patches, patch * cells)
    last = np.minimum((cell + 1) * patches, (patch + 1) * cells)
    overlaps: NDArray[np.float64] = np.maximum(0, last - first) / cells
    return overlaps
