"""`usjepa-cache build`: scan, cut views, ask the teacher, write shards, seal. Run it again and it goes on.

A shard is the unit of work: its pixels and regions are cut from the sources (or read back from the store), its latents
are computed from those pixels, and each layer's shard is published and committed. First everything that all shards
share is made ready (segments, layers, calibration), under one claim; then shards are made, here, as one part of
several, or on a cluster: always by the same code, so with the same bytes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.building.cluster import WorkOrder, check_address, make_shards_on
from usjepa.cache.building.disk_space import check_room, need_of_build
from usjepa.cache.building.origins import naming_frames
from usjepa.cache.building.parts import SETUP, WHOLE, Part, refuse_rivals
from usjepa.cache.building.pipeline import make_shards
from usjepa.cache.building.recheck import recheck_latents, recheck_pixels
from usjepa.cache.building.shard_maker import ShardMaker
from usjepa.cache.decoding.cutters import Cutters
from usjepa.cache.errors import NotSealedError, SourceError, UsageError
from usjepa.cache.frames.layers import pixel_layers, pixel_soft
from usjepa.cache.interrupt import StopFlag, graceful_interrupts
from usjepa.cache.scanning.growth import grow
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.storage.claims import Claim, hold_claim
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.commits import Commit, committed
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.teacher.batch_size import ON_CPU, Choice, choose_batch_size, kept_batch_size
from usjepa.cache.teacher.computing import compute_latents
from usjepa.cache.teacher.layers import calibration_rows, teacher_layers, with_calibration
from usjepa.cache.teacher.resolve import load_teacher, resolve_teacher

if TYPE_CHECKING:
    from usjepa.cache.identity import Json
    from usjepa.cache.recipes.cache import TeacherSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.teacher.teacher import Teacher

logger = logging.getLogger(__name__)

_GO_ON = "Everything finished so far is kept: run the same command again to go on."
_JOURNAL = "scan/journal.jsonl"


@dataclass(frozen=True)
class Request:
    """What a build is asked for, beside its recipe."""

    source: str | None = None
    """Folder, file, manifest CSV or `phantom`; none: the recipe's own, and once all pixels are built none is needed."""
    teacher: str | None = None
    """Checkpoint file, run folder, timm name or `random`; none: pixels and regions only."""
    on_error: str | None = None
    """"stop" or "skip", in place of the recipe's."""
    steal: bool = False
    """Take over the claim of a builder known to be dead."""
    device: str | None = None
    """Torch device of the teacher."""
    part: str | None = None
    """`i/n`: make only every n-th shard; other processes make the others."""
    dask: str | None = None
    """Address of a Dask scheduler, or `local:N`: make the shards there."""
    listing: Listing | None = None
    """Sources that the caller has listed, in place of the name of a source."""
    space_check: bool = True
    """Refuse before the first shard when space or inodes don't suffice."""


def build(
    store: str,
    recipe: Recipe,
    source: str | None = None,
    teacher: str | None = None,
    on_error: str | None = None,
    steal: bool = False,
    device: str | None = None,
    part: str | None = None,
    dask: str | None = None,
    space_check: bool = True,
) -> Manifest | None:
    """Build or go on building a store.

    Args:
        store: folder or URL.
        recipe: its `cache` section says what to build.
        source, teacher, on_error, steal, device, part, dask, space_check: see `Request`.

    Returns:
        The sealed manifest; None when other parts still have shards to make.

    Raises:
        UsjepaError: any error of the tree; what was committed stays.
    """
    request = Request(source, teacher, on_error, steal, device, part, dask, space_check=space_check)
    return run_build(store, recipe, request)


def run_build(store: str, recipe: Recipe, request: Request) -> Manifest | None:
    """Do what `build` describes."""
    part = Part.parse(request.part) if request.part else None
    if part is not None and request.dask is not None:
        raise UsageError("--part and --dask are two ways to share a build out: give one of them.")
    if request.dask is not None:
        check_address(request.dask)
    storage = open_storage(store)
    name = part.claim if part else WHOLE
    with graceful_interrupts(_GO_ON) as stop, hold_claim(storage, name, request.steal) as claim:
        refuse_rivals(storage, name, request.steal)
        run = _Build(storage, recipe, request, stop, claim)
        with contextlib.closing(run):
            if part is None:
                storage.sweep()
                run.prepare()
            else:
                with hold_claim(storage, SETUP, request.steal, patient=True):
                    run.prepare()
            run.fill(part)
        if request.dask is not None:
            storage.sweep()  # what workers that died had in hand
        return run.seal(part)


def seal(store: str, steal: bool = False) -> Manifest:
    """Seal a store whose parts have all ended; raises NotSealedError when shards are missing."""
    storage = open_storage(store)
    with hold_claim(storage, WHOLE, steal) as claim:
        refuse_rivals(storage, WHOLE, steal)
        storage.sweep()
        writer = StoreWriter(storage, claim.check)
        writer.attach()
        return _sealed(writer)


def _sealed(writer: StoreWriter) -> Manifest:
    manifest = writer.seal()
    rows, layers = len(manifest.row_numbers()), ", ".join(manifest.layers)
    logger.info(f"sealed: generation {manifest.generation}, {rows:,} rows, {layers}")
    return manifest


def _absolute(path: str) -> str:
    """Return a path as other processes must name it."""
    return path if path == PHANTOM else str(Path(path).resolve())


class _Build:
    """One call of `build`: what is wanted, what is there, and the work between."""

    def __init__(self, storage: Storage, recipe: Recipe, request: Request, stop: StopFlag, claim: Claim) -> None:
        self.settings, self.request, self.stop, self.claim = recipe.cache, request, stop, claim
        self.writer = StoreWriter(storage, claim.check)
        self.skip_errors = (request.on_error or recipe.cache.on_error) == "skip"
        self.done: dict[str, dict[int, Commit]] = {}
        self.model: Teacher | None = None
        self.teacher_settings: TeacherSettings | None = None
        self.latents: list[Layer] = []
        self.source: str | None = None
        self.root: Path | None = None
        self.cutters: Cutters | None = None
        self.batch_size: Choice | None = None

    def close(self) -> None:
        """End the processes that decode."""
        if self.cutters is not None:
            self.cutters.close()

    def check(self) -> None:
        """Raise Interrupted at a safe point when a stop was asked for."""
        self.stop.check(_GO_ON)

    def prepare(self) -> None:
        """Make sure of everything that all shards share: segments, layers, calibration."""
        self.writer.open(self.settings.rows_per_shard)
        self._pixels()
        if self.request.teacher is not None:
            self._teacher(self.request.teacher)
        for layer in self._layers():
            self.done[layer.name] = committed(self.writer.storage, layer)
        if self.request.part is not None or self.request.dask is not None:
            self._share_batch_size()
        if self.request.space_check:  # parts check for all of them: they fill one disk
            check_room(self.writer.storage, need_of_build(self.writer.state, self._layers(), self.done))
        if any(layer.dtype == "int8" and not layer.channel_scale for layer in self.latents):
            self._calibrate()

    def _layers(self) -> list[Layer]:
        return [self.writer.state.layers[name] for name in ("pixels", "regions")] + self.latents

    def _pixels(self) -> None:
        """Make sure there are segments and pixel layers; scan for growth when all earlier pixels are built."""
        wanted = pixel_layers(self.settings, self.writer.state.rows_per_shard)
        for layer in wanted:
            if layer.name in self.writer.state.layers:
                self.writer.add_layer(layer)  # refuses another recipe before anything is scanned
        shards = self.writer.state.shard_count
        complete = shards > 0 and all(len(committed(self.writer.storage, layer)) == shards for layer in wanted)
        source = self.request.source or (None if complete else self.settings.source)
        if self.request.listing is not None:
            self._open_listing(self.request.listing, complete)
        elif source is not None:
            self._open_listing(list_source(source, self.settings), complete)
            self.source = _absolute(source)
        elif not complete:
            raise UsageError(
                f"{self.writer.storage.url}: its pixels are not all built, so the sources "
                "are needed. Give --source FOLDER."
            )
        for layer in wanted:
            self.writer.add_layer(layer)

    def _open_listing(self, listing: Listing, may_grow: bool) -> None:
        if may_grow or not self.writer.state.segments:
            journal = ScanJournal(self._journal_path())
            grow(self.writer, listing, self.settings, journal, "skip" if self.skip_errors else "stop", self.check)
            journal.close()
            self.writer.storage.delete(_JOURNAL)  # the segment's tables hold all it knew
        self.root = listing.root
        self.cutters = Cutters(self.writer.storage, self.writer.state.segments, listing, self.settings)

    def _journal_path(self) -> Path | None:
        storage = self.writer.storage
        return storage.path(_JOURNAL) if isinstance(storage, LocalStorage) else None

    def _teacher(self, text: str) -> None:
        """Load the teacher and make sure its layers exist and are the same."""
        self.teacher_settings = resolve_teacher(text, self.settings.teacher)
        self.model = load_teacher(self.teacher_settings, self.settings.image_size, self.request.device)
        if self.model.warning:
            logger.warning(f"{self.model.warning}")
        self.latents = teacher_layers(self.model, self.settings.precision, self.writer.state)
        for layer in self.latents:
            if layer.dtype != "int8" or layer.channel_scale:
                self.writer.add_layer(layer)

    def _calibrate(self) -> None:
        """Fix the int8 layer's per-channel scale from rows all over the store, before any of its shards is written."""
        assert self.model is not None
        maker, state = self._maker(), self.writer.state
        rows = calibration_rows(np.concatenate([np.array(state.rows_of_shard(s)) for s in range(state.shard_count)]))
        made = {int(row): maker.one_row(int(row)) for row in rows}
        found = [row for row, one in made.items() if not one.holes]
        if not found:
            raise SourceError(
                f"{self.writer.storage.url}: none of {len(rows)} rows drawn to calibrate int8 can be read, first: "
                f"{made[int(rows[0])].holes[0][1]} Mend the sources, or store fp16: --set cache.precision=fp16."
            )
        pixels = np.concatenate([made[row].pixels for row in found])
        with naming_frames(self.writer):
            sample = compute_latents(self.model, pixels, np.array(found), maker.batch_size)
        self.latents = [self.writer.add_layer(layer) for layer in with_calibration(self.latents, sample)]

    def _maker(self) -> ShardMaker:
        maker = ShardMaker(self.writer, self.cutters, self.done, self.skip_errors, self.check)
        if self.model is not None and self.teacher_settings is not None:
            maker.model, maker.latents = self.model, self.latents
            maker.soft = self.model.soft
            maker.batch_size, found = self._batch_size(self.model, self.teacher_settings)
            maker.soft |= found
        return maker

    def _batch_size(self, model: Teacher, settings: TeacherSettings) -> Choice:
        if self.batch_size is None:
            pixels = self.writer.state.layers["pixels"]
            self.batch_size = choose_batch_size(model, settings, pixels.shape[0], pixels.shape[1], self._softs(model))
        return self.batch_size

    def _softs(self, model: Teacher) -> list[dict[str, Json]]:
        return [commit.soft for commit in self.done[f"latents/{model.name}"].values()]

    def _share_batch_size(self) -> None:
        """Name the batch size for all who make shards of a build that is shared out: nobody may find one of its own."""
        if self.model is None or self.teacher_settings is None or self.teacher_settings.batch_size is not None:
            return
        kept = kept_batch_size(self._softs(self.model))
        if kept is None and self.model.device.type == "cuda":
            raise UsageError(
                "a build that is shared out needs one batch size for all: add --set cache.teacher.batch_size=N."
            )
        self.teacher_settings = self.teacher_settings.model_copy(update={"batch_size": kept or ON_CPU})

    def fill(self, part: Part | None) -> None:
        """Make every shard, or every one of a part, that some wanted layer lacks."""
        maker = self._maker()
        shards = range(self.writer.state.shard_count)
        todo = [shard for shard in (part.of(shards) if part else shards) if not maker.is_done(shard)]
        if not todo:
            logger.info(f"nothing to do: every shard of every wanted layer{f' of {part}' if part else ''} is built")
            return
        self._recheck(maker)
        if self.request.dask is not None:
            self._fill_on_cluster(self.request.dask, todo)
        else:
            start = time.perf_counter()
            make_shards(maker, todo)
            logger.info(maker.stages.report(time.perf_counter() - start))

    def _fill_on_cluster(self, address: str, todo: list[int]) -> None:
        url, state = self.writer.storage.url, self.writer.state
        store = url if "://" in url else _absolute(url)
        order = WorkOrder(
            store,
            self.settings,
            self.source,
            self.root,
            self.teacher_settings,
            self.request.device,
            self.skip_errors,
            self.claim.token,
        )
        make_shards_on(address, order, todo, lambda shard: len(state.rows_of_shard(shard)), self.check)

    def _recheck(self, maker: ShardMaker) -> None:
        """Go on after an update of libraries or another device only if it gives the stored numbers again."""
        pixel_commits = self.done["pixels"]
        if any(c.soft != pixel_soft() for c in pixel_commits.values()) and self.cutters is not None:
            recheck_pixels(self.writer, pixel_commits, self.cutters)
        if self.model is not None:
            commits = self.done[f"latents/{self.model.name}"]
            if any(c.soft != maker.soft for c in commits.values()):
                logger.info(recheck_latents(self.writer, commits, pixel_commits, self.model))

    def seal(self, part: Part | None) -> Manifest | None:
        """Seal; a part whose fellows still have shards to make only says so."""
        try:
            return _sealed(self.writer)
        except NotSealedError as error:
            if part is None:
                raise
            logger.info(f"{part} is done. Not sealed yet: {error}")
            logger.info("The part that ends last seals the store; `usjepa-cache seal` does so too.")
            return None
