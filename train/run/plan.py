"""Plan a run before its first step: store, targets, rows, schedule and identity."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.identity import Json, canonical, differences, explain, soft_versions
from usjepa.cache.processors import cores
from usjepa.cache.recipes.marks import hard_values
from usjepa.cache.teacher.device import choose_device
from usjepa.train.data.clip_runs import frames_of_part
from usjepa.train.data.crossing import split_of
from usjepa.train.data.order import ORDER_VERSION, EpochOrder, first_views_of
from usjepa.train.objective.targets import Targets, choose_targets
from usjepa.train.run.opening import open_readable
from usjepa.train.run.ranks import Ranks
from usjepa.train.run.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.cache.several.face import Readable
    from usjepa.train.data.split import Split
    from usjepa.train.record.checkpoint import RunProgress


@dataclass(frozen=True)
class TrainingPlan:
    """Everything a run is made of but its weights."""

    recipe: Recipe
    store: Readable
    """One store, or several as one."""
    device: torch.device
    targets: Targets
    split: Split
    order: EpochOrder
    validation_rows: NDArray[np.int64]
    """int64, positions in the store's table: view 0 of every held-out frame."""
    schedule: Schedule
    ranks: int = 1
    """Processes that share the work; only the order in which floats are added depends on it."""
    notes: tuple[str, ...] = ()
    """What is to be said of the stores before the first step."""

    @property
    def settings(self) -> TrainSettings:
        """The `train:` section."""
        return self.recipe.train

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch."""
        return self.order.steps_per_epoch()

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.settings.epochs

    @property
    def identity(self) -> dict[str, Json]:
        """Hard: what the numbers of this run depend on, beside the code. Compared field by field at a resume."""
        numbers = hard_values(self.settings, "training")
        numbers["teacher"] = self.targets.name
        layers = ["pixels", *(["regions"] if self.settings.masks.regions else [])]
        stored: dict[str, Json] = {name: self.store.identity[name] for name in layers}
        stored["digest"] = self.store.digest
        if len(self.store.parts) > 1:
            stored["digests"] = [part.digest for part in self.store.parts]
        order: dict[str, Json] = {"version": ORDER_VERSION}
        found = {"train": numbers, "order": order, "store": stored, "teacher": self.targets.identity}
        # As JSON gives it back: tuples become lists, so that stored and wanted values compare.
        return dict(json.loads(canonical(found)))

    @property
    def soft(self) -> dict[str, Json]:
        """Soft: versions and machine, recorded in checkpoints and the export, never compared."""
        threads = torch.get_num_threads()
        versions = soft_versions(["torch", "timm", "usjepa"])
        return {**versions, "device": self.device.type, "threads": threads, "ranks": self.ranks}


def make_plan(
    store_paths: str | Sequence[str],
    recipe: Recipe,
    device: str | None,
    resumed: RunProgress | None,
    ranks: Ranks | None = None,
) -> TrainingPlan:
    """Open the stores and decide which rows are trained on, in which order, against which targets.

    Args:
        store_paths: folder or URL, or several, whose rows are numbered in their order.
        recipe: its `train` section, and `cache.teacher` for online targets.
        device: `cpu`, `cuda` or `cuda:N`; None: a GPU if there is one.
        resumed: of the run that goes on; None: the run begins.
        ranks: of the run; None: this process alone.

    Raises:
        NotSealedError: the store's build has not finished.
        UsageError: recipe, store and device do not fit each other.
        WithdrawnError: `resumed` began on rows that were removed from the store since.
        IdentityError: `resumed` began on another store or with other numbers, or stores do not fit each other.
    """
    settings = recipe.train
    ranks = ranks or Ranks()
    place = _device(device, settings, ranks)
    paths = [store_paths] if isinstance(store_paths, str) else list(store_paths)
    store, notes = open_readable(paths, recipe, resumed)
    targets = choose_targets(store, recipe, place)
    table = store.table
    split, more = split_of(store, settings)
    order = EpochOrder(frames_of_part(table.dataset_codes(), table, split.train), settings)
    validation_rows = first_views_of(table, split.validation)
    schedule = Schedule(settings, order.steps_per_epoch())
    said = (*notes, *more)
    plan = TrainingPlan(recipe, store, place, targets, split, order, validation_rows, schedule, ranks.size, said)
    if resumed is not None:
        _refuse_lost_generation(resumed, plan)
        _refuse_differences(resumed, plan.identity)
    return plan


def _refuse_lost_generation(resumed: RunProgress, plan: TrainingPlan) -> None:
    """Raise IdentityError where recipe and layers are those that a run began with, and the generation alone is not."""
    found = differences(resumed.identity, plan.identity)
    if len(plan.store.parts) > 1 or {field for field, _, _ in found} != {"store.digest"}:
        return
    (store,) = plan.store.parts
    began = f"generation {resumed.store['generation']} (digest {resumed.store['digest']})"
    raise IdentityError(
        f"This run began on {began} of its store, and {store.location}, now at generation {store.generation}, has no "
        "such generation: it is another store, or `usjepa-cache gc` has deleted it. Give the store that the run began "
        "on, or a copy that still has it; else only another RUN folder can train on what is there now. An encoder that "
        "is exported already stays as it is."
    )


def _refuse_differences(resumed: RunProgress, wanted: dict[str, Json]) -> None:
    """Raise IdentityError, with every field, if a run would go on with other numbers than it began with."""
    found = differences(resumed.identity, wanted)
    if any(field.split(".")[0] == "order" for field, _, _ in found):
        raise IdentityError(
            "This run began under another version of usjepa, which visits rows in another order (field: stored | "
            f"wanted):\n{explain(found)}\nGo on with that version, or give another RUN folder to train again."
        )
    if found:
        raise IdentityError(
            "This run began with other settings or another store (field: stored | wanted):\n"
            f"{explain(found)}\n"
            "Give the same store and recipe to go on, or another RUN folder to train with the new ones."
        )


def _device(name: str | None, settings: TrainSettings, ranks: Ranks) -> torch.device:
    """Return the device that `--device` names; of several ranks, each takes the GPU of its number."""
    device = choose_device(name)
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: training runs on cpu or cuda.")
    if device.type == "cuda" and settings.compute == "fp16":
        raise UsageError("train.compute=fp16 is not supported, because it needs scaled gradients: use bf16 or fp32.")
    if device.type == "cuda" and device.index is None and ranks.size > 1:
        return choose_device(f"cuda:{ranks.local}")
    return device


def describe(plan: TrainingPlan) -> list[str]:
    """Return the lines to log before the first step: sizes, targets, device, warnings."""
    frames, held = plan.order.length, len(plan.validation_rows)
    targets = {
        "latents": f"{'online' if plan.targets.online else 'cached'} latents of {plan.targets.name}",
        "pixels": "normalised pixels",
        "contrast": f"images of one {plan.settings.contrast.positives}, told from all others of a batch",
    }[plan.settings.objective]
    notes = [
        f"{frames:,} frames per epoch, {plan.steps_per_epoch:,} steps of {plan.settings.batch_size} images; {held:,} "
        f"frames held out for validation, {plan.split.excluded:,} rows of excluded splits; targets: {targets}; device: "
        f"{plan.device.type}"
    ]
    more = (*plan.notes, plan.split.note, plan.targets.warning, busy_note(plan.device))
    return [*notes, *(note for note in more if note)]


def busy_note(device: torch.device) -> str:
    """Return a warning where torch's threads outnumber the cores that nobody else uses; "" where they do not.

    Threads that must wait for each other at every operation are far slower than one: 0.13 steps a second were seen
    where one thread took 1.2.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return ""
    usable, load = cores(), os.getloadavg()[0]
    free = max(1, int(usable - load + 0.5))
    if threads <= free:
        return ""
    return (
        f"torch computes in {threads} threads, and of {usable} cores about {free} is free (load {load:.1f}): threads "
        f"that wait for each other are slower than one. Set OMP_NUM_THREADS={free}, or wait until the machine is quiet."
    )
