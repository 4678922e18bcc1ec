"""A training run in progress: weights, optimizer, how far it is, and the folder it is kept in."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.storage.durable import make_folders, write_durably
from usjepa.train.model.jepa import Jepa, make_optimizer, restore, training_state
from usjepa.train.objective.target_norm import TargetNorm, measured
from usjepa.train.record import tensorboard
from usjepa.train.record.curve import draw_curve
from usjepa.train.record.export import CONFIG, WEIGHTS, export_encoder
from usjepa.train.record.log import Journal
from usjepa.train.record.summary import summary
from usjepa.train.record.tensorboard import Events
from usjepa.train.run.card import CARD, model_card
from usjepa.train.run.checkpoint import Best, Checkpoints, Progress, Tensors

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.train.run.plan import Plan
    from usjepa.train.run.ranks import Ranks

RECIPE, LOG, CURVE, STATE = "recipe.json", "log.jsonl", "curve.png", "state"
_DRAW_EVERY_S = 60.0
_MEDIAN_OF, _MEDIAN_OF_AT_LEAST = 100, 20


class RunFolder:
    """Names of what lies in a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / STATE)

    @property
    def begun(self) -> bool:
        """Whether a run was begun here; its first checkpoint is older than this sign."""
        return (self.path / RECIPE).exists()

    @property
    def exported(self) -> bool:
        """Whether the encoder has been written: config.json is its last file."""
        return (self.path / WEIGHTS).exists() and (self.path / CONFIG).exists()

    def begin(self, recipe: Recipe) -> None:
        """Mark the run as begun."""
        write_durably(self.path / RECIPE, (recipe.model_dump_json(indent=1) + "\n").encode())


class Run:
    """The state that steps change, and how it is saved. Changes are undone by a kill, never half done."""

    def __init__(self, plan: Plan, folder: RunFolder, found: tuple[Progress, Tensors] | None, ranks: Ranks) -> None:
        self.plan, self.folder, self.ranks = plan, folder, ranks
        self.model = Jepa(plan.settings, plan.store.size, plan.targets.grid, plan.targets.dim).to(plan.device)
        self.optimizer = make_optimizer(self.model, plan.settings)
        content = {"content": plan.store.content_digest()}
        if found is None:
            store = {"generation": plan.store.generation, "digest": plan.store.digest, **content}
            self.progress = Progress(0, 0, plan.identity, store, None, plan.soft)
        else:
            self.progress = replace(found[0], soft=plan.soft, store={**found[0].store, **content})
            restore(self.model, self.optimizer, found[1])
        self.norm = _new_norm(plan) if found is None else TargetNorm.restored(plan.settings.target_norm, found[1])
        self.parallel = ranks.parallel(self._compiled())
        if ranks.leads:
            make_folders(folder.path)
        events = None
        if plan.settings.tensorboard and ranks.leads:
            events = Events(folder.path / tensorboard.FOLDER, self.progress.step)
        self.journal = Journal(folder.path / LOG, self.progress.step, self.progress.validated, ranks.leads, events)
        self._saved = time.monotonic()
        self._drawn = float("-inf")
        if found is None:
            self.save()
        if ranks.leads and not folder.begun:
            folder.begin(plan.recipe)

    @property
    def step(self) -> int:
        """Steps done."""
        return self.progress.step

    @property
    def finished(self) -> bool:
        """Whether every epoch has been trained and validated."""
        return self.progress.validated == self.plan.settings.epochs

    @property
    def save_due(self) -> bool:
        """Whether the last checkpoint is older than the recipe allows."""
        return time.monotonic() - self._saved >= 60.0 * self.plan.settings.checkpoint_minutes

    @property
    def loss_limit(self) -> float:
        """What the next loss must stay below: some times the median of the last ones; infinite for the first."""
        factor = self.plan.settings.explosion
        lines = itertools.islice(reversed(self.journal.lines), _MEDIAN_OF)
        losses = [line["loss"] for line in lines if line["kind"] == "step" and line["loss"] is not None]
        if factor is None or len(losses) < _MEDIAN_OF_AT_LEAST:
            return math.inf
        return float(factor * statistics.median(losses))

    def stepped(self) -> None:
        """Count a step."""
        self.progress = replace(self.progress, step=self.progress.step + 1)

    def validated(self, loss: float | None) -> bool:
        """Count an epoch; keep the encoder when its validation loss is the lowest. Returns whether it is."""
        epoch, best = self.progress.validated, self.progress.best
        lowest = loss is not None and (best is None or loss < best.loss)
        if loss is not None and lowest:
            best = Best(loss, self.step, epoch, "", "")  # the other ranks only need to know the loss
            if self.ranks.leads:
                best = self.folder.checkpoints.save_best(self._encoder(), loss, self.step, epoch)
        self.progress = replace(self.progress, validated=epoch + 1, best=best)
        return lowest

    def save(self) -> None:
        """Write a checkpoint; every rank comes here and waits until it is on disk.

        The log is on disk before it, so that a resume finds every line that it stands for.
        """
        if self.ranks.leads:
            self.journal.sync()
            state = {**training_state(self.model, self.optimizer), **self.norm.state()}
            self.folder.checkpoints.save(state, self.progress)
        self.ranks.wait()
        self._saved = time.monotonic()

    def draw(self, always: bool = False) -> None:
        """Draw the loss curve anew, at most once a minute unless `always`."""
        if not self.ranks.leads:
            return
        if always or time.monotonic() - self._drawn >= _DRAW_EVERY_S:
            draw_curve(self.journal.lines, self.plan.steps_per_epoch, self.folder.path / CURVE)
            self._drawn = time.monotonic()

    def export(self) -> None:
        """Write the encoder of lowest validation loss; the last one where nothing was held out."""
        if self.ranks.leads:
            self._export()
        self.ranks.wait()

    def _export(self) -> None:
        best, student = self.progress.best, self.model.student
        if best is not None:
            student.vit.load_state_dict(self.folder.checkpoints.load_best(best), strict=True)
        settings, channels = student.settings, student.settings.channels
        lines, told = self.journal.lines, None if best is None else _told(best)
        card = model_card(self.plan, settings.architecture, told, lines, summary(lines, self.plan.settings.epochs))
        write_durably(self.folder.path / CARD, card.encode())
        export_encoder(
            student.vit,
            settings.architecture,
            student.model_args,
            settings.mean[:channels],
            settings.std[:channels],
            self.folder.path,
            {
                "trained": {"steps": self.step, "epochs": self.progress.validated},
                "best": told,
                "identity": self.progress.identity,
                "store": self.progress.store,
                "teacher": self.plan.targets.name,
                "versions": self.plan.soft,
            },
        )

    def _compiled(self) -> torch.nn.Module:
        """The same weights under the same names; `self.model` stays what is saved."""
        if not self.plan.settings.compile:
            return self.model
        compiled: torch.nn.Module = torch.compile(self.model, dynamic=True)  # type: ignore[assignment]
        return compiled

    def _encoder(self) -> Tensors:
        return {name: tensor.detach() for name, tensor in self.model.student.vit.state_dict().items()}


def _new_norm(plan: Plan) -> TargetNorm:
    return measured(plan.settings.target_norm, plan.store, plan.targets, np.sort(plan.split.train), plan.device)


def _told(best: Best) -> dict[str, object]:
    return {key: value for key, value in asdict(best).items() if key in ("loss", "step", "epoch")}
