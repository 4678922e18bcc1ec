"""Find the teacher that a run learnt from, to score it like any encoder.

Which teacher that was is known by identity, not by name or path. Where a task's store holds its latents they are
used, and no weights are needed; of several layers of them, which `convert` leaves, the one nearest to what it gave.
Otherwise the recipe's teacher is loaded and run, if it is the same one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.coding.form import Form, form_of
from usjepa.cache.errors import UsjepaError
from usjepa.cache.identity import Json, differences, explain
from usjepa.cache.teacher.layers import square_grid
from usjepa.cache.teacher.model_input import ModelInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.several.face import Readable
    from usjepa.cache.teacher.teacher import Teacher

from usjepa.evaluate.encoders.models import POOLING


@dataclass
class StoredTeacher:
    """A teacher whose latents the task's store holds."""

    teacher: str
    """Name of its layer."""
    stored: dict[str, Json]
    """Identity of the layer."""
    layers: tuple[str, ...]
    name: str = "teacher"
    pooling: str = POOLING

    @property
    def identity(self) -> dict[str, Json]:
        """The layer's identity: the teacher's, the pixels' and the precision."""
        return {"kind": "latents", "pooling": self.pooling, "layer": self.stored}

    @property
    def given(self) -> str:
        """The input that its latents were computed from, and what storing them took away, if it is much."""
        form = form_of(self.stored) if "precision" in self.stored else Form("fp16")
        coarse = f"; latents stored as {form}" if form.scaled or form.coded else ""
        return _given(self.stored.get("teacher")) + coarse

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return the mean of the stored patch tokens, float32 [B, D]."""
        pooled: NDArray[np.float32] = batch.targets().mean(dim=1).numpy()
        return pooled

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        """Return the stored patch tokens on their square grid, float32 [B, H, W, D]."""
        tokens: NDArray[np.float32] = batch.targets().numpy()
        return tokens.reshape(len(tokens), *square_grid(tokens.shape[1], f"latents/{self.teacher}"), -1)


@dataclass
class LiveTeacher:
    """A teacher that is run on the stored pixels, because no latents of it are stored."""

    teacher: Teacher
    name: str = "teacher"
    pooling: str = POOLING
    layers: tuple[str, ...] = ("pixels",)

    @property
    def identity(self) -> dict[str, Json]:
        """The teacher's hard identity."""
        return {"kind": "teacher", "pooling": self.pooling, "teacher": self.teacher.identity}

    @property
    def given(self) -> str:
        """Size, channels and normalisation of its input."""
        return _given(self.teacher.identity)

    def features(self, batch: Batch) -> NDArray[np.float32]:
        """Return the mean of the patch tokens, float32 [B, D]."""
        import torch

        pooled: NDArray[np.float32] = self.teacher(torch.from_numpy(batch.pixels)).mean(dim=1).cpu().numpy()
        return pooled

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        """Return the patch tokens on their grid, float32 [B, H, W, D]."""
        import torch

        tokens: NDArray[np.float32] = self.teacher(torch.from_numpy(batch.pixels)).cpu().numpy()
        return tokens.reshape(len(tokens), *self.teacher.grid, -1)


def _given(identity: Json) -> str:
    try:
        wanted = identity["input"]
        return str(ModelInput(wanted["size"], len(wanted["mean"]), tuple(wanted["mean"]), tuple(wanted["std"])))
    except (KeyError, TypeError):
        return "not stated by the store"


def _stored_teacher(store: Readable, name: str) -> StoredTeacher:
    """Return the teacher whose latents a store holds under a name."""
    layers = tuple(layer for layer in (f"latents/{name}", f"scales/{name}") if layer in store.layers)
    return StoredTeacher(name, store.identity[f"latents/{name}"], layers)


def _coarseness(store: Readable, name: str) -> tuple[int, ...]:
    """Return how much of latents their layer leaves out, to compare: axes that are missing weigh more than rounding."""
    layer = store.layers[f"latents/{name}"]
    coding = layer.coding
    axes = 0 if coding is None else coding.count
    return (int(axes > 0), -axes, int(coding is not None and coding.packed), -np.dtype(layer.dtype).itemsize)


class Teachers:
    """Finds one teacher, by identity, for whatever store a task lies in."""

    def __init__(self, wanted: dict[str, Json] | None, settings: TeacherSettings | None, device: str) -> None:
        self._wanted, self._settings, self._device = wanted, settings, device
        self._live: dict[int, LiveTeacher | str] = {}

    def make(self, store: Readable) -> tuple[StoredTeacher | LiveTeacher | None, str]:
        """Return the teacher for a store's frames, or None and why it can't be had."""
        if self._wanted is None:
            return (
                None,
                "the run learnt from no teacher (objective: pixels) or from several targets, or its config.json does "
                "not say from which.",
            )
        mine = [name for name in store.latents if store.identity[f"latents/{name}"].get("teacher") == self._wanted]
        if not mine:
            return self.live(store)
        return _stored_teacher(store, min(mine, key=lambda name: _coarseness(store, name))), ""

    def live(self, store: Readable) -> tuple[LiveTeacher | None, str]:
        """Return the teacher with its weights, for frames without stored latents, or None and why it can't be had."""
        if self._wanted is None:
            return None, "the run learnt from no teacher."
        if store.size not in self._live:
            self._live[store.size] = self._ask(store.size)
        found = self._live[store.size]
        return (None, found) if isinstance(found, str) else (found, "")

    @cached_property
    def is_random(self) -> bool:
        """Whether the teacher's weights are those that its architecture draws from the recipe's seed."""
        if self._wanted is None:
            return False
        try:
            return not self._others(self._load(self._wanted["input"]["size"], None))
        except (UsjepaError, KeyError):
            return False  # an architecture that this version can't build: then nothing is known of it

    def _ask(self, size: int) -> LiveTeacher | str:
        """Return the teacher with its weights loaded, or why it can't be had."""
        assert self._wanted is not None
        how = "Add its latents to the task's store: `usjepa-cache build STORE --pipeline NAME --teacher FILE`."
        weights = self._settings.weights if self._settings is not None else None
        if weights is None and not self.is_random:
            return f"the task's store holds no latents of it and the recipe names no weights of it. {how}"
        try:
            teacher = self._load(size, weights)
        except UsjepaError as error:
            return f"the task's store holds no latents of it, and it can't be loaded: {error} {how}"
        others = self._others(teacher)
        if others:
            return (
                f"the recipe's teacher is not the one that the run learnt from (run | recipe): {explain(others)}. {how}"
            )
        return LiveTeacher(teacher)

    def _load(self, size: int, weights: str | None) -> Teacher:
        """Load the teacher that the identity describes, from the recipe's weights or its seed's random ones."""
        from usjepa.cache.teacher.resolve import load_described

        assert self._wanted is not None
        return load_described(self._wanted, self._settings, weights, size, self._device)

    def _others(self, teacher: Teacher) -> list[tuple[str, Json, Json]]:
        """Return in which fields a loaded teacher is not the wanted one; a task of another pixel size is resized."""
        found = differences(self._wanted, teacher.identity)
        return [difference for difference in found if difference[0] != "input.resize"]
