"""Asks the teacher for many rows, batch by batch; two batches are under way, so that a GPU need not wait.

While a GPU computes a batch, the answers of the one before travel to page-locked memory and are looked at here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from usjepa.cache.precision import check_finite
from usjepa.cache.stored_form import StoredForm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from usjepa.cache.layers import Layer
    from usjepa.cache.teacher import Teacher

    Check = Callable[[], None]


def ask_teacher(
    teacher: Teacher, pixels: NDArray[np.uint8], numbers: NDArray[np.int64], batch_size: int, check: Check
) -> NDArray[np.float32]:
    """Return float32 latents [n, T, D] of uint8 pixels [n, C, S, S]; batches never leave the given rows.

    Raises:
        LatentError: a latent is not finite; the row and the value are named.
    """
    found = np.empty((len(pixels), teacher.grid[0] * teacher.grid[1], teacher.dim), np.float32)
    for start in range(0, len(pixels), batch_size):
        check()
        into = found[start : start + batch_size]
        into[:] = teacher(torch.from_numpy(pixels[start : start + batch_size])).cpu().numpy()
        check_finite(into, numbers[start : start + batch_size])
    return found


def ask_for_shard(
    teacher: Teacher,
    pixels: NDArray[np.uint8],
    first_row: int,
    batch_size: int,
    check: Check,
    layer: Layer,
    into: Mapping[str, NDArray[Any]],
) -> None:
    """Fill in the latents of consecutive rows as they are stored; batches never leave the given rows.

    Args:
        teacher: the loaded teacher.
        pixels: uint8 [n, C, S, S].
        first_row: the number of the first of them.
        batch_size: images that the teacher sees at a time.
        check: called before each batch; may raise to stop.
        layer: of the latents.
        into: layer name -> C-contiguous [n, *shape] of the stored dtype; best page-locked where there is a GPU.

    Raises:
        LatentError: a latent can't be stored; the row and the value are named.
    """
    form = StoredForm(layer, teacher.device)
    values = torch.from_numpy(into[layer.name])
    scales = torch.from_numpy(into[f"scales/{teacher.name}"]) if layer.dtype == "int8" else None
    under_way: _UnderWay | None = None
    for start in range(0, len(pixels), batch_size):
        check()
        here = slice(start, start + batch_size)
        asked = _set_going(teacher, pixels[here], form, values[here], None if scales is None else scales[here])
        if under_way is not None:
            _receive(under_way, form)
        under_way = _UnderWay(first_row + start, *asked)
    if under_way is not None:
        _receive(under_way, form)


class _UnderWay(NamedTuple):
    """A batch that the teacher was asked for, and whose answer may not have arrived yet."""

    first_row: int
    latents_BTD: torch.Tensor
    """float32, on the device"""
    fits_B: torch.Tensor
    """bool, on the host: whether the row could be stored"""
    arrived: torch.cuda.Event | None


def _set_going(
    teacher: Teacher, pixels: NDArray[np.uint8], form: StoredForm, values: torch.Tensor, scales: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.cuda.Event | None]:
    """Ask for a batch; on a GPU without waiting for any of it. Its stored form goes to `values` and `scales`."""
    on_gpu = teacher.device.type == "cuda"
    batch_BCSS = torch.from_numpy(pixels)
    latents_BTD = teacher(batch_BCSS.pin_memory() if on_gpu else batch_BCSS)
    stored = form.of(latents_BTD)
    values.copy_(stored.values_BTD, non_blocking=True)
    if scales is not None and stored.scales_BT is not None:
        scales.copy_(stored.scales_BT, non_blocking=True)
    if not on_gpu:
        return latents_BTD, stored.fits_B, None
    fits_B = torch.empty(len(pixels), dtype=torch.bool, pin_memory=True)
    fits_B.copy_(stored.fits_B, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return latents_BTD, fits_B, arrived


def _receive(batch: _UnderWay, form: StoredForm) -> None:
    if batch.arrived is not None:
        batch.arrived.synchronize()
    if not batch.fits_B.all():
        form.refuse(batch.latents_BTD, batch.first_row)
