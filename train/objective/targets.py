"""Choose the targets that `train.objective` and `train.targets` name.

| train.objective | train.targets | targets                                              |
|-----------------|---------------|------------------------------------------------------|
| latents         | cached        | a teacher's latents, read from the store             |
| latents         | online        | latents that the recipe's teacher computes each step |
| latents         | layers' names | several layers of latents, side by side in one tensor |
| pixels          | -             | the patches' own pixels (`pixel_targets.py`)         |
| contrast        | -             | none: images find their partners (`contrast_loss.py`)|

timm is imported only where targets are computed: a loop over stored latents (`StoreDataset`) does without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.identity import differences, explain
from usjepa.cache.teacher.layers import square_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.several.face import Readable


@dataclass(frozen=True)
class Targets:
    """What the student predicts, and where it comes from."""

    name: str
    """Name of the teacher; `pixels` or `contrast` where there is none."""
    identity: dict[str, Json]
    """Hard: what the targets depend on, beside the pixels."""
    grid: tuple[int, int]
    """Patches down and across."""
    dim: int
    """D, width of a target."""
    online: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Computes targets, float32 [B, T, D], from pixels, uint8 [B, C, S, S], in each step; None: they are stored."""
    warning: str | None = None
    """Message for the user before these targets are trusted, such as random weights."""
    channel_scale: tuple[float, ...] = ()
    """Of a stored int8 or int4 layer."""
    parts: tuple[Targets, ...] = ()
    """Of several targets, each by itself; they lie side by side, in this order."""
    weights: tuple[float, ...] = ()
    """Of several targets, in the loss; they sum to 1."""

    @property
    def each(self) -> tuple[Targets, ...]:
        """The targets one by one: this one, or its parts."""
        return self.parts or (self,)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the store that hold the targets, scales among them if the store has any; () with `online`."""
        if self.online is not None:
            return ()
        return tuple(f"{kind}/{part.name}" for part in self.each for kind in ("latents", "scales"))

    def stored(self, read: Batch, device: str) -> torch.Tensor:
        """Return the stored targets of a batch that was read, float32 [B, T, D] on a device, in memory of its own."""
        found = [read.targets_of(part.name, part.channel_scale, device) for part in self.each]
        if len(found) == 1:
            return found[0]
        import torch

        if device != "cpu":
            return torch.cat(found, dim=-1)
        # In NumPy, as `to_targets` converts: no loop of torch's beside the thread that trains.
        return torch.from_numpy(np.concatenate([latents_BTD.numpy() for latents_BTD in found], axis=-1))


def choose_targets(store: Readable, recipe: Recipe, device: torch.device) -> Targets:
    """Return the targets of a recipe.

    Raises:
        UsageError: the store lacks them, or the recipe names no teacher.
        IdentityError: the store holds latents of another teacher under the online teacher's name.
        TeacherError: the online teacher's checkpoint does not fit.
    """
    if recipe.train.objective == "pixels":
        return _pixels(store, recipe)
    if recipe.train.objective == "contrast":
        return _contrast(store, recipe)
    if recipe.train.targets == "online":
        return _online(store, recipe, device)
    if isinstance(recipe.train.targets, tuple):
        return joined_latents(store, recipe.train.targets, recipe.train.target_weights)
    return stored_latents(store, recipe.train.teacher)


def layers_read(stores: Sequence[Readable], recipe: Recipe) -> list[str]:
    """Return the layers that a training reads of its stores: those in which several must agree.

    Raises:
        UsageError: a store lacks the targets, or holds several and the recipe names none.
    """
    settings = recipe.train
    names = ["pixels", *(["regions"] if settings.masks.regions else [])]
    if settings.objective == "latents" and settings.targets != "online":
        wanted = settings.targets if isinstance(settings.targets, tuple) else (settings.teacher,)
        found = {f"latents/{stored_latents(store, teacher).name}" for teacher in wanted for store in stores}
        names += sorted(found)
    return names


def joined_latents(store: Readable, names: tuple[str, ...], weights: tuple[float, ...] | None) -> Targets:
    """Return several layers of latents as targets that are predicted together.

    Raises:
        UsageError: the store lacks one, or their patch grids differ.
    """
    parts = tuple(stored_latents(store, name) for name in names)
    for part in parts:
        if part.grid != parts[0].grid:
            raise UsageError(
                f"{store.location}: the patches of {part.name} form a grid of {part.grid[0]} x {part.grid[1]}, those "
                f"of {parts[0].name} one of {parts[0].grid[0]} x {parts[0].grid[1]}. Targets that are predicted "
                "together need one grid: set cache.teacher.image_size so that they have, or train with one of them."
            )
    if len(parts) == 1:
        return parts[0]
    shares = weights or (1.0,) * len(parts)
    identity: dict[str, Json] = {"targets": {part.name: part.identity for part in parts}}
    scaled = tuple(share / sum(shares) for share in shares)
    return Targets("+".join(names), identity, parts[0].grid, sum(p.dim for p in parts), parts=parts, weights=scaled)


def stored_latents(store: Readable, teacher: str | None) -> Targets:
    """Return the latents of a teacher in the store; `teacher` None: of the only one.

    Raises:
        UsageError: the store holds no such latents or several, or their tokens do not form a square grid.
    """
    stored = ", ".join(store.latents) or "none"
    if teacher is None:
        if len(store.latents) != 1:
            remedy = "name one (train.teacher)" if store.latents else "run usjepa-cache build with --teacher"
            raise UsageError(f"{store.location}: holds latents of {stored}, so the targets are not clear: {remedy}.")
        teacher = store.latents[0]
    if teacher not in store.latents:
        raise UsageError(f"{store.location}: no latents of {teacher!r}. It holds latents of: {stored}.")
    layer = store.layers[f"latents/{teacher}"]
    tokens, dim = layer.latent_shape
    grid = square_grid(tokens, f"{store.location}, latents/{teacher}")
    return Targets(teacher, layer.identity, grid, dim, channel_scale=layer.channel_scale)


def _pixels(store: Readable, recipe: Recipe) -> Targets:
    """Return the patches' own pixels, on the student's grid."""
    from usjepa.train.model.student import student_grid
    from usjepa.train.objective.pixel_targets import NAME, PixelTargets

    settings = recipe.train
    grid = student_grid(settings.student, store.size)
    made = PixelTargets(store.size, store.channels, grid, settings.pixel_norm, settings.pixel_cell)
    return Targets(NAME, made.identity, made.grid, made.dim, made)


def _contrast(store: Readable, recipe: Recipe) -> Targets:
    """Return what stands for targets where images are compared with each other."""
    from usjepa.train.model.student import student_grid
    from usjepa.train.objective.contrast_loss import CONTRAST_VERSION

    settings = recipe.train.contrast
    described: dict[str, Json] = {"version": CONTRAST_VERSION, **settings.model_dump(mode="json")}
    return Targets("contrast", {"contrast": described}, student_grid(recipe.train.student, store.size), settings.dim)


def _online(store: Readable, recipe: Recipe, device: torch.device) -> Targets:
    """Load the recipe's teacher; refuse it when the store holds latents of another one under its name."""
    from usjepa.cache.teacher.resolve import load_pass, only_teacher

    settings = recipe.cache.teacher
    if settings is None:
        raise UsageError("train.targets=online runs the recipe's teacher in each step: set cache.teacher.")
    if settings.blocks is None and recipe.train.teacher not in (None, settings.name):
        raise UsageError(
            f"train.teacher={recipe.train.teacher} and cache.teacher.name={settings.name} name two teachers: set one."
        )
    name = None if settings.blocks is None else recipe.train.teacher
    teacher = only_teacher(load_pass(settings, store.size, str(device)), name)
    for part in store.parts:
        layer = part.layers.get(f"latents/{teacher.name}")
        found = [] if layer is None else differences(layer.identity["teacher"], teacher.identity)
        if found:
            raise IdentityError(
                f"{part.location}: latents/{teacher.name} comes from another teacher (field: stored | wanted):\n"
                f"{explain(found)}\nGive cache.teacher the stored one's settings, or another name."
            )
    return Targets(teacher.name, {"teacher": teacher.identity}, teacher.grid, teacher.dim, teacher, teacher.warning)
