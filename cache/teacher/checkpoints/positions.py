"""Fit learnt positions to another grid of patches.

How positions were resampled belongs to a teacher: the ways below give tokens that differ by up to a cosine of 0.95.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args

import torch
from timm.layers.pos_embed import resample_abs_pos_embed, resample_abs_pos_embed_nhwc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.teacher.checkpoints.sets import Tensors

Positions = Literal["antialiased", "plain", "offset"]
"""Bicubic with antialiasing (timm, DINOv2 with registers), without, or by a scale factor of a tenth of a patch more
than the edge, without (DINOv2's hub: `interpolate_offset=0.1`)."""
_OFFSET = 0.1


def resampled(tensors: Tensors, model: torch.nn.Module, how: Positions | None) -> tuple[str, ...]:
    """Interpolate positions that are of another grid than the model's, in place; return their names.

    Args:
        tensors: under timm's names.
        model: built for the grid that is wanted.
        how: none: as timm does for its own weights.
    """
    assert how is None or how in get_args(Positions)
    wanted = model.state_dict()
    done = _relative(tensors, wanted)
    stored, target = tensors.get("pos_embed"), wanted.get("pos_embed")
    if stored is None or target is None or stored.shape == target.shape or stored.shape[-1] != target.shape[-1]:
        return done
    if stored.ndim == target.ndim == 4:  # SAM's: [1, H, W, D]
        height, width = int(target.shape[1]), int(target.shape[2])
        tensors["pos_embed"] = resample_abs_pos_embed_nhwc(stored.float(), [height, width])
        return (*done, "pos_embed")
    prefix = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 0))
    edge = math.isqrt(max(stored.shape[1] - prefix, 0))
    if stored.ndim != 3 or edge == 0 or edge * edge != stored.shape[1] - prefix:
        return done
    grid = [int(n) for n in model.patch_embed.grid_size]  # type: ignore[union-attr]
    if how in (None, "antialiased"):
        tensors["pos_embed"] = resample_abs_pos_embed(stored.float(), new_size=grid, num_prefix_tokens=prefix)
    else:
        tensors["pos_embed"] = _unsmoothed(stored.float(), prefix, edge, grid, _OFFSET if how == "offset" else 0.0)
    return (*done, "pos_embed")


def _unsmoothed(stored: torch.Tensor, prefix: int, edge: int, grid: list[int], offset: float) -> torch.Tensor:
    """Return positions [1, prefix + T, D] interpolated without antialiasing, as DINO and DINOv2 do."""
    maps = stored[:, prefix:].reshape(1, edge, edge, -1).permute(0, 3, 1, 2)
    if offset:
        scales = [(n + offset) / edge for n in grid]
        fitted = torch.nn.functional.interpolate(maps, scale_factor=scales, mode="bicubic")
    else:
        fitted = torch.nn.functional.interpolate(maps, size=grid, mode="bicubic")
    return torch.cat([stored[:, :prefix], fitted.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _relative(tensors: Tensors, wanted: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Interpolate SAM's tables of relative positions [2 n - 1, D] linearly, as its own attention does."""
    done = []
    for name, table in tensors.items():
        target = wanted.get(name)
        if target is None or not name.endswith((".rel_pos_h", ".rel_pos_w")) or table.shape[1:] != target.shape[1:]:
            continue
        if table.shape[0] != target.shape[0]:
            rows = table.float().T[None]
            fitted = torch.nn.functional.interpolate(rows, size=int(target.shape[0]), mode="linear")
            tensors[name] = fitted[0].T
            done.append(name)
    return tuple(done)
