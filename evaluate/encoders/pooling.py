"""Pool patch tokens into one vector per frame, where it isn't the plain mean.

The paper doesn't state its pooling. The mean over all patches is the default here and what other reports give; what is
small in a frame, as a lesion is, nearly drowns in it, and patches that show no scan weigh as much as those that do.
`region` weighs each patch by how much of it lies in the frame's scan region (the region of USrc-JEPA); `max` adds each
feature's largest value, side by side with the mean.
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
        """Return float32 [B, D], or [B, 2 D] with the maximum."""
        assert isinstance(self.encoder, TokenGiver)
        tokens_BHWD = self.encoder.tokens(batch)
        grid = (tokens_BHWD.shape[1], tokens_BHWD.shape[2])
        shares_BHW = _region_shares(batch, grid) if "region" in self.how else np.ones(tokens_BHWD.shape[:3], np.float32)
        parts = _pooled(tokens_BHWD, shares_BHW, "max" in self.how)
        if isinstance(self.encoder, ModelEncoder):
            parts = [self.encoder.normalised(part) for part in parts]
        return np.concatenate(parts, axis=1)


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


def _region_shares(batch: Batch, grid: tuple[int, int]) -> Floats:
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
