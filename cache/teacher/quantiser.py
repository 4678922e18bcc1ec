"""Bring latents into stored precision on the device that computed them.

On a GPU that halves what travels to the host, or quarters it, and leaves the processor nothing to do with latents but
to hash and to write them. Every operation here is rounded as IEEE 754 says, on any device: a division is one by a
tensor on the device, as PyTorch multiplies by the reciprocal where a GPU divides by a number of the host's. The one
exception are axes: sums of many products, in an order that is the device's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.coding.nibbles import LARGEST as LARGEST_NIBBLE
from usjepa.cache.coding.nibbles import pack_tensor
from usjepa.cache.coding.principal import LARGEST
from usjepa.cache.coding.rotation import rotate_tensor
from usjepa.cache.store.precision import LEAST_SCALE, LatentError, check_finite, nibble_divisor, quantise

if TYPE_CHECKING:
    from usjepa.cache.coding.coding import Coding
    from usjepa.cache.store.layers import Layer

_LIMIT = {"float32": float(np.finfo(np.float32).max), "float16": float(np.finfo(np.float16).max)}


@dataclass(frozen=True)
class Quantised:
    """Latents of some rows as a store holds them, on the device."""

    values_BTD: torch.Tensor
    """float32, float16 or int8, [B, T, W] on axes; uint8 [B, T, V] where two values share a byte."""
    scales_BT: torch.Tensor | None
    """float32 with int8 and int4, else none."""
    fits_B: torch.Tensor
    """bool: whether the row can be stored; the values of the others mean nothing."""


class DeviceQuantiser:
    """Quantises latents of one layer on one device."""

    def __init__(self, layer: Layer, device: torch.device) -> None:
        self._layer, self._dtype = layer, layer.dtype
        self._channels_D = torch.tensor(layer.channel_scale, dtype=torch.float32, device=device)
        coding = layer.coding
        levels = 127.0 if coding is None or not coding.packed else nibble_divisor(coding.coded_width)
        self._levels = torch.tensor(levels, dtype=torch.float32, device=device)

    def quantise(self, latents_BTD: torch.Tensor) -> Quantised:
        """Return float32 latents [B, T, D] as they are stored."""
        coding = self._layer.coding
        if coding is None:
            return self._plain(latents_BTD)
        fits_B = latents_BTD.abs().amax(dim=(1, 2)) <= LARGEST
        values_BTW = coding.project_tensor(latents_BTD)
        stored = self._int4(values_BTW, coding) if coding.packed else self._plain(values_BTW)
        return Quantised(stored.values_BTD, stored.scales_BT, stored.fits_B & fits_B)

    def _plain(self, latents_BTD: torch.Tensor) -> Quantised:
        if self._dtype == "int8":
            return self._int8(latents_BTD)
        fits_B = latents_BTD.abs().amax(dim=(1, 2)) <= _LIMIT[self._dtype]  # false for NaN too
        stored = latents_BTD.to(torch.float16) if self._dtype == "float16" else latents_BTD
        return Quantised(stored, None, fits_B)

    def _int8(self, latents_BTD: torch.Tensor) -> Quantised:
        even_BTD, scales_BT, fits_B = self._scaled(latents_BTD / self._channels_D)
        return Quantised(even_BTD.round_().clamp_(-127, 127).to(torch.int8), scales_BT, fits_B)

    def _int4(self, values_BTW: torch.Tensor, coding: Coding) -> Quantised:
        even_BTW, scales_BT, fits_B = self._scaled(rotate_tensor(values_BTW / self._channels_D, coding.rotation))
        whole_BTW = even_BTW.round_().clamp_(-LARGEST_NIBBLE, LARGEST_NIBBLE)
        return Quantised(pack_tensor(whole_BTW), scales_BT, fits_B)

    def _scaled(self, even_BTW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return values divided by their token's scale, in place, the scales [B, T], and which rows [B] fit."""
        peak_BT = even_BTW.abs().amax(dim=2)
        scales_BT = peak_BT / self._levels
        scales_BT.masked_fill_(scales_BT < float(LEAST_SCALE), 1)
        return even_BTW.div_(scales_BT[:, :, None]), scales_BT, torch.isfinite(peak_BT).all(dim=1)

    def refuse(self, latents_BTD: torch.Tensor, first_row: int) -> None:
        """Name the first value, among rows that do not all fit, that can't be stored.

        Raises:
            LatentError: names row, token, channel and value.
        """
        latents = latents_BTD.cpu().numpy()
        check_finite(latents, np.arange(first_row, first_row + len(latents)))
        quantise(latents, self._layer, first_row)
        raise LatentError(
            first_row,
            f"on {latents_BTD.device} some latent of it, or of the rows behind it, could not be stored, and the "
            "processor finds none such: the device's memory or its driver is at fault.",
        )
