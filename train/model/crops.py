"""Cut random parts out of images, each stretched to the whole size.

For pairs alone: a cached target belongs to the place it was computed for, and would be wrong for a part. Where a part
lies is a pure function of (seed, step, row), as in `augment.py`.

Shape suffixes: B images, C channels, S edge of stored pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from usjepa.train.counter import stream, uniforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AREA, _DOWN, _ACROSS = range(3)


def random_crops(
    pixels_BCSS: torch.Tensor, seed: int, step: int, rows_B: NDArray[np.int64], scale: tuple[float, float]
) -> torch.Tensor:
    """Return a square part of each image at the image's size, bilinear: a new tensor.

    Args:
        pixels_BCSS: floating point.
        seed: of the run.
        step: global number of the step.
        rows_B: int64 [B], row numbers of the images.
        scale: least and most area of a part, as a share of the image; drawn uniformly.
    """
    if scale == (1.0, 1.0):
        return pixels_BCSS.clone()
    keys_B = stream("crops", seed, step, np.asarray(rows_B, dtype=np.int64))
    side_B = np.sqrt(scale[0] + (scale[1] - scale[0]) * uniforms(keys_B, _AREA))
    # In the coordinates of grid_sample, -1 to 1 over the image: centres leave the part inside.
    down_B, across_B = ((1.0 - side_B) * (2.0 * uniforms(keys_B, draw) - 1.0) for draw in (_DOWN, _ACROSS))
    zero_B = np.zeros_like(side_B)
    rows = np.stack([side_B, zero_B, across_B, zero_B, side_B, down_B], axis=1).reshape(-1, 2, 3)
    theta_B23 = torch.from_numpy(rows).to(pixels_BCSS.device, pixels_BCSS.dtype)
    grid = functional.affine_grid(theta_B23, list(pixels_BCSS.shape), align_corners=False)
    parts: torch.Tensor = functional.grid_sample(pixels_BCSS, grid, padding_mode="border", align_corners=False)
    return parts
