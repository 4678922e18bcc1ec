"""Describe the layers that a teacher fills: shape, precision, identity, calibration of int8."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.precision import QUANTISER_VERSION, STORED_DTYPE, channel_scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import LatentPrecision
    from usjepa.cache.store.state import State
    from usjepa.cache.teacher.teacher import Pass, Teacher

_CALIBRATION_ROWS = 64


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


def teacher_layers(teacher: Teacher, precision: LatentPrecision, state: State) -> list[Layer]:
    """Return the layers that a teacher fills; an int8 layer with the calibration that the store keeps."""
    layers = latent_layers(teacher, precision, state.layers["pixels"], state.rows_per_shard)
    stored = state.layers.get(f"latents/{teacher.name}")
    scale = stored.channel_scale if stored is not None else ()
    return [replace(layer, channel_scale=scale) if layer.dtype == "int8" else layer for layer in layers]


def pass_layers(run: Pass, precision: LatentPrecision, state: State) -> list[Layer]:
    """Return the layers that all teachers of a pass fill, as `teacher_layers` does for one."""
    return [layer for teacher in run.teachers for layer in teacher_layers(teacher, precision, state)]


def with_calibration(layers: Sequence[Layer], sample_RTD: NDArray[np.float32]) -> list[Layer]:
    """Return the layers with the per-channel scale of an int8 layer filled in from a sample of latents."""
    scale = channel_scale(sample_RTD)
    return [replace(layer, channel_scale=scale) if layer.dtype == "int8" else layer for layer in layers]


def calibration_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return up to 64 evenly spaced rows: a pure function of the store, so a resumed build draws the same."""
    places = np.linspace(0, len(rows) - 1, min(_CALIBRATION_ROWS, len(rows))).round().astype(np.int64)
    return rows[places]


def square_grid(tokens: int, where: str) -> tuple[int, int]:
    """Return patches down and across of stored latents; a store keeps their number T alone.

    Args:
        tokens: T.
        where: names the latents in the message.

    Raises:
        UsageError: T is not a square number.
    """
    edge = math.isqrt(tokens)
    if edge * edge != tokens:
        raise UsageError(
            f"{where}: {tokens} patch tokens per image form no square grid, and training and evaluation need one. Use "
            "a teacher whose patches form one."
        )
    return edge, edge
