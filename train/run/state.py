"""Hold the state of a training run: weights, optimizer, progress and what is written."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import Interrupted
from usjepa.cache.storage.durable import make_folders
from usjepa.train.data.batches import BatchMaker
from usjepa.train.data.pairs import PairMaker
from usjepa.train.model.contrast import Contrast
from usjepa.train.model.jepa import Jepa, make_optimizer, restore, training_state
from usjepa.train.objective.target_norm import JoinedNorm, TargetNorm, measured, restored
from usjepa.train.record.checkpoint import Best, RunProgress, Tensors
from usjepa.train.record.curve import draw_curve
from usjepa.train.record.folder import CURVE, LOG, RunFolder
from usjepa.train.record.history import RECENT, History
from usjepa.train.record.log import RunLog
from usjepa.train.record.salvage import Covered
from usjepa.train.run.computing import Learner
from usjepa.train.run.opening import record_of
from usjepa.train.tracking.opening import open_trackers

if TYPE_CHECKING:
    from usjepa.cache.interrupt import StopFlag
    from usjepa.train.probe.probe_set import ProbeSet
    from usjepa.train.record.lines import Line
    from usjepa.train.run.plan import TrainingPlan
    from usjepa.train.run.ranks import Ranks
    from usjepa.train.tracking.tracker import Tracker

RESUME = "The state is saved: run the same command again to go on."
_DRAW_EVERY_S = 60.0
_MEDIAN_OF_AT_LEAST = 20
"""Losses below which none counts as exploded."""


class TrainingRun:
    """The state that steps change, and how it is saved. A kill undoes changes, but never leaves them half done.

    Rank 0 alone writes: log, checkpoints, curve, encoder. The other ranks hold none of them.

    Attributes:
        plan: what was fixed before the first step.
        folder: where the run is kept.
        ranks: the processes that share the work.
        model: student and predictor, or student and projector.
        learner: the model with its optimizer.
        norm: normalisation of the targets.
        batches: reads them.
        progress: where the run stands.
        probe: the foreign labelled set, on rank 0; None without one.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        folder: RunFolder,
        found: tuple[RunProgress, Tensors] | None,
        ranks: Ranks,
        stop: StopFlag,
        probe: ProbeSet | None = None,
    ) -> None:
        """Begin a run, or resume one from the checkpoint that was found.

        Args:
            plan: of the run.
            folder: of the run.
            found: the newest whole checkpoint; None: the run begins.
            ranks: of the run.
            stop: set by a signal, checked by `safe_point`.
            probe: of `train.probe`, on rank 0.

        Raises:
            WriteError: the folder can't take a file.
            ClaimedError: another process took the folder over.
        """
        self.plan, self.folder, self.ranks, self._stop = plan, folder, ranks, stop
        self.probe = probe
        self.model = _new_model(plan).to(plan.device)
        optimizer = make_optimizer(self.model, plan.settings)
        content = {"content": plan.store.content_digest()}
        if found is None:
            self.progress = RunProgress(0, 0, plan.identity, record_of(plan.store), None, plan.soft)
            self.norm = _new_norm(plan)
        else:
            # An export that is written again states the versions that trained it.
            soft = found[0].soft if found[0].validated == plan.settings.epochs else plan.soft
            self.progress = replace(found[0], soft=soft, store={**found[0].store, **content})
            restore(self.model, optimizer, found[1])
            self.norm = restored(plan.settings.target_norm, plan.targets, found[1])
        self.learner = Learner(ranks.parallel(self._compiled()), optimizer, plan, ranks)
        self.batches = _new_maker(plan, self.norm)
        self._log: RunLog | None = None
        ranks.while_rank_0(self._open_log)
        self.progress = replace(self.progress, log=None, history=None)  # the log has them from here on
        self._recent = deque(ranks.of_rank_0(self.history.recent, RECENT), maxlen=RECENT)
        self._best: Best | None = None
        self._saved = time.monotonic()
        self._drawn = time.monotonic()
        if found is None:
            self.save()
        if ranks.leads and not folder.begun:
            folder.begin(plan.recipe)

    def _open_log(self) -> None:
        path, progress = self.folder.path, self.progress
        self.folder.guard()
        make_folders(path)
        history = None if progress.history is None else History.from_json(progress.history)
        ends = [] if history is None else [line for line in history.ends() if line["step"] == progress.step]
        trackers = open_trackers(self.plan.recipe, path, progress.step, ends)
        covered = Covered(progress.step, progress.validated, history, self.plan.steps_per_epoch)
        self._log = RunLog(path / LOG, covered, progress.log, self.folder.guard, trackers)

    @property
    def step(self) -> int:
        """Steps done."""
        return self.progress.step

    @property
    def finished(self) -> bool:
        """Whether every epoch has been trained and validated."""
        return self.progress.validated == self.plan.settings.epochs

    @property
    def validates(self) -> bool:
        """Whether the held-out part gives a validation loss."""
        without = isinstance(self.batches, PairMaker) and self.batches.note
        return bool(len(self.plan.validation_rows) and not without)

    @property
    def history(self) -> History:
        """What the log tells of the run; empty on ranks that do not write it."""
        return History() if self._log is None else self._log.history

    @property
    def loss_limit(self) -> float:
        """Value that the next loss must stay below: a multiple of the median of recent losses.

        Infinite at first, and where that is 0: pairs that are told apart perfectly say of no loss that it is too high.
        """
        factor = self.plan.settings.explosion
        if factor is None or len(self._recent) < _MEDIAN_OF_AT_LEAST:
            return math.inf
        median = statistics.median(self._recent)
        return float(factor * median) if median > 0 else math.inf

    def write(self, line: Line) -> None:
        """Append a line to the log."""
        if line["kind"] == "step" and line["loss"] is not None:
            self._recent.append(line["loss"])
        if self._log is not None:
            self._log.write(line)

    def show(self, tracker: Tracker) -> None:
        """Let a tracker of rank 0 have each line of the log from now on."""
        assert self._log is not None
        self._log.show(tracker)

    def count_step(self) -> None:
        """Count a step as done."""
        self.progress = replace(self.progress, step=self.progress.step + 1)

    def count_epoch(self, loss: float | None) -> bool:
        """Count an epoch as validated, keep the encoder if its loss is the lowest, and return whether it is."""
        epoch, best = self.progress.validated, self.progress.best
        lowest = loss is not None and (best is None or loss < best.loss)
        if loss is not None and lowest:
            best = Best(loss, self.step, epoch, "", "")  # the other ranks only need the loss
            self.ranks.while_rank_0(lambda: self._keep_best(loss))
            best = self._best or best
        self.progress = replace(self.progress, validated=epoch + 1, best=best)
        return lowest

    def _keep_best(self, loss: float) -> None:
        self._best = self.folder.checkpoints.save_best(self.encoder(), loss, self.step, self.progress.validated)

    def keep_best_by_probe(self, score: float, epoch: int, scored: str) -> None:
        """Keep the encoder as that of the highest probe score, of the set that `scored` names; for rank 0."""
        best = self.folder.checkpoints.save_best_by_probe(self.encoder(), score, self.step, epoch, scored)
        self.progress = replace(self.progress, best_by_probe=best)

    def safe_point(self, periodic: bool = False) -> None:
        """Let the run end here on request: all ranks save and raise Interrupted, whichever of them got the signal.

        Args:
            periodic: also save when rank 0 finds that the last checkpoint is older than the recipe allows.
        """
        due = periodic and time.monotonic() - self._saved >= 60.0 * self.plan.settings.checkpoint_minutes
        stops, saves = self.ranks.add([self._stop.requested, due and self.ranks.leads])
        if stops or saves:
            self.save()
        if stops:
            self._stop.check()
            raise Interrupted(f"another rank was asked to stop. {RESUME}")

    def save(self) -> None:
        """Write a checkpoint; every rank calls this and waits until it is on disk.

        The log is on disk before it, so that a resume finds every line that the checkpoint covers.
        """
        self.ranks.while_rank_0(self._save)
        self._saved = time.monotonic()

    def _save(self) -> None:
        assert self._log is not None
        mark = self._log.sync()
        state = {**training_state(self.model, self.learner.optimizer), **self.norm.state()}
        progress = replace(self.progress, log=mark, history=self._log.history.to_json())
        self.folder.checkpoints.save(state, progress)

    def draw(self, always: bool = False) -> None:
        """Draw the loss curve again, at most once per minute unless `always`."""
        if self._log is None:
            return
        if always or time.monotonic() - self._drawn >= _DRAW_EVERY_S:
            self.folder.write(CURVE, draw_curve(self._log.history, self.plan.steps_per_epoch))
            self._drawn = time.monotonic()

    def encoder(self) -> Tensors:
        """Return the encoder's weights as they stand."""
        return {name: tensor.detach() for name, tensor in self.model.student.vit.state_dict().items()}

    def sync_log(self) -> None:
        """Make the log durable, and look at all of it: one that was changed or removed is written again."""
        assert self._log is not None
        self._log.sync(thorough=True)

    def close(self) -> None:
        """Close the log."""
        if self._log is not None:
            self._log.close()

    def _compiled(self) -> torch.nn.Module:
        """Return the same weights under the same names; `self.model` stays what is saved."""
        if not self.plan.settings.compile:
            return self.model
        compiled: torch.nn.Module = torch.compile(self.model, dynamic=True)  # type: ignore[assignment]
        return compiled


def _new_model(plan: TrainingPlan) -> Jepa | Contrast:
    if plan.settings.objective == "contrast":
        return Contrast(plan.settings, plan.store.size)
    return Jepa(plan.settings, plan.store.size, plan.targets.grid, plan.targets.dim)


def _new_maker(plan: TrainingPlan, norm: TargetNorm | JoinedNorm) -> BatchMaker | PairMaker:
    if plan.settings.objective == "contrast":
        return PairMaker(plan.store, plan.split, plan.settings, plan.device)
    return BatchMaker(plan.store, plan.targets, plan.settings, plan.device, norm)


def _new_norm(plan: TrainingPlan) -> TargetNorm | JoinedNorm:
    return measured(plan.settings.target_norm, plan.store, plan.targets, plan.split.train, plan.device)
