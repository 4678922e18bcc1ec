"""Probe the encoder on a foreign labelled set while it trains, and remember the best.

Nothing of it reaches the training: no draw, no weight, no order depends on it. Rank 0 computes while the others wait.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from usjepa.cache.errors import Interrupted, UsjepaError
from usjepa.cache.frames.prepare import grey_of
from usjepa.cache.places.runs import Runs
from usjepa.cache.sources.patients import group_key
from usjepa.train.probe.probe_set import open_probe_set

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.train.model.student import Student
    from usjepa.train.probe.probe_set import ProbeSet
    from usjepa.train.probe.scoring import ProbeScore
    from usjepa.train.record.folder import RunFolder
    from usjepa.train.record.lines import ProbeLine
    from usjepa.train.run.plan import TrainingPlan
    from usjepa.train.run.ranks import Ranks
    from usjepa.train.run.state import TrainingRun

logger = logging.getLogger(__name__)

PROBE = "probe"
"""In the run's folder: frames that were cut for the probe."""
UNTRAINED = -1
"""The epoch of the probe before the first step."""
_DIGITS = 4


def open_probe(plan: TrainingPlan, folder: RunFolder, ranks: Ranks) -> ProbeSet | None:
    """Return the set of `train.probe` on rank 0, before anything is trained; None without one, and on other ranks.

    Raises:
        UsageError: the set is not there, has no labels, or too few groups.
        SourceError: one of its files can't be read.
    """
    place = plan.settings.probe
    if place is None:
        return None
    opened: list[ProbeSet] = []
    ranks.while_rank_0(lambda: opened.append(open_probe_set(place, folder.path / PROBE, plan.recipe)))
    return opened[0] if opened else None


def probe_encoder(run: TrainingRun, epoch: int) -> None:
    """Score the encoder at the end of an epoch (from 0, or `UNTRAINED`), if one is due; write it into the log."""
    if run.plan.settings.probe is not None and _is_due(run.plan.settings, epoch):
        run.ranks.while_rank_0(lambda: _probe(run, epoch))


def _is_due(settings: TrainSettings, epoch: int) -> bool:
    return epoch == UNTRAINED or (epoch + 1) % settings.probe_every == 0 or epoch + 1 == settings.epochs


def _probe(run: TrainingRun, epoch: int) -> None:
    assert run.probe is not None
    began = time.perf_counter()
    score = _scored(run, run.probe, epoch)
    if score is None:
        return
    value, best = round(score.macro_f1, _DIGITS), run.progress.best_by_probe
    if best is not None and best.set != run.probe.digest:
        logger.warning(
            f"probe {run.probe.name}: its frames, their labels or how they are scored have changed since epoch "
            f"{best.epoch + 1}, the best so far: the best is sought anew from here."
        )
        best = None
    highest = epoch != UNTRAINED and (best is None or value > best.score)
    line: ProbeLine = {
        "kind": "probe",
        "epoch": epoch,
        "step": run.step,
        "macro_f1": value,
        "macro_f1_sd": round(score.sd, _DIGITS),
        "knn": round(score.knn, _DIGITS),
        "frames": run.probe.scored,
        "groups": run.probe.scored_groups,
        "set": run.probe.digest[:12],
        "best": highest,
        "seconds": round(time.perf_counter() - began, 3),
    }
    if highest:
        run.keep_best_by_probe(value, epoch, run.probe.digest)
    run.write(line)
    when = "before the first step" if epoch == UNTRAINED else f"epoch {epoch + 1}"
    logger.info(
        f"{when}: probe {run.probe.name}: macro F1 {100 * value:.1f} ± {100 * score.sd:.1f} %"
        f"{' (best so far)' if highest else ''}, k-NN {100 * score.knn:.1f} %, in {line['seconds']:.1f} s"
    )


def _scored(run: TrainingRun, probe: ProbeSet, epoch: int) -> ProbeScore | None:
    """Return the score, or None, with a warning, where there is none: a probe never ends a training."""
    when = "before the first step" if epoch == UNTRAINED else f"after epoch {epoch + 1}"
    try:
        found = probe.score(partial(_features, run.model.student, run.plan.device))
    except Interrupted:
        raise
    except UsjepaError as error:
        logger.warning(f"probe {probe.name}: none {when}, its frames can't be read: {error}")
        return None
    if found is None:
        logger.warning(f"probe {probe.name}: none {when}, the encoder's features are not finite.")
    return found


def _features(student: Student, device: torch.device, pixels_BCSS: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean patch tokens of whole frames, float32 [B, D], as an evaluation takes them."""
    grey = student.settings.channels == 1
    given = student.input(torch.from_numpy(grey_of(pixels_BCSS)[:, None] if grey else pixels_BCSS), device)
    was_training = student.training
    student.eval()
    with torch.no_grad():
        pooled_BD = student.vit.forward_features(given)[:, student.prefix :].float().mean(1)
    student.train(was_training)
    array: NDArray[np.float32] = pooled_BD.cpu().numpy()
    return array


def notes_on_probe(run: TrainingRun) -> list[str]:
    """Return what is to be known of the probe before the first step: what is scored, and what is trained on as well."""
    if run.probe is None:
        return []
    return [*run.probe.describe(), *_trained_on(run.plan, run.probe)]


def _trained_on(plan: TrainingPlan, probe: ProbeSet) -> list[str]:
    """Return notes on files and patients of the set that take part in the training, held-out groups among them."""
    table, split = plan.store.table, plan.split
    parts = [table.stretches.sources_of(Runs.like(part)) for part in (split.train, split.validation)]
    sources = np.unique(np.concatenate(parts))
    files = len(probe.hashes.intersection(table.content_hashes(sources)))
    takes_part = np.zeros(len(table.sources), bool)
    takes_part[sources] = True
    shared: set[tuple[str, str]] = set()
    first = 0
    for datasets, groups in table.source_columns("dataset", "group"):
        here = takes_part[first : first + len(datasets)].tolist()
        keys = (group_key(*names) for names, part in zip(zip(datasets, groups, strict=True), here, strict=True) if part)
        shared.update(probe.group_keys.intersection(keys))
        first += len(datasets)
    notes = []
    if files:
        notes.append(
            f"probe {probe.name}: {files:,} of its {len(probe.hashes):,} files take part in the training, without "
            "their labels: on frames that the encoder never saw, scores may be lower."
        )
    if shared:
        notes.append(
            f"probe {probe.name}: {len(shared):,} of its {len(probe.group_keys):,} named groups (patients, clips) have "
            "frames in the training, by their names: on other patients, scores may be lower."
        )
    return notes
