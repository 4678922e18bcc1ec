"""`usjepa-cache build`: scan, cut views, ask the teacher, write shards, seal. Run it again and it goes on.

A shard is the unit of work: its pixels and regions are cut from the sources (or read back from the store), its latents
are computed from those pixels, and each layer's shard is published and committed. Decoding runs one shard ahead and
writing one shard behind the teacher, so at most three shards are in memory.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.claims import held
from usjepa.cache.commits import Commit, committed
from usjepa.cache.errors import UsageError
from usjepa.cache.growth import grow
from usjepa.cache.interrupt import StopFlag, graceful_interrupts
from usjepa.cache.latents import ask_teacher, calibration_rows, latent_layers, with_calibration
from usjepa.cache.pipeline import make_shards
from usjepa.cache.pixels import PixelMaker, pixel_layers, pixel_soft
from usjepa.cache.recheck import recheck_latents, recheck_pixels
from usjepa.cache.scan import ScanJournal
from usjepa.cache.shard_maker import ShardMaker
from usjepa.cache.sources.listing import list_source
from usjepa.cache.sources.read import SourceReader
from usjepa.cache.storage import LocalStorage, open_storage
from usjepa.cache.store import read_tables
from usjepa.cache.teacher import Teacher, load_teacher, resolve_teacher, soft_identity
from usjepa.cache.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.layers import Layer
    from usjepa.cache.manifest import Manifest, Segment
    from usjepa.cache.settings import Recipe

_GO_ON = "Everything finished so far is kept: run the same command again to go on."
_JOURNAL = "scan/journal.jsonl"


def say(text: str) -> None:
    """Print a line for the person or the log that watches a build."""
    print(text, file=sys.stderr, flush=True)


def build(
    store: str,
    recipe: Recipe,
    source: str | None = None,
    teacher: str | None = None,
    on_error: str | None = None,
    steal: bool = False,
    device: str | None = None,
) -> Manifest:
    """Build or go on building a store; return its sealed manifest.

    Args:
        store: folder or URL.
        recipe: its `cache` section says what to build.
        source: folder, file, manifest CSV or `phantom`; none: the recipe's own, and once all pixels are
            built none is needed.
        teacher: checkpoint file, run folder, timm name or `random`; none: pixels and regions only.
        on_error: "stop" or "skip", in place of the recipe's.
        steal: take over the claim of a builder known to be dead.
        device: torch device of the teacher.

    Raises:
        UsjepaError: any error of the tree; what was committed stays.
    """
    storage = open_storage(store)
    with graceful_interrupts() as stop:
        StoreWriter(storage).open(recipe.cache.rows_per_shard)
        with held(storage, "build", steal, say) as claim:
            storage.sweep()
            writer = StoreWriter(storage, claim.check)
            writer.open(recipe.cache.rows_per_shard)
            run = _Build(writer, recipe, on_error or recipe.cache.on_error, stop)
            run.pixels(source)
            if teacher is not None:
                run.teacher(teacher, device)
            run.fill()
            manifest = writer.seal()
    say(f"sealed: generation {manifest.generation}, {len(manifest.row_numbers()):,} rows, {', '.join(manifest.layers)}")
    return manifest


class _Build:
    """One call of `build`: what is wanted, what is there, and the work between."""

    def __init__(self, writer: StoreWriter, recipe: Recipe, on_error: str, stop: StopFlag) -> None:
        self.writer = writer
        self.settings = recipe.cache
        self.skip_errors = on_error == "skip"
        self.stop = stop
        self.rows_per_shard = writer.state.rows_per_shard
        self.done: dict[str, dict[int, Commit]] = {}
        self.model: Teacher | None = None
        self.latents: list[Layer] = []
        self.makers: dict[int, PixelMaker] = {}

    def check(self) -> None:
        """Raise Interrupted at a safe point when a stop was asked for."""
        self.stop.check(_GO_ON)

    def pixels(self, source: str | None) -> None:
        """Make sure there are segments and pixel layers; scan for growth when all earlier pixels are built."""
        pixels, regions = pixel_layers(self.settings, self.rows_per_shard)
        for layer in (pixels, regions):
            if layer.name in self.writer.state.layers:
                self.writer.add_layer(layer)  # refuses another recipe before anything is scanned
            self.done[layer.name] = committed(self.writer.storage, layer)
        source = source or (None if self._complete(pixels, regions) else self.settings.source)
        if source is None and not self._complete(pixels, regions):
            raise UsageError(
                f"{self.writer.storage.url}: its pixels are not all built, so the sources "
                "are needed. Give --source FOLDER."
            )
        if source is not None:
            self._open_source(source, self._complete(pixels, regions))
        for layer in (pixels, regions):
            self.writer.add_layer(layer)

    def _complete(self, *layers: Layer) -> bool:
        shards = self.writer.state.shard_count
        return shards > 0 and all(len(self.done[layer.name]) == shards for layer in layers)

    def _open_source(self, source: str, may_grow: bool) -> None:
        listing = list_source(source, self.settings)
        if may_grow or not self.writer.state.segments:
            journal = ScanJournal(self._journal_path())
            grow(self.writer, listing, self.settings, journal, "skip" if self.skip_errors else "stop", self.check, say)
            journal.close()
            self.writer.storage.delete(_JOURNAL)  # the segment's tables hold all it knew
        reader = SourceReader(listing.root, self.settings)
        for segment in self.writer.state.segments:
            self.makers[segment.number] = self._maker(segment, reader)

    def _journal_path(self) -> Path | None:
        storage = self.writer.storage
        return storage.path(_JOURNAL) if isinstance(storage, LocalStorage) else None

    def _maker(self, segment: Segment, reader: SourceReader) -> PixelMaker:
        sources, rows = read_tables(self.writer.storage, segment)
        return PixelMaker(sources, rows, segment.first_row, reader, self.settings)

    def teacher(self, text: str, device: str | None) -> None:
        """Load the teacher and make sure its layers exist and are the same."""
        settings = resolve_teacher(text, self.settings.teacher)
        self.model = load_teacher(settings, self.settings.image_size, device)
        if self.model.warning:
            say(f"warning: {self.model.warning}")
        pixels = self.writer.state.layers["pixels"]
        self.latents = latent_layers(self.model, self.settings.precision, pixels, self.rows_per_shard)
        stored = self.writer.state.layers.get(f"latents/{self.model.name}")
        if stored is not None and stored.channel_scale:
            self.latents = [
                replace(layer, channel_scale=stored.channel_scale) if layer.dtype == "int8" else layer
                for layer in self.latents
            ]
        for layer in self.latents:
            if layer.dtype != "int8" or layer.channel_scale:
                self.writer.add_layer(layer)
        self.batch_size = settings.batch_size
        self.soft = soft_identity(self.model)

    def fill(self) -> None:
        """Build every shard that some wanted layer lacks."""
        maker = self._maker_of_shards()
        todo = [shard for shard in range(self.writer.state.shard_count) if not maker.is_done(shard)]
        if not todo:
            say("nothing to do: every shard of every wanted layer is built")
            return
        self._recheck()
        if any(layer.dtype == "int8" and not layer.channel_scale for layer in self.latents):
            self._calibrate(maker)
        make_shards(maker, todo, say)

    def _maker_of_shards(self) -> ShardMaker:
        maker = ShardMaker(self.writer, self.makers, self.done, self.skip_errors, self.check)
        if self.model is not None:
            maker.model, maker.latents = self.model, self.latents
            maker.batch_size, maker.soft = self.batch_size, self.soft
        for layer in maker.layers:
            self.done[layer.name] = committed(self.writer.storage, layer)
        return maker

    def _recheck(self) -> None:
        """Go on after an update of libraries or another device only if it gives the stored numbers again."""
        pixel_commits = self.done["pixels"]
        if any(c.soft != pixel_soft() for c in pixel_commits.values()) and self.makers:
            recheck_pixels(self.writer, pixel_commits, self.makers, say)
        if self.model is not None:
            commits = self.done[f"latents/{self.model.name}"]
            if any(c.soft != self.soft for c in commits.values()):
                recheck_latents(self.writer, commits, pixel_commits, self.model, say)

    def _calibrate(self, maker: ShardMaker) -> None:
        """Fix the int8 layer's per-channel scale from rows all over the store, before any of its shards is written."""
        assert self.model is not None
        shards = range(self.writer.state.shard_count)
        rows = calibration_rows(np.concatenate([np.array(self.writer.state.rows_of_shard(s)) for s in shards]))
        made = {int(row): maker.one_row(int(row)) for row in rows}
        found = [row for row, one in made.items() if not one.holes]
        pixels = np.concatenate([made[row].pixels for row in found])
        sample = ask_teacher(self.model, pixels, np.array(found), self.batch_size, self.check)
        self.latents = [self.writer.add_layer(layer) for layer in with_calibration(self.latents, sample)]
        maker.latents = self.latents
