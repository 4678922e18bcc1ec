"""Choose the targets that `train.objective` and `train.targets` name.

| train.objective | train.targets | targets                                              |
|-----------------|---------------|------------------------------------------------------|
| latents         | cached        | a teacher's latents, read from the store             |
| latents         | online        | latents that the recipe's teacher computes each step |
| pixels          | -             | the patches' own pixels (`pixel_targets.py`)         |
| contrast        | -             | none: images find their partners (`contrast_loss.py`)|

timm is imported only where targets are computed: a loop over stored latents (`StoreDataset`) does without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.identity import differences, explain
from usjepa.cache.teacher.layers import square_grid

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.store import Store
    from usjepa.cache.recipes.recipe import Recipe


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

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the store that hold the targets, scales among them if the store has any; () with `online`."""
        return () if self.online is not None else (f"latents/{self.name}", f"scales/{self.name}")


def choose_targets(store: Store, recipe: Recipe, device: torch.device) -> Targets:
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
    return stored_latents(store, recipe.train.teacher)


def stored_latents(store: Store, teacher: str | None) -> Targets:
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
    tokens, dim = layer.shape
    return Targets(teacher, layer.identity, square_grid(tokens, f"{store.location}, latents/{teacher}"), dim)


def _pixels(store: Store, recipe: Recipe) -> Targets:
    """Return the patches' own pixels, on the student's grid."""
    from usjepa.train.model.student import student_grid
    from usjepa.train.objective.pixel_targets import NAME, PixelTargets

    settings = recipe.train
    grid = student_grid(settings.student, store.size)
    made = PixelTargets(store.size, store.channels, grid, settings.pixel_norm, settings.pixel_cell)
    return Targets(NAME, made.identity, made.grid, made.dim, made)


def _contrast(store: Store, recipe: Recipe) -> Targets:
    """Return what stands for targets where images are compared with each other."""
    from usjepa.train.model.student import student_grid
    from usjepa.train.objective.contrast_loss import CONTRAST_VERSION

    settings = recipe.train.contrast
    described: dict[str, Json] = {"version": CONTRAST_VERSION, **settings.model_dump(mode="json")}
    return Targets("contrast", {"contrast": described}, student_grid(recipe.train.student, store.size), settings.dim)


def _online(store: Store, recipe: Recipe, device: torch.device) -> Targets:
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
    layer = store.layers.get(f"latents/{teacher.name}")
    found = [] if layer is None else differences(layer.identity["teacher"], teacher.identity)
    if found:
        raise IdentityError(
            f"{store.location}: latents/{teacher.name} comes from another teacher (field: stored | wanted):\n"
            f"{explain(found)}\nGive cache.teacher the stored one's settings, or another name."
        )
    return Targets(teacher.name, {"teacher": teacher.identity}, teacher.grid, teacher.dim, teacher, teacher.warning)
