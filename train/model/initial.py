"""Initialise weights: apart from the global generator, with 2-D sine-cosine positions."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.errors import UsageError
from usjepa.train.counter import stream

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def seeded(seed: int, part: int) -> Iterator[None]:
    """Let torch's initialisers draw from (seed, part) alone, and leave the global generator unchanged.

    Weights are always drawn on the CPU, so that a run starts from the same ones on any device.

    Args:
        seed: of the run.
        part: number of the module: another one draws other weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(stream("weights", seed, part)) >> 1)
        yield


def sincos_positions(dim: int, grid: tuple[int, int]) -> torch.Tensor:
    """Return fixed 2-D sine-cosine positions, float32 [T, dim], row-major over the grid.

    As in MAE (arXiv 2111.06377) and I-JEPA (`get_2d_sincos_pos_embed`): the first half of the channels encodes the
    column and the second the row, each as sines, then cosines, of frequencies from 1 down to 1/10000.

    Raises:
        UsageError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise UsageError(f"2-D sine-cosine positions need a width that is a multiple of 4, not {dim}.")
    frequency_k = 1.0 / 10_000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    rows_T, columns_T = (axis.reshape(-1) for axis in np.mgrid[: grid[0], : grid[1]])
    parts = []
    for place_T in (columns_T, rows_T):
        angle_Tk = place_T[:, None] * frequency_k
        parts += [np.sin(angle_Tk), np.cos(angle_Tk)]
    return torch.from_numpy(np.concatenate(parts, axis=1)).to(torch.float32)
