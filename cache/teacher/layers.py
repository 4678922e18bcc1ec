"""Describe the layers that a teacher fills: shape, form, identity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.store.calibration import with_stored_calibration
from usjepa.cache.store.layers import Layer

if TYPE_CHECKING:
    from usjepa.cache.coding.form import Form
    from usjepa.cache.identity import Json
    from usjepa.cache.store.state import State
    from usjepa.cache.teacher.teacher import Pass, Teacher


def latent_layers(teacher: Teacher, form: Form, pixels: Layer, rows_per_shard: int) -> list[Layer]:
    """Return the layers a teacher fills: its latents, and the scales of their tokens (nothing calibrated yet).

    Raises:
        UsageError: more axes than the teacher has channels.
    """
    tokens = teacher.grid[0] * teacher.grid[1]
    identity: dict[str, Json] = {"teacher": teacher.identity, **form.identity(), "pixels": pixels.digest}
    return layers_of(teacher.name, (tokens, teacher.dim), form, rows_per_shard, identity)


def layers_of(
    name: str, shape: tuple[int, int], form: Form, rows_per_shard: int, identity: dict[str, Json]
) -> list[Layer]:
    """Return the layers of latents [T, D] in a form, not calibrated yet: scales, if any, before latents.

    Raises:
        UsageError: more axes than there are channels.
    """
    if form.axes is not None and form.axes > shape[1]:
        raise UsageError(
            f"latents of {name} have {shape[1]} channels, so there are no {form.axes} axes. Give cache.axes (--axes) "
            f"of at most {shape[1]}; fewer take less room."
        )
    latents = Layer(f"latents/{name}", form.dtype, form.row_shape(*shape), rows_per_shard, identity)
    scales = Layer(f"scales/{name}", "float32", shape[:1], rows_per_shard, identity)
    return [scales, latents] if form.scaled else [latents]


def teacher_layers(teacher: Teacher, form: Form, state: State) -> list[Layer]:
    """Return the layers that a teacher fills, with the calibration that the store keeps."""
    layers = latent_layers(teacher, form, state.layers["pixels"], state.rows_per_shard)
    return [with_stored_calibration(layer, state.layers.get(layer.name)) for layer in layers]


def pass_layers(run: Pass, form: Form, state: State) -> list[Layer]:
    """Return the layers that all teachers of a pass fill, as `teacher_layers` does for one."""
    return [layer for teacher in run.teachers for layer in teacher_layers(teacher, form, state)]


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
