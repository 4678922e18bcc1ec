"""Turn stored pixels into a model's input: scaled, resized, normalised on the model's device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from usjepa.cache.identity import Json

RESIZE = "bicubic, antialiased"
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ModelInput:
    """What a model expects: size, channels and normalisation. A wrong one costs up to ten points of a probe."""

    size: int
    """Edge in pixels; stored pixels of another size are resized, bicubic and antialiased, the whole frame always."""
    channels: int
    mean: tuple[float, ...]
    """Per channel, subtracted from pixels scaled to [0, 1]."""
    std: tuple[float, ...]
    """Per channel, divides after the mean is subtracted."""

    def to_json(self) -> dict[str, Json]:
        """Return it as it stands in identities and in `scores.json`."""
        return {"size": self.size, "channels": self.channels, "mean": list(self.mean), "std": list(self.std)}

    def __str__(self) -> str:
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        channels = f"{self.channels} {'channel' if self.channels == 1 else 'channels'}"
        return f"{self.size} x {self.size}, {channels}, mean {mean}, std {std}"

    def __call__(self, pixels_BCSS: torch.Tensor, device: torch.device | str) -> torch.Tensor:
        """Return float32 [B, channels, size, size] on the device, from pixels [B, C, S, S] in 0..255, C 1 or channels.

        Deterministic, and part of the identity of whatever the model computes.
        """
        x = pixels_BCSS.to(device, non_blocking=True).to(torch.float32) / 255.0
        x = _grey(x) if x.shape[1] > self.channels else x.expand(-1, self.channels, -1, -1)
        if x.shape[-1] != self.size:
            edge = (self.size, self.size)
            x = torch.nn.functional.interpolate(x, edge, mode="bicubic", antialias=True, align_corners=False)
        return self.normalised(x)

    def normalised(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return pixels in [0, 1], float32 [B, 1 or channels, S, S], with grey repeated, less mean and over std."""
        mean, std = (_channels(values, x_BCSS.device) for values in (self.mean, self.std))
        return (x_BCSS.expand(-1, self.channels, -1, -1) - mean) / std


def _grey(x_BCSS: torch.Tensor) -> torch.Tensor:
    """Return the luma of colour pixels by Rec. 601, [B, 1, S, S]."""
    shares = torch.tensor(_LUMA, device=x_BCSS.device).reshape(1, 3, 1, 1)
    return (x_BCSS * shares).sum(dim=1, keepdim=True)


@lru_cache(maxsize=64)
def _channels(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return float32 [1, C, 1, 1] on a device; kept, since a copy to a GPU would wait for it at every batch."""
    with torch.inference_mode(False):  # a tensor made in inference mode is of no use to a training later
        return torch.tensor(values, device=device).reshape(1, -1, 1, 1)
