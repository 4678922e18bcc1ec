"""Collect everything that decides the bytes of a teacher's layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.store.writer import check_same_layer
from usjepa.cache.teacher.batch_size import KEY, choose_batch_size
from usjepa.cache.teacher.layers import pass_layers
from usjepa.cache.teacher.resolve import load_pass
from usjepa.cache.teacher.teacher import Alone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import CacheSettings, TeacherSettings
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.state import State
    from usjepa.cache.teacher.teacher import Pass, Teacher


@dataclass(frozen=True)
class LatentJob:
    """A teacher, or several of one pass, the layers that they fill, and how they are run."""

    run: Pass
    layers: tuple[Layer, ...]
    """Scales, if any, before latents; one teacher's after another's."""
    batch_size: int
    """Rows per forward pass; a batch never crosses a shard."""
    soft: dict[str, Json]
    """Soft identity of what is computed, for the commit records."""

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """Whose latents are computed."""
        return self.run.teachers

    def only(self, name: str, batch_size: int | None) -> LatentJob | None:
        """Return the part of one teacher; None where it is not among them.

        Args:
            name: the teacher's.
            batch_size: found when its layer was begun; none: this job's.
        """
        teacher = next((teacher for teacher in self.teachers if teacher.name == name), None)
        if teacher is None:
            return None
        layers = tuple(layer for layer in self.layers if layer.teacher == name)
        size = batch_size or self.batch_size
        soft = {**self.soft, KEY: size} if KEY in self.soft else self.soft
        return replace(self, run=Alone(teacher), layers=layers, batch_size=size, soft=soft)


def make_job(
    run: Pass,
    layers: Iterable[Layer],
    chosen: TeacherSettings,
    pixels: Layer,
    kept: Iterable[Mapping[str, Json]],
) -> LatentJob:
    """Return the job of a loaded teacher; its batch size is the recipe's, or that of earlier commits, or found now.

    Args:
        run: the loaded teacher, or several of one pass.
        layers: those that it fills.
        chosen: its settings.
        pixels: the store's layer of pixels.
        kept: soft identities of the commits of its latents.
    """
    channels, size, _ = pixels.shape
    choice = choose_batch_size(run, chosen, channels, size, kept)
    return LatentJob(run, tuple(layers), choice.size, run.teachers[0].soft | choice.soft)


def job_on(device: str, job: LatentJob, settings: CacheSettings, chosen: TeacherSettings) -> LatentJob:
    """Return a job on a further device, where its teacher is loaded once more; IdentityError if it changed since."""
    run = load_pass(chosen, settings.image_size, device)
    if [teacher.identity for teacher in run.teachers] != [teacher.identity for teacher in job.teachers]:
        raise IdentityError(
            f"teacher {chosen.name}: its files changed while it was loaded. Run the same command again."
        )
    return replace(job, run=run)


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
    run = load_pass(chosen, settings.image_size, device)
    layers = pass_layers(run, settings.form, state)
    for layer in layers:
        if layer.name not in state.layers:
            raise UsageError(f"{where}: has no {layer.name}. Build it first, or give the teacher that it has.")
        check_same_layer(state.layers[layer.name], layer, where)
    mine = [soft for teacher in run.teachers for soft in kept.get(f"latents/{teacher.name}", ())]
    return make_job(run, layers, chosen, state.layers["pixels"], mine)
