"""Keep encoders of chosen epochs and of the best probe while training goes on.

Each lies in a folder of `RUN/encoders`, which loads in every way in which RUN itself does when it is finished. It is
written once a checkpoint covers its epoch, so it always belongs to the run as it stands: a run that was killed in
between goes on from that checkpoint, whose weights these are, and writes it first.
"""

from __future__ import annotations

import copy
import logging
import shutil
from typing import TYPE_CHECKING

import xxhash
from safetensors.torch import save

from usjepa.cache.errors import TrainingError
from usjepa.train.run.exports.exporting import Kept, is_kept, kept_place, write_kept

if TYPE_CHECKING:
    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.train.record.checkpoint import Best, BestByProbe
    from usjepa.train.run.state import TrainingRun

logger = logging.getLogger(__name__)

BEST_PROBE, LOWEST_LOSS = "best-probe", "lowest-loss"
"""Folders of the encoders of the best probe and, beside it, of the lowest validation loss so far."""


def keep_encoders(run: TrainingRun) -> None:
    """Write what is to be kept of the run as its last checkpoint has it; what is there is left as it is.

    Raises:
        WriteError: the folder can't take it.
    """
    if wanted_epochs(run.plan.settings) or run.plan.settings.probe is not None:
        run.ranks.while_rank_0(lambda: _keep(run))


def wanted_epochs(settings: TrainSettings) -> frozenset[int]:
    """Return the epochs, from 1, whose encoder is kept."""
    every = settings.keep_every
    return frozenset(settings.keep_encoders) | frozenset(range(every, settings.epochs + 1, every) if every else ())


def epoch_name(epoch: int) -> str:
    """Return the folder's name of an epoch, from 1."""
    return f"epoch-{epoch:04d}"


def _keep(run: TrainingRun) -> None:
    epoch = run.progress.validated
    stands_at_its_end = run.step == epoch * run.plan.steps_per_epoch
    if stands_at_its_end and epoch in wanted_epochs(run.plan.settings):
        weights = xxhash.xxh3_128_hexdigest(save(run.encoder()))
        kept = Kept(epoch_name(epoch), weights, run.step, epoch, f"the last step of epoch {epoch}", {})
        if not is_kept(run, kept):
            write_kept(run, kept, run.model.student.vit)
    if run.progress.best_by_probe is not None:
        _keep_best(run, _by_probe(run, run.progress.best_by_probe), run.progress.best_by_probe)
    if run.progress.best is not None and run.plan.settings.probe is not None:
        _keep_best(run, _by_loss(run.progress.best), run.progress.best)


def _by_probe(run: TrainingRun, best: BestByProbe) -> Kept:
    chosen = f"best score of train.probe, macro F1 {100 * best.score:.1f} % after epoch {best.epoch + 1}"
    about = {"probe": {"macro_f1": best.score, "set": best.set}}
    scored = run.probe.hashes if run.probe is not None and run.probe.digest == best.set else frozenset()
    return Kept(BEST_PROBE, best.xxh3_128, best.step, best.epoch + 1, chosen, about, scored)


def _by_loss(best: Best) -> Kept:
    chosen = f"lowest validation loss, {best.loss:.5f} after epoch {best.epoch + 1}"
    return Kept(LOWEST_LOSS, best.xxh3_128, best.step, best.epoch + 1, chosen, {"loss": best.loss})


def _keep_best(run: TrainingRun, kept: Kept, best: Best | BestByProbe) -> None:
    """Write an encoder from what checkpoints hold of it, unless it is there."""
    if is_kept(run, kept):
        return
    try:
        tensors = run.folder.checkpoints.load_best(best)
    except TrainingError as error:
        logger.warning(f"{error} {kept_place(run, kept.name)} is not written.")
        return
    vit = copy.deepcopy(run.model.student.vit)
    vit.load_state_dict(tensors, strict=True)
    write_kept(run, kept, vit)


def notes_on_keeping(run: TrainingRun) -> list[str]:
    """Return what is to be said before the first step: epochs that are past, and encoders that find no room."""
    wanted, done = wanted_epochs(run.plan.settings), run.progress.validated
    lost = [epoch for epoch in sorted(wanted) if epoch <= done and not kept_place(run, epoch_name(epoch)).exists()]
    notes = []
    if lost:
        named = ", ".join(map(str, lost[:8])) + (f" and {len(lost) - 8} more" if len(lost) > 8 else "")
        notes.append(f"the encoders of epochs {named} are not kept: the run is past them.")
    ahead = sum(epoch > done for epoch in wanted)
    one = sum(tensor.nbytes for tensor in run.encoder().values())
    free = shutil.disk_usage(run.folder.path).free
    if ahead * one > free:
        notes.append(
            f"{ahead:,} encoders are still to be kept, {one / 1e6:,.0f} MB each, and {free / 1e9:,.1f} GB are free: "
            "the run will end at a full disk. Keep fewer (train.keep_encoders, train.keep_every)."
        )
    return notes
