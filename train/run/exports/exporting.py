"""Export encoders: the run's own into its folder, kept ones beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import DamageError
from usjepa.cache.places.runs import Runs
from usjepa.cache.storage.durable import publish_folder, write_durably
from usjepa.cache.teacher.exported import CONFIG, RECIPE, WEIGHTS, difference, exported_config
from usjepa.train.record.curve import draw_curve
from usjepa.train.record.export import EncoderConfig, export_encoder
from usjepa.train.record.folder import BESIDE, CARD, CURVE, ENCODERS
from usjepa.train.record.summary import summary
from usjepa.train.record.trained_on import CHOSEN_ON, TRAINED_ON, hashes_text
from usjepa.train.run.exports.card import model_card

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from usjepa.cache.identity import Json
    from usjepa.train.run.state import TrainingRun

_BESIDE_KEPT = (RECIPE, CURVE, CARD, TRAINED_ON)
"""What lies beside a kept encoder: all but the log, which goes on."""


@dataclass(frozen=True)
class Kept:
    """An encoder that is kept in a folder of its own while the training goes on."""

    name: str
    """Of its folder."""
    weights: str
    """xxh3-128 (hex) of its tensors as safetensors."""
    steps: int
    epochs: int
    """Done when it was kept."""
    chosen: str
    """Why it was kept, for its card."""
    about: dict[str, Json]
    """What more its configuration tells."""
    chosen_on: frozenset[str] = frozenset()
    """Content hashes of the files by which it was chosen."""

    def beside(self) -> tuple[str, ...]:
        """Return what lies beside it."""
        return (*_BESIDE_KEPT, CHOSEN_ON) if self.chosen_on else _BESIDE_KEPT

    def record(self) -> dict[str, Json]:
        """Return what its configuration says of it."""
        return {"name": self.name, "weights": self.weights, **self.about}


def export(run: TrainingRun) -> None:
    """Write the encoder of lowest validation loss, or the last one if there is none; its proofs come last.

    Curve and card are drawn again, but for a card that is already there beside an export: it may have been edited.
    """
    run.ranks.while_rank_0(lambda: _export(run))


def _export(run: TrainingRun) -> None:
    run.sync_log()
    run.draw(always=True)
    best, student, folder = run.progress.best, run.model.student, run.folder
    chosen = "the last step"
    if best is not None:
        student.vit.load_state_dict(folder.checkpoints.load_best(best), strict=True)
        chosen = f"lowest validation loss, {best.loss:.5f} after epoch {best.epoch + 1}"
    notes = summary(run.history, run.plan.settings.epochs)
    if not ((folder.path / CONFIG).exists() and (folder.path / CARD).exists()):
        folder.write(CARD, _card(run, chosen, run.history.epochs, notes))
    folder.write(TRAINED_ON, hashes_text(_sources(run)))
    found = None if best is None else {key: asdict(best)[key] for key in ("loss", "step", "epoch")}
    extra = {"trained": {"steps": run.step, "epochs": run.progress.validated}, "best": found, **_provenance(run)}
    export_encoder(student.vit, _config(run, extra), folder.path, BESIDE, folder.guard)


def write_kept(run: TrainingRun, kept: Kept, vit: torch.nn.Module) -> None:
    """Write an encoder into a folder of its own, as an export of the run would be: whole or not at all.

    Raises:
        WriteError: the run's folder can't take it; what was kept before is whole.
    """
    guard = run.folder.guard
    guard()

    def fill(folder: Path) -> None:
        notes = [f"kept while the training went on: {kept.chosen}"]
        write_durably(folder / CARD, _card(run, kept.chosen, kept.epochs, notes), guard)
        write_durably(folder / CURVE, draw_curve(run.history, run.plan.steps_per_epoch), guard)
        write_durably(folder / RECIPE, (run.folder.path / RECIPE).read_bytes(), guard)
        write_durably(folder / TRAINED_ON, hashes_text(_sources(run)), guard)
        if kept.chosen_on:
            write_durably(folder / CHOSEN_ON, hashes_text(kept.chosen_on), guard)
        trained = {"steps": kept.steps, "epochs": kept.epochs}
        extra = {"trained": trained, "best": None, "kept": kept.record(), **_provenance(run)}
        export_encoder(vit, _config(run, extra), folder, kept.beside(), guard)

    publish_folder(kept_place(run, kept.name), fill, guard)


def kept_place(run: TrainingRun, name: str) -> Path:
    """Return the folder of a kept encoder."""
    return run.folder.path / ENCODERS / name


def is_kept(run: TrainingRun, kept: Kept) -> bool:
    """Return whether an encoder lies in its folder as it was written; its card may have been edited."""
    folder = kept_place(run, kept.name)
    try:
        config = exported_config(folder)
    except (OSError, DamageError):
        return False
    if config.get("usjepa", {}).get("kept") != kept.record():
        return False
    return all(difference(folder, config, name) is None for name in (WEIGHTS, *kept.beside()) if name != CARD)


def _card(run: TrainingRun, chosen: str, epochs: int, notes: list[str]) -> bytes:
    architecture = run.model.student.settings.architecture
    return model_card(run.plan, run.progress.soft, architecture, chosen, epochs, notes).encode()


def _provenance(run: TrainingRun) -> dict[str, Json]:
    progress = run.progress
    return {
        "identity": progress.identity,
        "store": progress.store,
        "teacher": run.plan.targets.name,
        "versions": progress.soft,
    }


def _config(run: TrainingRun, extra: dict[str, Json]) -> EncoderConfig:
    student = run.model.student
    settings, channels = student.settings, student.settings.channels
    mean, std = settings.mean[:channels], settings.std[:channels]
    return EncoderConfig(settings.architecture, student.model_args, mean, std, extra)


def _sources(run: TrainingRun) -> Iterator[str]:
    """Yield the content hash of every source that took part in training or validation."""
    table, split = run.plan.store.table, run.plan.split
    parts = [table.stretches.sources_of(Runs.like(part)) for part in (split.train, split.validation)]
    yield from table.content_hashes(np.unique(np.concatenate(parts)))
