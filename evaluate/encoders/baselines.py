"""Compute features without any encoder, pixels and edges: what training must beat."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.frames.prepare import grey_of
from usjepa.cache.identity import Json, soft_versions
from usjepa.evaluate.encoders.models import POOLING

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch

_PIXEL_EDGE = 32
_PATCHES, _PATCH_EDGE = 14, 8
_HOG_CELLS, _HOG_ORIENTATIONS, _HOG_BLOCK = 8, 9, 2


@dataclass
class Pixels:
    """The frame itself, grey, averaged down to 32 x 32: what can be had without any encoder."""

    name: str = "pixels"
    pooling: str = "no pooling: 32 x 32 grey values, area-averaged"
    given: str = "stored pixels as they are"
    layers: tuple[str, ...] = ("pixels",)
    identity: dict[str, Json] = field(default_factory=lambda: {"kind": "pixels", "edge": _PIXEL_EDGE, "grey": "rec601"})

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return float32 [B, 1024] in [0, 1]."""
        import torch

        grey = torch.from_numpy(grey_of(batch.pixels))[:, None] / 255.0
        small = torch.nn.functional.interpolate(grey, size=(_PIXEL_EDGE, _PIXEL_EDGE), mode="area")
        flat: NDArray[np.float32] = small.flatten(1).numpy()
        return flat

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        """Return the grey values of 14 x 14 patches, area-averaged to 8 x 8 each, float32 [B, 14, 14, 64]."""
        import torch

        grey = torch.from_numpy(grey_of(batch.pixels))[:, None] / 255.0
        edge = _PATCHES * _PATCH_EDGE
        small = torch.nn.functional.interpolate(grey, size=(edge, edge), mode="area")
        patches = torch.nn.functional.unfold(small, _PATCH_EDGE, stride=_PATCH_EDGE).transpose(1, 2)
        tokens: NDArray[np.float32] = patches.reshape(len(grey), _PATCHES, _PATCHES, -1).contiguous().numpy()
        return tokens


@dataclass
class Hog:
    """Histograms of oriented gradients: what can be had from edges and texture without learning.

    8 x 8 cells over the frame whatever its size, 9 orientations, blocks of 2 x 2 cells, L2-Hys: 1,764 numbers.
    """

    name: str = "hog"
    pooling: str = "no pooling: 8 x 8 cells, 9 orientations, 2 x 2-cell blocks, L2-Hys"
    given: str = "stored pixels as they are"
    layers: tuple[str, ...] = ("pixels",)
    identity: dict[str, Json] = field(
        default_factory=lambda: {
            "kind": "hog",
            "cells": _HOG_CELLS,
            "orientations": _HOG_ORIENTATIONS,
            "block": _HOG_BLOCK,
            "norm": "L2-Hys",
            "versions": soft_versions(["scikit-image"]),
        }
    )

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return float32 [B, 1764]."""
        return _hog_blocks(batch).reshape(len(batch.rows), -1)


@dataclass
class PooledHog:
    """The same histograms pooled as an encoder's patch tokens are: a block of cells is a token of 36 numbers.

    HOG keeps places, which a pooled encoder has lost; beside this one, edges and learned features are read alike.
    """

    name: str = "hog-pooled"
    pooling: str = POOLING
    given: str = "stored pixels as they are"
    layers: tuple[str, ...] = ("pixels",)
    identity: dict[str, Json] = field(default_factory=lambda: {**Hog().identity, "pooling": POOLING})

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return the mean over blocks, float32 [B, 36]."""
        pooled: NDArray[np.float32] = self.tokens(batch).mean(axis=(1, 2))
        return pooled

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        """Return the histograms of overlapping blocks of 2 x 2 cells, float32 [B, 7, 7, 36]."""
        return _hog_blocks(batch)


def _hog_blocks(batch: Batch) -> NDArray[np.float32]:
    """Return each block's histograms, float32 [B, 7, 7, 36]."""
    from skimage.feature import hog

    grey = grey_of(batch.pixels)
    cell = grey.shape[1] // _HOG_CELLS
    used = cell * _HOG_CELLS  # a remainder of fewer than 8 pixels at the right and lower edge is left out
    blocks = [
        hog(
            frame[:used, :used],
            orientations=_HOG_ORIENTATIONS,
            pixels_per_cell=(cell, cell),
            cells_per_block=(_HOG_BLOCK, _HOG_BLOCK),
            block_norm="L2-Hys",
            feature_vector=False,
        )
        for frame in grey
    ]
    stacked = np.stack(blocks).astype(np.float32)
    return stacked.reshape(*stacked.shape[:3], -1)
