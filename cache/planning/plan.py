"""Measure a source, a teacher and a target, and predict a build before it starts.

Nothing is assumed that can be measured: a sample of the source is scanned, the teacher timed, the target written to
and read from, and the first shards of the sample are built by the build's own pipeline. All of it happens in one
temporary folder on the target, which is removed however the plan ends.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from usjepa.cache.building.disk_space import room_at
from usjepa.cache.coding.form import Form, LatentPrecision
from usjepa.cache.errors import UsageError, WriteError
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.planning.estimate import Forecast, Measured, forecast, row_nbytes
from usjepa.cache.planning.sample import draw_sample
from usjepa.cache.planning.target import measure_target
from usjepa.cache.planning.trial import batch_of, run_trial, teacher_seconds
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.storage.urls import is_url, shown
from usjepa.cache.teacher.resolve import load_pass, resolve_teacher

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.teacher.teacher import Pass

logger = logging.getLogger(__name__)

_GO_ON = "Nothing was kept: run the same command again."
_LEAST_ROWS = 640
"""More than the small phantoms that a build cuts in its own process."""
_SHARDS = 7
_LEAST_FREE = 512 << 20


@dataclass(frozen=True)
class BuildPlan:
    """What was measured, and what follows for the recipe and for other precisions and numbers of views."""

    source: str
    target: str
    measured: Measured
    wanted: Forecast
    others: tuple[Forecast, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return asdict(self)


def plan(
    source: str | None,
    recipe: Recipe,
    teacher: str | None = None,
    target: str | None = None,
    device: str | None = None,
    seconds: float = 60.0,
    began: float | None = None,
) -> BuildPlan:
    """Measure and predict.

    Args:
        source: folder, file, manifest CSV or `phantom`; none: the recipe's own.
        recipe: its `cache` section is what would be built.
        teacher: as for build; none: pixels only.
        target: folder in which the store would lie, or the store's own place; none: the working folder.
        device: torch device of the teacher.
        seconds: about how long to measure.
        began: `time.perf_counter()` when the command began, before its libraries were imported, as a build imports
            them too; none: now.

    Raises:
        UsageError: no source, or a target that is no folder.
        WriteError: the target can't be written or has less than 512 MiB free.
        SourceError: no source of the sample can be read.
    """
    began = time.perf_counter() if began is None else began
    place = source or recipe.cache.source
    if place is None:
        raise UsageError("plan needs a SOURCE: a folder, a file, a manifest CSV, or `phantom`.")
    with graceful_interrupts(_GO_ON), _own_folder(target) as folder:
        model, settings = _teacher(recipe.cache, teacher, device)
        loading = time.perf_counter() - began
        measured = _measure(place, settings, model, folder, loading, seconds)
    wanted = forecast(measured, settings, settings.form, settings.views.count, recipe.train.dataset_cap)
    return BuildPlan(place, str(folder.parent), measured, wanted, tuple(_others(measured, recipe, settings)))


def _measure(
    place: str,
    settings: CacheSettings,
    model: Pass | None,
    folder: Path,
    loading: float,
    seconds: float,
) -> Measured:
    logger.info("listing the source, scanning a sample of it")
    listing = list_source(place, settings)
    rows = max(_SHARDS * settings.rows_per_shard, _LEAST_ROWS)
    sample = draw_sample(listing, settings, rows, seconds / 3)
    alone = 0.0
    if model is not None and settings.teacher is not None:
        logger.info("timing the teacher")
        alone = teacher_seconds(model, settings, batch_of(model, settings), seconds / 20)
    teachers = () if model is None else model.teachers
    latents = tuple((teacher.grid[0] * teacher.grid[1], teacher.dim) for teacher in teachers)
    logger.info("writing to the target and reading from it")
    (folder / "rates").mkdir()
    nbytes = row_nbytes(settings, settings.form, latents)
    rates = measure_target(folder / "rates", nbytes, room_at(folder).nbytes, seconds / 20)
    shutil.rmtree(folder / "rates")
    logger.info("building the first shards of the sample")
    trial = run_trial(folder / "trial", listing, sample, settings, model, alone, seconds / 3)
    return Measured(
        len(listing.entries),
        len(sample.table),
        sample.frames,
        sample.frames_by_dataset,
        sample.scan_seconds,
        loading,
        trial,
        rates,
        latents,
        room_at(folder),
    )


def _teacher(settings: CacheSettings, text: str | None, device: str | None) -> tuple[Pass | None, CacheSettings]:
    if text is None:
        return None, settings
    wanted = resolve_teacher(text, settings.teacher)
    model = load_pass(wanted, settings.image_size, device)
    return model, settings.model_copy(update={"teacher": wanted})


def _others(measured: Measured, recipe: Recipe, settings: CacheSettings) -> Iterator[Forecast]:
    if not measured.latents:
        return
    forms = [Form(precision) for precision in get_args(LatentPrecision)]
    if settings.axes is not None:
        forms += [Form(precision, settings.axes) for precision in get_args(LatentPrecision)]
    for form in forms:
        for views in sorted({1, 2, 4, 8, settings.views.count}):
            yield forecast(measured, settings, form, views, recipe.train.dataset_cap)


@contextlib.contextmanager
def _own_folder(target: str | None) -> Iterator[Path]:
    """Make a folder on the target and remove it, with all that is in it, however the block ends."""
    place = Path(target or ".").absolute()
    if target and is_url(target):
        raise UsageError(
            f"{shown(target)}: plan measures folders. Give a folder on a disk or a mounted share as --target."
        )
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{place}: no folder. Give the folder that the store will lie in as --target.")
    free = room_at(place).nbytes
    if free < _LEAST_FREE:
        raise WriteError(f"{place}: {free:,} bytes are free; measuring needs {_LEAST_FREE:,} for a moment. Free some.")
    try:
        folder = Path(tempfile.mkdtemp(prefix=".usjepa-plan-", dir=place))
    except OSError as error:
        raise WriteError(f"{place}: can't write ({error.strerror}). Give another --target.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
