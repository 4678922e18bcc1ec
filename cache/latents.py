"""A shard's latents: the frozen teacher over stored pixels, in stored precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.layers import Layer
from usjepa.cache.precision import (
    QUANTISER_VERSION,
    STORED_DTYPE,
    channel_scale,
    check_finite,
    to_float16,
    to_float32,
    to_int8,
)

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.settings import LatentPrecision
    from usjepa.cache.teacher import Teacher

CALIBRATION_ROWS = 64
Check = Callable[[], None]


def latent_layers(teacher: Teacher, precision: LatentPrecision, pixels: Layer, rows_per_shard: int) -> list[Layer]:
    """Return the layers a teacher fills: its latents, and for int8 their scales (without calibration yet)."""
    tokens = teacher.grid[0] * teacher.grid[1]
    identity: dict[str, Json] = {
        "teacher": teacher.identity,
        "precision": precision,
        "quantiser": QUANTISER_VERSION[precision],
        "pixels": pixels.digest,
    }
    latents = Layer(f"latents/{teacher.name}", STORED_DTYPE[precision], (tokens, teacher.dim), rows_per_shard, identity)
    if precision != "int8":
        return [latents]
    return [Layer(f"scales/{teacher.name}", "float32", (tokens,), rows_per_shard, identity), latents]


def with_calibration(layers: list[Layer], sample_RTD: NDArray[np.float32]) -> list[Layer]:
    """Return the layers with the per-channel scale of an int8 layer filled in from a sample of latents."""
    scale = channel_scale(sample_RTD)
    return [replace(layer, channel_scale=scale) if layer.dtype == "int8" else layer for layer in layers]


def calibration_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return up to 64 evenly spaced rows: a pure function of the store, so a resumed build draws the same."""
    places = np.linspace(0, len(rows) - 1, min(CALIBRATION_ROWS, len(rows))).round().astype(np.int64)
    return rows[places]


def ask_teacher(
    teacher: Teacher, pixels: NDArray[np.uint8], numbers: NDArray[np.int64], batch_size: int, check: Check
) -> NDArray[np.float32]:
    """Return float32 latents [n, T, D] of uint8 pixels [n, C, S, S]; batches never leave the given rows.

    Raises:
        LatentError: a latent is not finite; the row and the value are named.
    """
    import torch

    found = np.empty((len(pixels), teacher.grid[0] * teacher.grid[1], teacher.dim), np.float32)
    on_gpu = teacher.device.type == "cuda"
    under_way: tuple[int, torch.Tensor, torch.cuda.Event | None] | None = None

    def keep(start: int, latents: torch.Tensor, arrived: torch.cuda.Event | None) -> None:
        if arrived is not None:
            arrived.synchronize()
        into = found[start : start + len(latents)]
        into[:] = latents.numpy()
        check_finite(into, numbers[start : start + len(into)])

    for start in range(0, len(pixels), batch_size):
        check()
        batch = torch.from_numpy(pixels[start : start + batch_size])
        answer, arrived = _asked(teacher, batch.pin_memory()) if on_gpu else (teacher(batch), None)
        if under_way is not None:
            keep(*under_way)  # on a GPU: while it computes the batch that was just given to it
        under_way = start, answer, arrived
    if under_way is not None:
        keep(*under_way)
    return found


def _asked(teacher: Teacher, pinned_BCSS: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
    """Set a batch going on a GPU; return page-locked memory for the answer, and the event that says it has arrived."""
    import torch

    latents_BTD = teacher(pinned_BCSS)
    into = torch.empty(latents_BTD.shape, dtype=latents_BTD.dtype, pin_memory=True)
    into.copy_(latents_BTD, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record()
    return into, arrived


def stored_form(
    latents_RTD: NDArray[np.float32], layer: Layer, first_row: int
) -> tuple[NDArray[np.generic], NDArray[np.float32] | None]:
    """Return latents as the layer stores them, and the scales that go with int8."""
    if layer.dtype == "int8":
        return to_int8(latents_RTD, layer.channel_scale, first_row)
    if layer.dtype == "float16":
        return to_float16(latents_RTD, first_row), None
    return to_float32(latents_RTD), None
