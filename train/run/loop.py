"""Stage two: from a store to an encoder. Run it again and it goes on where it stopped, to the same numbers.

Exactness: rows, masks and augmentation are functions of (seed, step, row) and a checkpoint holds all that steps change,
so on a CPU a run that was killed and resumed gives bitwise the losses and weights of an undisturbed one, with any
number of reading threads; torch's own number of threads must be the same, because sums are split over them. On a GPU
the same holds of rows and masks, and of losses up to the order in which its kernels add.
"""

from __future__ import annotations

import itertools
import logging
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from usjepa.cache.errors import Interrupted, TrainingError, UsageError
from usjepa.cache.interrupt import StopFlag, graceful_interrupts
from usjepa.cache.progress import ProgressBar as Bar
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.durable import make_folders
from usjepa.cache.storage.local import LocalStorage
from usjepa.train.data.batches import BatchMaker, BatchRequest, TrainBatch
from usjepa.train.data.fingerprint import fingerprint_text, wrapped
from usjepa.train.record.summary import summary
from usjepa.train.run.insight import look
from usjepa.train.run.plan import Plan, describe, make_plan
from usjepa.train.run.ranks import ranks_of_this_run
from usjepa.train.run.state import Run, RunFolder
from usjepa.train.run.step import train_step
from usjepa.train.run.validate import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.train.record.log import Line
    from usjepa.train.run.ranks import Ranks

logger = logging.getLogger(__name__)

GO_ON = "The state is saved: run the same command again to go on."


def train(
    store_path: str, run_dir: str, recipe: Recipe, device: str | None = None, stop_after_steps: int | None = None
) -> None:
    """Train an encoder into a run's folder; run it again: it resumes, and a finished run is left as it is.

    Args:
        store_path: folder or URL of a sealed store.
        run_dir: new, or that of this run.
        recipe: resolved; its `train` section counts here, and `cache.teacher` for online targets.
        device: `cpu`, `cuda` or `cuda:N`; none: a GPU when there is one.
        stop_after_steps: save and return once this call has taken so many steps.

    Raises:
        UsageError: recipe, store and device do not fit each other.
        NotSealedError: the store's build has not finished.
        IdentityError: the run began on another store or with other numbers.
        TrainingError: a loss is not finite, or no checkpoint of a run that has begun is whole.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    if Path(run_dir).exists() and not Path(run_dir).is_dir():
        raise UsageError(f"{run_dir}: is a file; RUN is a folder, new or of an earlier call.")
    with (
        graceful_interrupts() as stop,
        ranks_of_this_run(device) as ranks,
        _rank_0_reports(ranks),
        _alone_in(run_dir, ranks),
    ):
        folder = RunFolder(Path(run_dir))
        found = folder.checkpoints.newest(folder.begun)
        ranks.agree("checkpoint", -1 if found is None else found[0].step)
        plan = make_plan(store_path, recipe, device, None if found is None else found[0], ranks)
        with _deterministic(plan.device), closing(plan.store):
            run = Run(plan, folder, found, ranks)
            with closing(run.journal):
                _carry_on(run, stop, stop_after_steps)


@contextmanager
def _rank_0_reports(ranks: Ranks) -> Iterator[None]:
    """Keep the log of all other ranks to errors: they would repeat what rank 0 reports."""
    reports = logging.getLogger("usjepa")
    before = reports.level
    if not ranks.leads:
        reports.setLevel(logging.ERROR)
    try:
        yield
    finally:
        reports.setLevel(before)


@contextmanager
def _alone_in(run_dir: str, ranks: Ranks) -> Iterator[None]:
    """Hold the run's claim: two runs in one folder would overwrite each other's checkpoints."""
    if not ranks.leads:
        yield
        return
    folder = Path(run_dir)
    make_folders(folder)
    try:
        with hold_claim(LocalStorage(folder), "run", steal=False, doing="trained"):
            yield
    finally:
        # A call that was refused leaves nothing behind: `rmdir` fails on whatever holds something.
        for empty in (folder / "claims", folder):
            with suppress(OSError):
                empty.rmdir()


def _carry_on(run: Run, stop: StopFlag, stop_after: int | None) -> None:
    """Train what is left, then write the encoder."""
    if run.finished and run.folder.exported:
        logger.info(f"{run.folder.path}: this run is finished ({run.step:,} steps); nothing is left to do.")
        return
    for note in describe(run.plan):
        logger.info(note)
    if run.step:
        logger.info(f"going on from step {run.step:,} of {run.plan.total_steps:,}")
    last = run.plan.total_steps if stop_after is None else min(run.step + stop_after, run.plan.total_steps)
    if _epochs(run, stop, last):
        run.draw(always=True)
        run.export()
        for note in summary(run.journal.lines, run.plan.settings.epochs):
            logger.info(note)
    else:
        run.draw(always=True)
        logger.info(f"stopped after step {run.step:,} of {run.plan.total_steps:,}, as asked. {GO_ON}")


def _epochs(run: Run, stop: StopFlag, last: int) -> bool:
    """Train epoch after epoch up to `last` steps; returns whether the run is finished."""
    plan = run.plan
    maker = BatchMaker(plan.store, plan.targets, plan.settings, plan.device, run.norm)
    while not run.finished:
        end = (run.progress.validated + 1) * plan.steps_per_epoch
        with Bar(
            min(end, last) - run.step, f"epoch {run.progress.validated + 1}/{plan.settings.epochs}", "steps"
        ) as bar:
            _steps(run, maker, stop, min(end, last), bar)
        if run.step < end:
            run.save()
            return False
        _end_epoch(run, maker, stop)
        if run.step >= last:
            return run.finished
    return True


def _steps(run: Run, maker: BatchMaker, stop: StopFlag, end: int, bar: Bar) -> None:
    """Take the steps up to `end`, which lies in the current epoch."""
    accumulate = run.plan.settings.accumulate
    with closing(maker.stream(_requests(run, run.step, end))) as stream:
        before = time.perf_counter()
        while received := list(itertools.islice(stream, accumulate)):
            waited = sum(waited for _, waited in received)
            line = _step(run, [batch for batch, _ in received])
            now = time.perf_counter()
            line |= {"images_per_s": round(line["images"] / (now - before), 2), "data_wait_s": round(waited, 6)}
            before = now
            run.journal.write(line)
            run.stepped()
            _safe_point(run, stop, periodic=True)
            bar.update(1, loss="-" if line["loss"] is None else f"{line['loss']:.4f}", wait=f"{waited * 1e3:.0f} ms")


def _requests(run: Run, start: int, end: int) -> Iterator[BatchRequest]:
    """This rank's parts of each step's batch."""
    plan = run.plan
    for step in range(start, end):
        epoch, index = plan.order.position_of(step)
        for positions in run.ranks.shares(plan.order.batch(epoch, index), plan.settings.accumulate):
            yield BatchRequest(step, positions)


def _step(run: Run, parts: list[TrainBatch]) -> Line:
    """Learn from a batch; returns its line of the log, without times."""
    step = parts[0].step
    epoch, index = run.plan.order.position_of(step)
    mine = [sum(len(part) for part in parts), sum(len(part.unusable_rows) for part in parts)]
    images, unusable, rows_and_masks = run.ranks.add([*mine, wrapped(sum(part.fingerprint for part in parts))])
    line: Line = {"kind": "step", "step": step, "epoch": epoch}
    counts = {"images": images, "unusable": unusable, "batch": fingerprint_text(rows_and_masks)}
    if not images:
        _refuse_unusable(run.plan, parts, unusable, index)
        return line | {"loss": None, "lr": None, "wd": None, "grad_norm": None, **counts}
    result = train_step(run.parallel, run.optimizer, parts, images, run.plan, run.ranks, run.loss_limit)
    numbers = {"loss": result.loss, "lr": result.lr, "wd": result.weight_decay, "grad_norm": result.grad_norm}
    return line | numbers | counts


def _refuse_unusable(plan: Plan, parts: list[TrainBatch], asked: int, index: int) -> None:
    """Stop at a whole batch without a usable image; an epoch's short last one may well be such, and is skipped."""
    if index > 0 and asked < plan.settings.batch_size:
        return
    rows = [row for part in parts for row in part.unusable_rows]
    raise TrainingError(
        f"step {parts[0].step}: none of the {asked} images of the batch has room for its masks (rows "
        f"{', '.join(str(row) for row in rows[:16])}): their regions are too small. Look at them with "
        "usjepa-cache inspect, lower train.masks.min_patches or target_scale, or train without train.masks.regions."
    )


def _end_epoch(run: Run, maker: BatchMaker, stop: StopFlag) -> None:
    """Validate, keep the encoder if it is the best, save. An interrupt leaves a checkpoint that validates first."""
    epoch, loss = run.progress.validated, None
    _safe_point(run, stop)
    if len(run.plan.validation_rows):
        result = validate(run.model, maker, run.plan, run.ranks, lambda: _safe_point(run, stop))
        loss = result.loss
        seen = look(run.model.student, run.plan, epoch) if run.ranks.leads else {}
        lowest = run.validated(loss)
        run.journal.write(
            {
                **{"kind": "validation", "epoch": epoch, "step": run.step, "loss": loss},
                **{"images": result.images, "unusable": result.unusable, "best": lowest},
                **{"target_mean": result.target_mean, "target_std": result.target_std, **seen},
            }
        )
        if run.ranks.leads:
            logger.info(f"epoch {epoch + 1}: validation loss {loss:.5f}{' (lowest so far)' if lowest else ''}")
    else:
        run.validated(None)
    run.save()
    run.draw()


def _safe_point(run: Run, stop: StopFlag, periodic: bool = False) -> None:
    """Here a run may end on request: all ranks save and raise Interrupted, whichever of them was asked.

    With `periodic`, a checkpoint is written when rank 0 finds it due.
    """
    asked, due = run.ranks.add([stop.requested, periodic and run.ranks.leads and run.save_due])
    if asked or due:
        run.save()
    if asked:
        stop.check(GO_ON)
        raise Interrupted(f"another rank was asked to stop. {GO_ON}")


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On a CPU, let torch refuse what could not be repeated bitwise; the caller's settings are put back."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, finds nothing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
