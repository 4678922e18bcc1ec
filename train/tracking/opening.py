"""Open the trackers that a recipe names."""

from __future__ import annotations

import importlib
import importlib.util
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsageError
from usjepa.cache.storage.durable import write_durably
from usjepa.train.tracking.background import Background
from usjepa.train.tracking.tensorboard import TensorBoard

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.train.tracking.tracker import Line, Tracker

EVENTS, TRACKING_ID = "tensorboard", "tracking_id"
"""In the run's folder: TensorBoard's events; the id under which services know the run."""
_NAMES = {"wandb": "Weights & Biases", "mlflow": "MLflow"}
_CLASSES = {"wandb": "WandB", "mlflow": "MLflow"}


@dataclass(frozen=True)
class About:
    """What a service is told of a run."""

    id: str
    """The same in every call of the run."""
    folder: Path
    recipe: dict[str, Any]
    """Its `train` section."""


def open_trackers(recipe: Recipe, folder: Path, step: int, ends: Sequence[Line] = ()) -> list[Tracker]:
    """Return the trackers of `train.tensorboard` and `train.trackers`; services are opened in the background.

    Args:
        recipe: of the run.
        folder: of the run, existing.
        step: where the run stands.
        ends: lines of the epoch that ended there, if one did.

    Raises:
        UsageError: a package is not installed.
    """
    settings = recipe.train
    for name in settings.trackers:
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"train.trackers names {name}, whose package is not installed: pip install 'usjepa[{name}]', or leave "
                "it out: log.jsonl and curve.png are always written."
            )
    found: list[Tracker] = [TensorBoard(folder / EVENTS, step, ends)] if settings.tensorboard else []
    if settings.trackers:
        about = About(_tracking_id(folder), folder, settings.shareable().model_dump(mode="json"))
        found += [_in_background(name, about) for name in settings.trackers]
    return found


def _in_background(name: str, about: About) -> Background:
    def opened() -> Tracker:
        module = importlib.import_module(f"usjepa.train.tracking.{name}")
        tracker: Tracker = getattr(module, _CLASSES[name])(about)
        return tracker

    return Background(_NAMES[name], opened)


def _tracking_id(folder: Path) -> str:
    file = folder / TRACKING_ID
    if not file.exists():
        write_durably(file, (secrets.token_hex(8) + "\n").encode())
    return file.read_text().strip()
