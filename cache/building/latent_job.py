"""Collect everything that decides the bytes of a teacher's layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.store.writer import check_same_layer
from usjepa.cache.teacher.batch_size import choose_batch_size
from usjepa.cache.teacher.layers import teacher_layers
from usjepa.cache.teacher.resolve import load_teacher

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import CacheSettings, TeacherSettings
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.state import State
    from usjepa.cache.teacher.teacher import Teacher


@dataclass(frozen=True)
class LatentJob:
    """A teacher, the layers that it fills, and how it is run."""

    teacher: Teacher
    layers: tuple[Layer, ...]
    """Scales, for int8, before latents."""
    batch_size: int
    """Rows per forward pass; a batch never crosses a shard."""
    soft: dict[str, Json]
    """Soft identity of what is computed, for the commit records."""


def make_job(
    teacher: Teacher,
    layers: Iterable[Layer],
    chosen: TeacherSettings,
    pixels: Layer,
    kept: Iterable[Mapping[str, Json]],
) -> LatentJob:
    """Return the job of a loaded teacher; its batch size is the recipe's, or that of earlier commits, or found now.

    Args:
        teacher: the loaded teacher.
        layers: those that it fills.
        chosen: its settings.
        pixels: the store's layer of pixels.
        kept: soft identities of the commits of its latents.
    """
    channels, size, _ = pixels.shape
    choice = choose_batch_size(teacher, chosen, channels, size, kept)
    return LatentJob(teacher, tuple(layers), choice.size, teacher.soft | choice.soft)


def job_of_stored_layers(
    state: State,
    settings: CacheSettings,
    chosen: TeacherSettings,
    device: str | None,
    kept: Mapping[str, Iterable[Mapping[str, Json]]],
    where: str,
) -> LatentJob:
    """Load the teacher of layers that a store has, and make sure that it is the same teacher.

    Args:
        state: of the store.
        settings: the `cache` section that it was built with.
        chosen: the teacher's settings.
        device: torch device.
        kept: layer name -> soft identities of its commits, as far as they are read.
        where: names store and process in messages.

    Raises:
        UsageError: the store has no such layers.
        IdentityError: they are another teacher's; the fields are shown.
    """
    teacher = load_teacher(chosen, settings.image_size, device)
    layers = teacher_layers(teacher, settings.precision, state)
    for layer in layers:
        if layer.name not in state.layers:
            raise UsageError(f"{where}: has no {layer.name}. Build it first, or give the teacher that it has.")
        check_same_layer(state.layers[layer.name], layer, where)
    return make_job(teacher, layers, chosen, state.layers["pixels"], kept.get(f"latents/{teacher.name}", ()))
