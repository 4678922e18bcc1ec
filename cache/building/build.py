"""Build a store, or go on where an earlier build stopped.

A shard is the unit of work: its pixels and regions are cut from the sources (or read back from the store), its latents
are computed from those pixels, and each layer's shard is published and committed. First everything that all shards
share is made ready (`prepare.py`), under one claim; then shards are made, here, as one part of several, or on a
cluster: always by the same code, so with the same bytes. What imports torch, for seconds, is imported once the workers
of a cluster have been started, which import it too.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING

from usjepa.cache.building.cluster.connecting import check_address, connecting
from usjepa.cache.building.cluster.order import WorkOrder
from usjepa.cache.building.parts import SETUP, WHOLE, Part, refuse_rivals
from usjepa.cache.building.request import BuildRequest, absolute
from usjepa.cache.decoding.spare import spare_child
from usjepa.cache.errors import NotSealedError, UsageError
from usjepa.cache.frames.blank import blank_lines
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.scanning.journal import JOURNAL
from usjepa.cache.storage.claims import Claim, hold_claim
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.location import open_storage
from usjepa.cache.storage.urls import is_url
from usjepa.cache.store.state import exists, root_settings
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distributed import Client

    from usjepa.cache.building.prepare import Prepared
    from usjepa.cache.building.shard_maker import ShardMaker
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.recipes.recipe import Recipe
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest

logger = logging.getLogger(__name__)

_GO_ON = "Everything finished so far is kept: run the same command again to go on."


def build(store: str, recipe: Recipe, request: BuildRequest | None = None) -> Manifest | None:
    """Build or go on building a store.

    Args:
        store: folder or URL.
        recipe: its `cache` section says what to build.
        request: sources, teacher and how the work is shared out; none: pixels of the recipe's own source.

    Returns:
        The sealed manifest; None when other parts still have shards to make.

    Raises:
        UsjepaError: any error of the tree; what was committed stays.
    """
    request = request or BuildRequest()
    part = Part.parse(request.part) if request.part is not None else None
    _refuse_two_ways(request)
    storage = open_storage(store)
    name = part.claim if part else WHOLE
    with (
        graceful_interrupts(_GO_ON),
        spare_child(),
        _no_empty_folder(storage),
        hold_claim(storage, name, request.steal) as claim,
        _cluster(request) as wait_for_cluster,
    ):
        from usjepa.cache.building.prepare import prepare

        cluster = wait_for_cluster()
        refuse_rivals(storage, name, request.steal)
        writer = StoreWriter(storage, claim.check)
        exists(storage)  # refuses a folder of other things before anything in it is touched
        if part is None:
            storage.sweep()
            prepared = prepare(writer, recipe.cache, request)
        else:
            with hold_claim(storage, SETUP, request.steal, patient=True):
                prepared = prepare(writer, recipe.cache, request)
        with contextlib.closing(prepared.sources):
            _fill(prepared, recipe.cache, request, part, claim, cluster)
        if request.dask is not None:
            storage.sweep()  # what workers that died had in hand
        return _seal_or_wait(writer, part)


def _refuse_two_ways(request: BuildRequest) -> None:
    """Raise UsageError where a request says twice how the work is shared out, or names no cluster."""
    if request.part is not None and request.dask is not None:
        raise UsageError("--part and --dask are two ways to share a build out: give one of them.")
    if request.devices is not None and request.device is not None:
        raise UsageError("--device and --devices both say where the teacher computes: give one of them.")
    if request.devices is not None and request.dask is not None:
        raise UsageError("--devices are those of one process, and --dask starts one for each: worker i takes GPU i.")
    if request.dask is not None:
        check_address(request.dask)


@contextlib.contextmanager
def _no_empty_folder(storage: Storage) -> Iterator[None]:
    """Remove the store's folder after a build that wrote nothing into it; `rmdir` leaves one that is not empty."""
    there = isinstance(storage, LocalStorage) and storage.root.exists()
    try:
        yield
    finally:
        if isinstance(storage, LocalStorage) and not there:
            with contextlib.suppress(OSError):
                storage.root.rmdir()


def seal(store: str, steal: bool = False) -> Manifest:
    """Seal a store whose parts have all ended; raises NotSealedError when shards are missing."""
    storage = open_storage(store)
    root_settings(storage)  # a folder of other things is left as it is
    with hold_claim(storage, WHOLE, steal) as claim:
        refuse_rivals(storage, WHOLE, steal)
        storage.sweep()
        writer = StoreWriter(storage, claim.check)
        writer.attach()
        return _sealed(writer)


@contextlib.contextmanager
def _cluster(request: BuildRequest) -> Iterator[Callable[[], Client | None]]:
    """Give what waits for the cluster that a request names, whose workers get ready meanwhile; or for none."""
    if request.dask is None:
        yield lambda: None
        return
    with connecting(request.dask) as wait_for_client:
        yield wait_for_client


def _fill(
    prepared: Prepared,
    settings: CacheSettings,
    request: BuildRequest,
    part: Part | None,
    claim: Claim,
    cluster: Client | None,
) -> None:
    """Make every shard, or every one of a part, that some wanted layer lacks."""
    from usjepa.cache.building.cluster.client import make_shards_on
    from usjepa.cache.building.pipeline import make_shards
    from usjepa.cache.building.recheck import recheck, refuse_other_readers

    maker = prepared.maker
    shards = range(maker.writer.state.shard_count)
    todo = [shard for shard in (part.of(shards) if part else shards) if not maker.is_done(shard)]
    if not todo:
        logger.info(f"nothing to do: every shard of every wanted layer{f' of {part}' if part else ''} is built")
        return
    if maker.cutters is not None:
        refuse_other_readers(maker.writer, maker.commits["pixels"])
    recheck(maker)
    if cluster is not None:
        state = maker.writer.state
        order = _work_order(prepared, settings, request, claim)
        make_shards_on(cluster, order, todo, lambda shard: len(state.rows_of_shard(shard)))
    else:
        start = time.perf_counter()
        make_shards(maker, todo, elsewhere=prepared.elsewhere)
        logger.info(maker.stages.report(time.perf_counter() - start))
    _tell_doubts(maker, [shard for shard in todo if not maker.has_pixels(shard)])


def _tell_doubts(maker: ShardMaker, cut: Sequence[int]) -> None:
    """Count and name the rows of the shards that were cut which show no echo, or may show more than the scan."""
    writer = maker.writer
    found = writer.committed([writer.state.layers["pixels"]])["pixels"] if cut else {}
    commits = [found[shard] for shard in cut if shard in found]
    count = sum(len(writer.state.rows_of_shard(shard)) for shard in cut)
    blank = [row for commit in commits for row in commit.blank]
    doubtful = [row for commit in commits for row in commit.doubtful]
    seen = "may show more of the screen than the scan (cache.preprocess.text and .whole; see `usjepa-cache inspect`)"
    for rows, what in ((blank, "show no echo (cache.on_blank: keep, skip or stop)"), (doubtful, seen)):
        if rows:
            logger.warning("\n".join([f"{len(rows):,} of {count:,} rows {what}:", *blank_lines(rows)]))


def _work_order(prepared: Prepared, settings: CacheSettings, request: BuildRequest, claim: Claim) -> WorkOrder:
    url = prepared.maker.writer.storage.url
    return WorkOrder(
        url if is_url(url) else absolute(url),
        settings,
        prepared.sources.name,
        prepared.sources.root,
        prepared.teacher,
        request.device,
        request.skip_errors(settings),
        claim.token,
    )


def _seal_or_wait(writer: StoreWriter, part: Part | None) -> Manifest | None:
    """Seal; a part whose fellows still have shards to make reports only that."""
    try:
        return _sealed(writer)
    except NotSealedError as error:
        if part is None:
            raise
        logger.info(f"{part} is done. Not sealed yet: {error}")
        logger.info("The part that ends last seals the store; `usjepa-cache seal` does so too.")
        return None


def _sealed(writer: StoreWriter) -> Manifest:
    if isinstance(writer.storage, LocalStorage):
        writer.storage.delete(JOURNAL)  # of a scan that was killed when its segment was whole, or that never went on
    manifest = writer.seal()
    rows, layers = len(manifest.rows()), ", ".join(manifest.layers)
    logger.info(f"sealed: generation {manifest.generation}, {rows:,} rows, {layers}")
    return manifest
