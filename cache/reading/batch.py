"""Hold a batch: rows as they are stored, and their latents as targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.store.precision import to_targets

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from usjepa.cache.coding.coding import Coding
    from usjepa.cache.store.layers import Layer


@dataclass(frozen=True)
class Batch:
    """Rows as they are stored, in the order asked for; the memory is fresh, or the caller's own where it gave some."""

    rows: NDArray[np.int64]
    """[B] row numbers."""
    arrays: dict[str, NDArray[Any]]
    """Layer name -> [B, *shape]."""
    teacher: str | None
    """Name of the teacher whose latents these are; None when no latents were read."""
    channel_scale: tuple[float, ...] = ()
    row_scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """Teacher -> float32 [B, D], in place of `channel_scale` where the rows are of stores that differ in it."""
    codings: Mapping[str, Coding] = field(default_factory=dict)
    """Teacher -> what leads from stored rows to [T, D], for layers that are on axes or packed."""
    by_store: Mapping[str, tuple[NDArray[np.int64], Sequence[Layer]]] = field(default_factory=dict)
    """Teacher -> which store each row is of [B], and the layer in each; in place of `codings` where they differ."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 [B, C, S, S]."""
        return self.arrays["pixels"]

    @property
    def regions(self) -> NDArray[np.uint8]:
        """uint8 [B, n]: one bit per 2x2-pixel cell, NumPy big bit order."""
        return self.arrays["regions"]

    @property
    def latents(self) -> NDArray[Any]:
        """float32, float16 or int8 [B, T, D], as stored; [B, T, K] on axes; uint8 [B, T, ceil(W / 2)] of int4."""
        return self.arrays[f"latents/{self.teacher}"]

    @property
    def scales(self) -> NDArray[np.float32] | None:
        """float32 [B, T] for int8 and int4 latents, else None."""
        return self.arrays.get(f"scales/{self.teacher}")

    def targets(self, device: str = "cpu") -> torch.Tensor:
        """Return the latents as float32 [B, T, D] on a device, whatever their stored form; scaled back there."""
        return self.targets_of(self.teacher or "", self.channel_scale, device)

    def targets_of(self, teacher: str, channel_scale: tuple[float, ...], device: str = "cpu") -> torch.Tensor:
        """Return the latents of one of several teachers that were read, as `targets` does."""
        latents, scales = self.arrays[f"latents/{teacher}"], self.arrays.get(f"scales/{teacher}")
        if teacher in self.by_store:
            return _by_store(latents, scales, *self.by_store[teacher], device)
        return to_targets(
            latents, scales, self.row_scales.get(teacher, channel_scale), device, self.codings.get(teacher)
        )


def _by_store(
    latents: NDArray[Any],
    scales: NDArray[np.float32] | None,
    part_B: NDArray[np.int64],
    layers: Sequence[Layer],
    device: str,
) -> torch.Tensor:
    """Return the latents of rows whose stores found other axes or scales, each read with its own."""
    import torch

    found: torch.Tensor | None = None
    for part in np.unique(part_B).tolist():
        layer, places = layers[part], np.flatnonzero(part_B == part)
        mine = None if scales is None else scales[places]
        read = to_targets(latents[places], mine, layer.channel_scale, device, layer.coding)
        if found is None:
            found = torch.empty((len(latents), *read.shape[1:]), device=read.device)
        found[torch.from_numpy(places).to(read.device)] = read
    return torch.empty((0, *layers[0].latent_shape), device=device) if found is None else found
