"""Describe how a layer's latents were made narrower or packed.

A stored token is read in this order: unpack two values from each byte, multiply by the token's scale, rotate back,
multiply by the channels' scales, go from axes to channels, add the offset. A coding has those steps that its layer
needs.

Shape suffixes: N places (any leading axes), D channels of the teacher, W channels that are stored (K axes, or D).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.coding.nibbles import packed_width
from usjepa.cache.coding.rotation import rotation_of
from usjepa.cache.lazy import lazy

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json

    Floats = NDArray[np.float32]

_MAX_CHANNELS = 1 << 16


@dataclass(frozen=True)
class Coding:
    """What a reader needs of a layer whose rows are not [T, D] values; raises ValueError on what can't be one.

    Arrays are held as text, as JSON holds them: little-endian, in base64.
    """

    width: int
    """D, channels of the teacher."""
    offset: str
    """float32 [D], the mean of a sample: taken away before all else, added after all else."""
    axes: str = ""
    """float16 [K, D], orthonormal rows; "" where all channels are kept."""
    count: int = 0
    """K, 0 where all channels are kept."""
    packed: bool = False
    """Whether two 4-bit values share a byte; they are rotated."""
    sample_rows: int = 0
    """Rows of the sample that all this was found in."""
    kept: float = 1.0
    """Share of the variance that the axes keep: found in one half of the sample, measured on the other."""
    error: float = 0.0
    """Relative error of the other half, read back."""

    def __post_init__(self) -> None:
        if not (0 < self.width <= _MAX_CHANNELS and 0 <= self.count <= self.width):
            raise ValueError(f"{self.count} axes of {self.width} channels")
        if self.mean.shape != (self.width,) or not np.isfinite(self.mean).all():
            raise ValueError(f"an offset that is not of {self.width} finite numbers")
        if (self.basis is None) == bool(self.count):
            raise ValueError(f"no {self.count} axes of {self.width} channels")
        if self.basis is not None and not np.isfinite(self.basis).all():
            raise ValueError("axes that are not finite")

    @classmethod
    def of(cls, offset_D: Floats, axes_KD: NDArray[np.float16] | None = None, packed: bool = False) -> Coding:
        """Return the coding of some arrays."""
        axes = "" if axes_KD is None else _text(axes_KD.astype("<f2"))
        return cls(len(offset_D), _text(offset_D.astype("<f4")), axes, 0 if axes_KD is None else len(axes_KD), packed)

    def with_sample(self, rows: int, kept: float, error: float) -> Coding:
        """Return it with what is known of its sample."""
        return replace(self, sample_rows=rows, kept=kept, error=error)

    def __str__(self) -> str:
        axes = f"{self.count} of {self.width} axes keep {100 * self.kept:.1f} % of the variance; " if self.count else ""
        return f"{axes}relative error {self.error:.2g}, by halves of {self.sample_rows} rows"

    @property
    def coded_width(self) -> int:
        """W, values that are stored of a token."""
        return self.count or self.width

    @property
    def stored_width(self) -> int:
        """Length of a stored token in its array: bytes where it is packed, else W."""
        return packed_width(self.coded_width) if self.packed else self.coded_width

    @property
    def rotation(self) -> int:
        """n of the rotation, see `rotation.py`; 0 where there is none."""
        return rotation_of(self.coded_width) if self.packed else 0

    @lazy
    def mean(self) -> Floats:
        """float32 [D]."""
        return _array(self.offset, "<f4").astype(np.float32)

    @lazy
    def basis(self) -> Floats | None:
        """float32 [K, D], the very numbers that are kept as float16; None where all channels are kept."""
        found = _array(self.axes, "<f2")
        return found.astype(np.float32).reshape(self.count, self.width) if len(found) else None

    def project(self, latents_ND: Floats) -> Floats:
        """Return latents without their offset, on the axes: float32 [..., W]."""
        centred: Floats = latents_ND - self.mean
        if self.basis is None:
            return centred
        projected: Floats = centred @ self.basis.T
        return projected

    def restore(self, values_NW: Floats) -> Floats:
        """Return latents [..., D] of values on the axes."""
        latents: Floats = values_NW if self.basis is None else values_NW @ self.basis
        return latents + self.mean

    def project_tensor(self, latents_ND: torch.Tensor) -> torch.Tensor:
        """Return what `project` does, on the tensor's device; sums of products there may round differently."""
        centred = latents_ND - _on(self.mean, latents_ND)
        return centred if self.basis is None else centred @ _on(self.basis, latents_ND).T

    def restore_tensor(self, values_NW: torch.Tensor) -> torch.Tensor:
        """Return what `restore` does, on the tensor's device; sums of products there may round differently."""
        latents = values_NW if self.basis is None else values_NW @ _on(self.basis, values_NW)
        return latents + _on(self.mean, values_NW)

    def to_json(self) -> dict[str, Json]:
        """Return it as a layer's description has it."""
        return {
            "width": self.width,
            "coded_width": self.coded_width,
            "offset": self.offset,
            "axes": self.axes or None,
            "packed": self.packed,
            "rotation": self.rotation or None,
            "sample": {"rows": self.sample_rows, "kept": self.kept, "error": self.error},
        }

    @classmethod
    def from_json(cls, data: Any) -> Coding:
        """Rebuild it; raises KeyError, TypeError or ValueError on what is none."""
        axes, sample = data["axes"] or "", data["sample"]
        made = cls(
            int(data["width"]), str(data["offset"]), str(axes), int(data["coded_width"]) if axes else 0,
            bool(data["packed"]), int(sample["rows"]), float(sample["kept"]), float(sample["error"]),
        )  # fmt: skip
        if made.to_json() != data:
            raise ValueError("a coding that contradicts itself")
        return made


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _array(text: str, dtype: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype)


def _on(array: Floats, beside: torch.Tensor) -> torch.Tensor:
    """Return an array on the device that a tensor is on."""
    import torch

    # A copy, as torch warns of memory that can't be written.
    return torch.tensor(array, device=beside.device)
