"""Read a finished training run: its encoder, recipe, teacher, store and losses."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.identity import hash_file
from usjepa.cache.teacher.model_input import ModelInput

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.train.record.export import EncoderConfig

logger = logging.getLogger(__name__)

Points = list[tuple[float, float]]
"""(x, y)."""


@dataclass(frozen=True)
class Curve:
    """The run's loss: (epoch, loss) points."""

    train: Points
    validation: Points


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder whose encoder is exported."""

    folder: Path
    config: EncoderConfig
    weights: str
    """xxh3-128 (hex) of the weights file."""
    log: str | None
    """xxh3-128 (hex) of log.jsonl; None where the folder has none."""

    @property
    def name(self) -> str:
        """The folder's own name; of an encoder that was kept while a run went on, behind that of the run."""
        from usjepa.train.record.folder import ENCODERS

        place = self.folder.resolve()
        return f"{place.parent.parent.name}-{place.name}" if place.parent.name == ENCODERS else place.name

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that a report takes from the run."""
        return {"name": self.name, "encoder": self.encoder, "log": self.log, "trained": self.config.extra}

    @property
    def encoder(self) -> dict[str, Json]:
        """Everything that the encoder's features depend on."""
        return {
            "architecture": self.config.architecture,
            "model_args": self.config.model_args,
            "mean": list(self.config.mean),
            "std": list(self.config.std),
            "weights": self.weights,
        }

    @property
    def input(self) -> ModelInput:
        """The input of its encoder: size, channels, normalisation."""
        args = self.config.model_args
        return ModelInput(int(args["img_size"]), int(args.get("in_chans", 3)), self.config.mean, self.config.std)

    @property
    def teacher(self) -> dict[str, Json] | None:
        """Hard identity of the teacher it learnt from; None where the export does not name it."""
        found: dict[str, Json] | None = self.config.extra.get("identity", {}).get("teacher", {}).get("teacher")
        return found

    @property
    def objective(self) -> str:
        """`train.objective` that it was trained by; "latents" where the export does not say."""
        found: str = self.config.extra.get("identity", {}).get("train", {}).get("objective", "latents")
        return found

    @property
    def store(self) -> dict[str, Json]:
        """Generation, digest and content digest of the store it was trained on; earlier versions wrote fewer."""
        found: dict[str, Json] = self.config.extra.get("store", {})
        return found

    @cached_property
    def sources(self) -> frozenset[str] | None:
        """Content hashes of the files it was trained on; None where its version wrote none."""
        from usjepa.train.record.trained_on import read_hashes

        return read_hashes(self.folder)

    @cached_property
    def chosen_on(self) -> frozenset[str]:
        """Content hashes of the files by which a probe chose it among the encoders of its run; none: no probe did."""
        from usjepa.train.record.trained_on import CHOSEN_ON, read_hashes

        return read_hashes(self.folder, CHOSEN_ON) or frozenset()

    @property
    def excluded_splits(self) -> tuple[str, ...]:
        """Splits whose rows took no part in training."""
        return tuple(self.config.extra.get("identity", {}).get("train", {}).get("exclude_splits", ()))

    def curve(self) -> Curve:
        """Return the losses of the run's log, by epoch; empty where there is no log.

        Training losses of a long run are means over equally many steps, so that neither memory nor page grows.

        Raises:
            DamageError: the log is damaged.
        """
        from usjepa.train.record.folder import LOG
        from usjepa.train.record.history import LossCurve
        from usjepa.train.record.log import read_log

        losses, an_epoch, lost = LossCurve(), 0, 0
        held: Points = []
        for line in read_log(self.folder / LOG):
            if line["kind"] == "validation":
                held.append((line["epoch"] + 1.0, line["loss"]))
                continue
            if line["kind"] == "probe":
                continue
            steps = line["steps"] if line["kind"] == "lost" else 1
            an_epoch += steps * (line["epoch"] == 0)
            if line["kind"] == "lost":
                lost += steps
            elif line["loss"] is not None:
                losses.add(line["step"], line["loss"])
        if lost:
            logger.warning(f"{self.folder / LOG}: the lines of {lost:,} steps are lost; the curve is without them.")
        train = [((step + 1) / max(1, an_epoch), loss) for step, loss in zip(*losses.points(), strict=True)]
        return Curve([(float(at), float(loss)) for at, loss in train], held)


def open_run(folder: Path) -> FinishedRun:
    """Return the run in a folder.

    Raises:
        UsageError: there is no such folder, or its training has not finished.
        DamageError: one of its files is not as it was exported.
        TrainingError: its configuration is not one that usjepa-train writes.
    """
    from usjepa.cache.teacher.exported import CONFIG, check_exported, weights_name
    from usjepa.train.record.export import read_config
    from usjepa.train.record.folder import LOG
    from usjepa.train.record.trained_on import CHOSEN_ON, TRAINED_ON

    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. RUN is the folder that usjepa-train wrote.")
    weights = weights_name(folder)
    lacking = [name for name in (weights, CONFIG) if not (folder / name).is_file()]
    if lacking:
        raise UsageError(
            f"{folder}: no {' and no '.join(lacking)}: its training has not finished. Finish it with "
            f"`usjepa-train STORE {folder} --pipeline NAME`, the same command that began it."
        )
    log = hash_file(folder / LOG) if (folder / LOG).is_file() else None
    if log is None:
        logger.info(f"{folder}: holds no {LOG}: reports have no loss curve.")
    sources = [name for name in (TRAINED_ON, CHOSEN_ON) if (folder / name).is_file()]
    check_exported(folder, (weights, *([LOG] if log is not None else []), *sources))
    return FinishedRun(folder, read_config(folder), hash_file(folder / weights), log)


def run_recipe(folder: Path) -> Recipe:
    """Return the recipe that a run was trained with.

    Raises:
        UsageError: the folder holds none to read.
        DamageError: it is not as it was written.
    """
    from pydantic import ValidationError

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.teacher.exported import RECIPE, check_exported

    path = folder / RECIPE
    check_exported(folder, [RECIPE] if path.exists() else [])
    try:
        return Recipe.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: holds no {RECIPE}. Say which recipe holds with --pipeline NAME.") from error
    except ValidationError as error:
        raise UsageError(
            f"{path}: no recipe of this version ({error.error_count()} faults). Say which holds with --pipeline NAME."
        ) from error
