"""Make ready what all shards of a build share: segments, layers, the teacher, calibration."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.building.disk_space import check_room, need_of_build
from usjepa.cache.building.latent_job import LatentJob, job_on, make_job
from usjepa.cache.building.reference import compare_reference, reference_name
from usjepa.cache.building.request import absolute
from usjepa.cache.building.shard_maker import ShardMaker
from usjepa.cache.decoding.cutters import Cutters
from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.frames.layers import pixel_layers
from usjepa.cache.scanning.growth import grow
from usjepa.cache.scanning.journal import JOURNAL, ScanJournal
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.calibration import calibration_rows, is_calibrated, sample_size, with_calibration
from usjepa.cache.store.state import exists
from usjepa.cache.teacher.batch_size import ON_CPU, kept_batch_size
from usjepa.cache.teacher.computing import compute_all, try_teachers
from usjepa.cache.teacher.device import choose_devices
from usjepa.cache.teacher.layers import pass_layers
from usjepa.cache.teacher.resolve import load_pass, resolve_teacher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.building.request import BuildRequest
    from usjepa.cache.recipes.cache import CacheSettings, TeacherSettings
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.store.commits import Commit, Commits
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.writer import StoreWriter
    from usjepa.cache.teacher.teacher import Pass

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenSources:
    """The sources of a store that is being built; without cutters when all pixels are stored and none were given."""

    cutters: Cutters | None = None
    name: str | None = None
    """The source as other processes must name it; none for a listing that the caller made."""
    root: Path | None = None

    def close(self) -> None:
        """End the processes that decode."""
        if self.cutters is not None:
            self.cutters.close()


@dataclass(frozen=True)
class _Tried:
    """A teacher, or several of one pass, that is loaded and has shown that it works."""

    run: Pass
    settings: TeacherSettings
    reference: bytes | None = None
    """The file that it was compared with."""


@dataclass(frozen=True)
class Prepared:
    """A store whose shards can be made, and what makes them."""

    maker: ShardMaker
    sources: OpenSources
    teacher: TeacherSettings | None
    """For processes that load the teacher themselves; with the batch size when the build is shared out."""
    elsewhere: tuple[LatentJob, ...] = ()
    """The maker's job on further devices."""


def prepare(writer: StoreWriter, settings: CacheSettings, request: BuildRequest) -> Prepared:
    """Make ready everything that all shards share; the caller holds the claim and closes the sources.

    Raises:
        UsageError: sources or a batch size are needed and were not given.
        IdentityError: the store was built with other settings or by another teacher.
        SourceError: a source can't be read.
        WriteError: the target has too little space or too few inodes.
    """
    device, *further = _devices(request)
    request = replace(request, device=device)
    begun = exists(writer.storage)
    tried = None if begun else _tried_teacher(writer, settings, request)
    listing = None if begun else _listing(settings, request, request.source or settings.source)
    writer.create_or_open(settings.rows_per_shard)
    wanted = pixel_layers(settings, writer.state.rows_per_shard)
    for layer in wanted:
        if layer.name in writer.state.layers:
            writer.add_layer(layer)  # refuses another recipe before anything is scanned
    tried = tried or _tried_teacher(writer, settings, request)
    done = writer.committed(wanted)
    sources = _open_sources(writer, settings, request, done, listing)
    try:
        for layer in wanted:
            writer.add_layer(layer)
        skip_errors = request.skip_errors(settings)
        maker = ShardMaker(writer, done, sources.cutters, skip_errors)
        if tried is None:
            _check_room(maker, request)
            return Prepared(maker, sources, None)
        job, chosen = _latent_job(writer, settings, request, tried, done)
        maker = replace(maker, job=job)
        _check_room(maker, request)
        maker = calibrated(maker, job)
        assert maker.job is not None
        elsewhere = tuple(job_on(str(device), maker.job, settings, chosen) for device in further)
        return Prepared(maker, sources, chosen, elsewhere)
    except BaseException:
        sources.close()
        raise


def _devices(request: BuildRequest) -> list[str | None]:
    """Return the device, or several of one kind, that the teacher computes on."""
    if request.devices is None:
        return [request.device]
    if request.teacher is None:
        raise UsageError("--devices compute a teacher: give --teacher too.")
    return [*choose_devices(request.devices)]


def _check_room(maker: ShardMaker, request: BuildRequest) -> None:
    if request.space_check:  # parts check for all of them: they fill one disk
        check_room(maker.writer.storage, need_of_build(maker.writer.state, maker.layers, maker.commits))


def _tried_teacher(writer: StoreWriter, settings: CacheSettings, request: BuildRequest) -> _Tried | None:
    """Load the teacher that is asked for; one that has no layer in the store yet must answer for one image.

    A wrong checkpoint or adapter then costs seconds, not a scan. The caller reads the store's state first, if there is
    one.
    """
    if request.teacher is None:
        if request.reference is not None:
            raise UsageError("--reference compares a teacher: give --teacher too.")
        return None
    chosen = resolve_teacher(request.teacher, settings.teacher)
    run = load_pass(chosen, settings.image_size, request.device)
    channels = 1 if settings.preprocess.grey else 3
    if any(f"latents/{teacher.name}" not in writer.state.layers for teacher in run.teachers):
        try_teachers(run, channels, settings.image_size)
    if request.reference is None:
        return _Tried(run, chosen)
    path = Path(request.reference)
    for name, agreement in compare_reference(run, path, channels, settings.image_size).items():
        logger.info(f"teacher {name} agrees with {path}: {agreement}")
    return _Tried(run, chosen, path.read_bytes())


def _listing(settings: CacheSettings, request: BuildRequest, source: str | None) -> Listing | None:
    if request.listing is not None or source is None:
        return request.listing
    return list_source(source, settings)


def _open_sources(
    writer: StoreWriter,
    settings: CacheSettings,
    request: BuildRequest,
    done: Mapping[str, Mapping[int, Commit]],
    listing: Listing | None,
) -> OpenSources:
    """Open the sources, and scan for growth when all earlier pixels are built."""
    shards = writer.state.shard_count
    complete = shards > 0 and all(len(found) == shards for found in done.values())
    source = request.source or (None if complete else settings.source)
    listing = listing or _listing(settings, request, source)
    if listing is None:
        if complete:
            return OpenSources()
        raise UsageError(
            f"{writer.storage.url}: its pixels are not all built, so the sources are needed. Give --source FOLDER."
        )
    if complete or not writer.state.segments:
        _scan(writer, settings, request, listing)
    cutters = Cutters(writer.storage, writer.state.segments, listing, settings)
    name = None if source is None or request.listing is not None else absolute(source)
    return OpenSources(cutters, name, listing.root)


def _scan(writer: StoreWriter, settings: CacheSettings, request: BuildRequest, listing: Listing) -> None:
    storage = writer.storage
    journal = ScanJournal(storage.path(JOURNAL) if isinstance(storage, LocalStorage) else None)
    grow(writer, listing, settings, journal, "skip" if request.skip_errors(settings) else "stop")
    journal.close()
    storage.delete(JOURNAL)  # the segment's tables have all of it


def _latent_job(
    writer: StoreWriter, settings: CacheSettings, request: BuildRequest, tried: _Tried, done: Commits
) -> tuple[LatentJob, TeacherSettings]:
    """Make sure that the teacher's layers exist and are the same, and read which of their shards are done.

    Returns:
        The work, and the teacher's settings; with the batch size, where several processes share the work.
    """
    run, chosen = tried.run, tried.settings
    for warning in dict.fromkeys(teacher.warning for teacher in run.teachers if teacher.warning):
        logger.warning(f"{warning}")
    layers = pass_layers(run, settings.form, writer.state)
    if tried.reference is not None:
        writer.storage.publish(reference_name(chosen.name), tried.reference)
    for layer in layers:
        if is_calibrated(layer) or layer.name in writer.state.layers:  # another form is refused before any sample
            writer.add_layer(layer)
    done |= writer.committed(layers)
    kept = [commit.soft for teacher in run.teachers for commit in done[f"latents/{teacher.name}"].values()]
    if request.is_shared_out and chosen.batch_size is None:
        size = _shared_batch_size(run, kept_batch_size(kept))
        chosen = chosen.model_copy(update={"batch_size": size})
    return make_job(run, layers, chosen, writer.state.layers["pixels"], kept), chosen


def _shared_batch_size(run: Pass, kept: int | None) -> int:
    """Return one batch size for all processes that make shards: none of them may find one of its own."""
    if kept is None and run.device.type == "cuda":
        raise UsageError(
            "a build that is shared out needs one batch size for all: add --set cache.teacher.batch_size=N."
        )
    return kept or ON_CPU


def calibrated(maker: ShardMaker, job: LatentJob, most: int | None = None) -> ShardMaker:
    """Find what layers need in rows all over the store, before any of their shards is written: scales, axes.

    Args:
        maker: makes the rows.
        job: whose layers are not all calibrated yet.
        most: rows to take, fewer than a build takes; none: as many as that.

    Raises:
        SourceError: none of the rows can be read.
    """
    lacking = [layer for layer in job.layers if not is_calibrated(layer)]
    if not lacking:
        return maker
    writer, state = maker.writer, maker.writer.state
    every = np.concatenate([np.array(state.rows_of_shard(s)) for s in range(state.shard_count)])
    count = most or sample_size(axes=any("axes" in layer.identity for layer in lacking))
    rows = calibration_rows(every, count)
    made = {int(row): maker.one_row(int(row)) for row in rows}
    found = [row for row, one in made.items() if not one.holes]
    if not found:
        raise SourceError(
            f"{writer.storage.url}: none of {len(rows)} rows drawn to calibrate {lacking[0].name} can be read, first: "
            f"{made[int(rows[0])].holes[0][1]} Mend the sources, or store fp16: --set cache.precision=fp16."
        )
    pixels = np.concatenate([made[row].pixels for row in found])
    with maker.naming_frames():
        samples = compute_all(job.run, pixels, np.array(found), job.batch_size)
    layers: list[Layer] = []
    for teacher, sample in zip(job.teachers, samples, strict=True):
        mine = [layer for layer in job.layers if layer.teacher == teacher.name]
        if not all(is_calibrated(layer) for layer in mine):
            mine = [writer.add_layer(layer) for layer in with_calibration(mine, sample, np.array(found))]
            _tell(mine)
        layers += mine
    return replace(maker, job=replace(job, layers=tuple(layers)))


def _tell(layers: list[Layer]) -> None:
    """Say how near a layer that has a coding comes to its teacher, as far as a sample tells."""
    for layer in layers:
        if layer.coding is not None:
            logger.info(f"{layer.name}: {layer.coding}")
