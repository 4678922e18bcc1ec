"""Train an encoder from a store; called again, resume to the same numbers.

Rows, masks and augmentation are functions of (seed, step, row), and a checkpoint holds everything that steps change. So
on a CPU a run that was killed and resumed gives bitwise the losses and weights of an undisturbed one, with any number
of reading threads; torch's own number of threads must be the same, because sums are split over them. On a GPU the same
holds for rows and masks, and for losses up to the order in which its kernels add.
"""

from __future__ import annotations

import itertools
import logging
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

from usjepa.cache.errors import TrainingError
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.teacher.exported import RECIPE
from usjepa.cache.terminal.progress import ProgressBar
from usjepa.train.data.batches import BatchRequest
from usjepa.train.data.fingerprint import fingerprint_text, wrapped
from usjepa.train.data.pairs import PairMaker
from usjepa.train.record.folder import CARD, RunFolder
from usjepa.train.record.summary import summary
from usjepa.train.run.exports.exporting import export
from usjepa.train.run.exports.keeping import keep_encoders, notes_on_keeping
from usjepa.train.run.holding import alone_in, deterministic, pinned, rank_0_reports, refuse_odd_place
from usjepa.train.run.insight import FeatureMeasures, measure_features
from usjepa.train.run.live.watching import watched
from usjepa.train.run.opening import named_rows
from usjepa.train.run.plan import TrainingPlan, describe, make_plan
from usjepa.train.run.probing import UNTRAINED, notes_on_probe, open_probe, probe_encoder
from usjepa.train.run.ranks import ranks_of_this_run
from usjepa.train.run.state import RESUME, TrainingRun
from usjepa.train.run.step import train_step
from usjepa.train.run.validate import validate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.train.record.lines import StepLine, ValidationLine
    from usjepa.train.run.step import Parts

logger = logging.getLogger(__name__)


def train(
    store_path: str | Sequence[str],
    run_dir: str,
    recipe: Recipe,
    device: str | None = None,
    stop_after_steps: int | None = None,
) -> None:
    """Train an encoder into a run's folder; called again, resume. A finished run is left unchanged.

    Args:
        store_path: folder or URL of a sealed store, or several, which are read as one (see `open_stores`).
        run_dir: new, or that of the run to resume.
        recipe: its `train` section, and `cache.teacher` for online targets.
        device: `cpu`, `cuda` or `cuda:N`; None: a GPU if there is one.
        stop_after_steps: save and return once this call has taken so many steps.

    Raises:
        UsageError: recipe, store and device do not fit each other.
        NotSealedError: the store's build has not finished.
        IdentityError: the run began on another store or with other numbers, or stores do not fit each other.
        ClaimedError: another process is training in this folder, or took it over, or the folder was removed.
        TrainingError: a loss is not finite, or no checkpoint of a run that has begun is whole.
        WriteError: the folder can't take a file.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    refuse_odd_place(run_dir)
    RunFolder(Path(run_dir)).refuse_foreign()
    with (
        graceful_interrupts(RESUME) as stop,
        ranks_of_this_run(device) as ranks,
        rank_0_reports(ranks),
        alone_in(Path(run_dir), ranks) as folder,
    ):
        found = folder.checkpoints.newest(folder.begun)
        ranks.agree("checkpoint", -1 if found is None else found[0].step)
        plan = make_plan(store_path, recipe, device, None if found is None else found[0], ranks)
        with deterministic(plan.device), closing(plan.store):
            run = TrainingRun(plan, folder, found, ranks, stop, open_probe(plan, folder, ranks))
            with closing(run), pinned(run), watched(run):
                _carry_on(run, stop_after_steps)


def _carry_on(run: TrainingRun, stop_after: int | None) -> None:
    """Train the remaining steps, then write the encoder."""
    keep_encoders(run)  # a kill may have come between a checkpoint and what is kept of it
    if run.finished and run.folder.export_begun and not _to_mend(run):
        logger.info(f"{run.folder.path}: this run is finished ({run.step:,} steps); there is nothing left to do.")
        return
    of_pairs = [run.batches.note] if isinstance(run.batches, PairMaker) and run.batches.note else []
    for note in (*describe(run.plan), *of_pairs, *notes_on_probe(run), *notes_on_keeping(run)):
        logger.info(note)
    if run.step:
        logger.info(f"resuming at step {run.step:,} of {run.plan.total_steps:,}")
    else:
        probe_encoder(run, UNTRAINED)
    last = run.plan.total_steps if stop_after is None else min(run.step + stop_after, run.plan.total_steps)
    if not _epochs(run, last):
        run.draw(always=True)
        logger.info(f"stopped after step {run.step:,} of {run.plan.total_steps:,}, as requested. {RESUME}")
        return
    export(run)
    for note in summary(run.history, run.plan.settings.epochs):
        logger.info(note)


def _to_mend(run: TrainingRun) -> bool:
    """Return whether something of a finished run's export is not as it was written, and must be written again."""
    found = run.folder.differences() if run.ranks.leads else {}
    if run.ranks.leads and not found:
        _warn_of_a_lost_best(run)
    if CARD in found and (run.folder.path / CARD).exists():
        logger.info(
            f"{run.folder.path / CARD}: {found.pop(CARD)}. It is left as it is, since it may have been edited; remove "
            "it and run the same command again to have it written anew."
        )
    for name, how in found.items():
        logger.warning(f"{run.folder.path / name}: {how}; the export is written again from the last checkpoint.")
    if RECIPE in found:
        run.folder.begin(run.plan.recipe)
    return bool(run.ranks.add([len(found)])[0])


def _warn_of_a_lost_best(run: TrainingRun) -> None:
    """Say that the encoder could not be written again, where only its export is still whole."""
    if run.progress.best is None:
        return
    try:
        run.folder.checkpoints.check_best(run.progress.best)
    except TrainingError as error:
        logger.warning(f"{error} The exported encoder is whole: copy the folder now.")


def _epochs(run: TrainingRun, last: int) -> bool:
    """Train epoch after epoch up to `last` steps; return whether the run is finished."""
    plan = run.plan
    while not run.finished:
        epoch = run.progress.validated
        end = (epoch + 1) * plan.steps_per_epoch
        with ProgressBar(min(end, last) - run.step, f"epoch {epoch + 1}/{plan.settings.epochs}", "steps") as bar:
            _steps(run, min(end, last), bar)
        if run.step < end:
            run.save()
            return False
        _end_epoch(run)
        if run.step >= last:
            return run.finished
    return True


def _steps(run: TrainingRun, end: int, bar: ProgressBar) -> None:
    """Take the steps up to `end`, which lies in the current epoch."""
    accumulate = run.plan.settings.accumulate
    with closing(run.batches.stream(_requests(run, run.step, end))) as stream:
        began = before = time.perf_counter()
        first = run.step
        while received := list(itertools.islice(stream, accumulate)):
            waited = sum(waited for _, waited in received)
            line = _step(run, cast("Parts", [batch for batch, _ in received]))
            now = time.perf_counter()
            line["images_per_s"] = round(line["images"] / (now - before), 2)
            line["data_wait_s"] = round(waited, 6)
            before = now
            run.write(line)
            run.count_step()
            run.safe_point(periodic=True)
            loss = "-" if line["loss"] is None else f"{line['loss']:.4f}"
            bar.update(1, loss=loss, wait=f"{waited * 1e3:.0f} ms", run_left=_left(run, now - began, run.step - first))


def _left(run: TrainingRun, seconds: float, steps: int) -> str:
    """Return the time that the whole run still takes at this epoch's pace; validation is not counted."""
    left = (run.plan.total_steps - run.step) * seconds / max(steps, 1)
    return f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"


def _requests(run: TrainingRun, start: int, end: int) -> Iterator[BatchRequest]:
    """Yield this rank's parts of each step's batch."""
    plan = run.plan
    for step in range(start, end):
        epoch, index = plan.order.position_of(step)
        for positions in run.ranks.shares(plan.order.batch(epoch, index), plan.settings.accumulate):
            yield BatchRequest(step, positions)


def _step(run: TrainingRun, parts: Parts) -> StepLine:
    """Learn from a batch; return its line of the log, with times of 0."""
    step = parts[0].step
    epoch, index = run.plan.order.position_of(step)
    own = [sum(len(part) for part in parts), sum(len(part.unusable_rows) for part in parts)]
    images, unusable, rows_and_masks = run.ranks.add([*own, wrapped(sum(part.fingerprint for part in parts))])
    alone = isinstance(run.batches, PairMaker) and not run.batches.tells_apart(run.plan.order.batch(epoch, index))
    if alone:
        images, unusable = 0, images  # all are of one clip or group: a loss of 0 would be no loss
    line: StepLine = {
        "kind": "step",
        "step": step,
        "epoch": epoch,
        "loss": None,
        "lr": None,
        "wd": None,
        "grad_norm": None,
        "images": images,
        "unusable": unusable,
        "batch": fingerprint_text(rows_and_masks),
        "images_per_s": 0.0,
        "data_wait_s": 0.0,
    }
    if not images:
        if not alone:
            _refuse_unusable(run.plan, parts, unusable, index)
        return line
    result = train_step(run.learner, parts, images, run.loss_limit)
    line["loss"], line["grad_norm"] = result.loss, result.grad_norm
    line["lr"], line["wd"] = result.lr, result.weight_decay
    if result.each:
        line["losses"] = {part.name: loss for part, loss in zip(run.plan.targets.parts, result.each, strict=True)}
    return line


def _refuse_unusable(plan: TrainingPlan, parts: Parts, count: int, index: int) -> None:
    """Stop at a whole batch without a usable image; the short last batch of an epoch may be one, and is skipped."""
    if index > 0 and count < plan.settings.batch_size:
        return
    rows = [row for part in parts for row in part.unusable_rows]
    raise TrainingError(
        f"step {parts[0].step}: none of the {count} images of the batch has room for its masks (rows "
        f"{', '.join(named_rows(plan.store, rows[:16]))}): their regions are too small. Look at them with "
        "usjepa-cache inspect, lower train.masks.min_patches or target_scale, or train without train.masks.regions."
    )


def _end_epoch(run: TrainingRun) -> None:
    """Validate, keep the encoder if it is the best, save. An interrupt leaves a checkpoint that validates first."""
    epoch = run.progress.validated
    run.safe_point()
    if run.validates:
        result = validate(run)
        measures: FeatureMeasures = {}
        run.ranks.while_rank_0(lambda: measures.update(measure_features(run.model.student, run.plan, epoch)))
        lowest = run.count_epoch(result.loss)
        line: ValidationLine = {
            "kind": "validation",
            "epoch": epoch,
            "step": run.step,
            "loss": result.loss,
            "images": result.images,
            "unusable": result.unusable,
            "best": lowest,
            **result.measures,
            **measures,
        }
        run.write(line)
        logger.info(f"epoch {epoch + 1}: validation loss {result.loss:.5f}{' (lowest so far)' if lowest else ''}")
    else:
        run.count_epoch(None)
    probe_encoder(run, epoch)
    run.save()
    keep_encoders(run)
    run.draw()
