"""Name the files of a run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.storage.durable import write_durably
from usjepa.train.record.checkpoint import Checkpoints

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe

RECIPE, LOG, CURVE, CARD, STATE, EVENTS = "recipe.json", "log.jsonl", "curve.png", "README.md", "state", "tensorboard"
WEIGHTS, CONFIG = "encoder.safetensors", "config.json"


class RunFolder:
    """A run's folder, existing or new, and its checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / STATE)

    @property
    def begun(self) -> bool:
        """Whether a run began here. Its first checkpoint is older than this sign."""
        return (self.path / RECIPE).exists()

    @property
    def exported(self) -> bool:
        """Whether the encoder was exported. Its configuration is the last file."""
        return (self.path / WEIGHTS).exists() and (self.path / CONFIG).exists()

    def begin(self, recipe: Recipe) -> None:
        """Mark the run as begun; raises WriteError if the folder can't take the file."""
        write_durably(self.path / RECIPE, (recipe.model_dump_json(indent=1) + "\n").encode())
