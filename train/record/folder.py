"""Name the files of a run's folder."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.storage.durable import TEMP_SUFFIX, remove_temp, write_durably
from usjepa.cache.storage.protocol import Guard, unguarded
from usjepa.cache.teacher.exported import (
    CONFIG,
    EARLIER_WEIGHTS,
    RECIPE,
    WEIGHTS,
    difference,
    exported_config,
    proves,
    weights_name,
)
from usjepa.train.record.checkpoint import Checkpoints
from usjepa.train.record.trained_on import TRAINED_ON

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.storage.protocol import Buffer

LOG, CURVE, CARD, STATE = "log.jsonl", "curve.png", "README.md", "state"
CLAIMS, ENCODERS = "claims", "encoders"
PAGE = "index.html"
"""How the run stands, for a browser. Nothing proves it: the log has the numbers."""
BESIDE = (RECIPE, LOG, CURVE, CARD, TRAINED_ON)
"""What a run leaves beside the encoder, proved by its configuration."""


class RunFolder:
    """A run's folder, existing or new, and its checkpoints.

    Attributes:
        path: of the folder.
        guard: raises unless this process holds the run's claim; called before anything is written.
        checkpoints: in its folder `state/`.
    """

    def __init__(self, path: Path, guard: Guard = unguarded) -> None:
        self.path, self.guard = path, guard
        self.checkpoints = Checkpoints(path / STATE, guard)

    def write(self, name: str, data: Buffer) -> None:
        """Write a file durably; raises WriteError, or what the guard raises."""
        self.guard()  # before anything is created: a folder that was removed stays removed
        write_durably(self.path / name, data, self.guard)

    def sweep(self) -> None:
        """Remove what earlier holders of the claim were about to publish; call it with the claim just taken.

        One that was stopped between its last look at the claim and its rename then finds nothing left to rename.
        """
        for folder in (self.path, self.path / STATE, self.path / CLAIMS, self.path / ENCODERS):
            for path in folder.glob(f".*{TEMP_SUFFIX}"):
                remove_temp(path)

    @property
    def begun(self) -> bool:
        """Whether a run began here. Its first checkpoint is older than this sign."""
        return (self.path / RECIPE).exists()

    @property
    def exported(self) -> bool:
        """Whether the encoder was exported. Its configuration is the last file."""
        return (self.path / weights_name(self.path)).exists() and (self.path / CONFIG).exists()

    @property
    def export_begun(self) -> bool:
        """Whether the encoder was exported, though part of it may be gone."""
        return (self.path / weights_name(self.path)).exists() or (self.path / CONFIG).exists()

    @property
    def log_is_empty(self) -> bool:
        """Whether the log is a plain file without a line."""
        found = (self.path / LOG).lstat()
        return stat.S_ISREG(found.st_mode) and not found.st_size

    def refuse_foreign(self) -> None:
        """Raise UsageError where files lie that a run would replace, though no run began here."""
        if self.begun or self.checkpoints.folder.exists():
            return
        names = (WEIGHTS, EARLIER_WEIGHTS, CONFIG, CURVE, CARD, LOG, ENCODERS)
        found = [name for name in names if os.path.lexists(self.path / name)]
        # A training that was killed before its first checkpoint leaves an empty log.
        if found == [LOG] and self.log_is_empty:
            return
        if found:
            raise UsageError(
                f"{self.path}: holds {', '.join(found)}, but no run began here, so a training would replace what is "
                "not its own. Give a new folder as RUN."
            )

    def begin(self, recipe: Recipe) -> None:
        """Mark the run as begun; raises WriteError if the folder can't take the file."""
        told = recipe.model_copy(update={"train": recipe.train.shareable()})
        self.write(RECIPE, (told.model_dump_json(indent=1) + "\n").encode())

    def differences(self) -> dict[str, str]:
        """Return what of the export is not as it was written: file -> how it differs; {} where all is whole."""
        try:
            config = exported_config(self.path)
        except (FileNotFoundError, DamageError) as error:
            return {CONFIG: "is gone" if isinstance(error, FileNotFoundError) else str(error)}
        weights = weights_name(self.path)
        if not proves(config, weights):
            return {CONFIG: "names no hashes: it is of an earlier version"}
        found = {name: difference(self.path, config, name) for name in (weights, *BESIDE)}
        return {name: how for name, how in found.items() if how is not None}
