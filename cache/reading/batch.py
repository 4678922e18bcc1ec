"""Hold a batch: rows as they are stored, and their latents as targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from usjepa.cache.store.precision import to_targets

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import torch
    from numpy.typing import NDArray


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
        """float32, float16 or int8 [B, T, D], as stored."""
        return self.arrays[f"latents/{self.teacher}"]

    @property
    def scales(self) -> NDArray[np.float32] | None:
        """float32 [B, T] for int8 latents, else None."""
        return self.arrays.get(f"scales/{self.teacher}")

    def targets(self, device: str = "cpu") -> torch.Tensor:
        """Return the latents as float32 [B, T, D] on a device; int8 is scaled back there."""
        channels = self.row_scales.get(self.teacher or "", self.channel_scale)
        return to_targets(self.latents, self.scales, channels, device)

    def targets_of(self, teacher: str, channel_scale: tuple[float, ...], device: str = "cpu") -> torch.Tensor:
        """Return the latents of one of several teachers that were read, as `targets` does."""
        latents, scales = self.arrays[f"latents/{teacher}"], self.arrays.get(f"scales/{teacher}")
        return to_targets(latents, scales, self.row_scales.get(teacher, channel_scale), device)
