"""Copy a store: claim the target, decide how, and say what was done."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.building.parts import WHOLE, refuse_rivals
from usjepa.cache.copying.rows import RowsCopy
from usjepa.cache.copying.selection import Selection
from usjepa.cache.copying.target import Order, begin, end
from usjepa.cache.copying.whole import Tally, WholeCopy
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.location import open_storage
from usjepa.cache.store.state import job_name, kept_generations, read_manifest, refuse_unfinished
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest

logger = logging.getLogger(__name__)

_GO_ON = "What is copied stays: run the same command again to go on."


def copy_store(
    source: str, target: str, selection: Selection | None = None, resume: bool = False, steal: bool = False
) -> Tally:
    """Copy a sealed store; whole, it is the same byte for byte.

    Args:
        source: folder or URL.
        target: folder or URL: empty, or an unfinished copy of the same, which is finished.
        selection: what to copy; none: everything.
        resume: finish or bring up to date a copy that another program or an earlier command made.
        steal: take over the claim of a copier known to be dead.

    Raises:
        NotSealedError: the source was never sealed.
        DamageError: something in the source is damaged; nothing damaged is copied.
        UsageError: something else lies at the target, or nothing is chosen.
    """
    there, here = open_storage(source), open_storage(target)
    _refuse_itself(there, here)
    store = open_store(source)
    refuse_unfinished(there)
    selection = (selection or Selection()).among(store)
    manifest = selection.thinned(store.manifest, there.url)
    order = Order(there, here, selection, manifest, tuple(_kept(there, selection, store.manifest)))
    numbers = selection.rows_of(store) if selection.numbers_anew else None
    begun = time.perf_counter()
    with (
        graceful_interrupts(_GO_ON),
        contextlib.closing(store),
        _no_empty_folder(here),
        hold_claim(here, WHOLE, steal, doing="copied") as claim,
    ):
        refuse_rivals(here, WHOLE, steal)
        trusted = begin(order, resume)
        here.sweep()
        with _withdrawals_seen(order, store.manifest):
            if numbers is None:
                tally = WholeCopy(order, trusted, claim.check).run()
            else:
                tally = RowsCopy(order, store, StoreWriter(here, claim.check, "copy"), numbers).run()
        end(order)
    seconds = time.perf_counter() - begun
    logger.info(
        f"copied: {tally.rows:,} rows, {tally.shards:,} shards ({tally.kept:,} were there already), "
        f"{tally.nbytes / 1e6:,.1f} MB in {seconds:.1f} s, every row checked"
    )
    return tally


def _refuse_itself(source: Storage, target: Storage) -> None:
    """Raise UsageError where one lies in the other."""
    if isinstance(source, LocalStorage) and isinstance(target, LocalStorage):
        one, other = source.root.resolve(), target.root.resolve()
        inside = one in (other, *other.parents) or other in one.parents
    else:
        one, other = (Path(getattr(storage, "place", storage.url)) for storage in (source, target))
        inside = one in (other, *other.parents) or other in one.parents
    if inside:
        raise UsageError(f"{target.url}: lies in {source.url}, or the other way round. Give another place.")


def _kept(storage: Storage, selection: Selection, newest: Manifest) -> Iterator[Manifest]:
    """Yield the earlier generations that the source keeps, ascending."""
    for number in kept_generations(storage):
        if not newest.withdrawn_since <= number < newest.generation:
            continue  # one from before a removal can't be read, and may name who withdrew
        try:
            manifest = read_manifest(storage, number)
            if manifest is not None:
                yield selection.thinned(manifest, storage.url)
        except DamageError as error:
            logger.warning(f"{error} It is left behind.")
        except UsageError:
            continue  # it had no such layer yet


@contextlib.contextmanager
def _withdrawals_seen(order: Order, before: Manifest) -> Iterator[None]:
    """Raise UsageError at the end of the block, whatever it came to, where rows withdrew from the source meanwhile."""
    damaged: DamageError | None = None
    try:
        yield
    except DamageError as error:
        damaged = error
    newest, source = read_manifest(order.source), order.source
    begun = source.size(job_name("remove")) is not None
    if begun or (newest is not None and newest.withdrawn_since > before.withdrawn_since):
        raise UsageError(
            f"{source.url}: changed while it was copied: rows were withdrawn. Remove {order.target.url}, which may "
            "hold them, and copy again."
        ) from damaged
    if damaged is not None:
        raise damaged


@contextlib.contextmanager
def _no_empty_folder(storage: Storage) -> Iterator[None]:
    """Remove the target's folder after a copy that was refused; `rmdir` leaves one that is not empty."""
    there = isinstance(storage, LocalStorage) and storage.root.exists()
    try:
        yield
    finally:
        if isinstance(storage, LocalStorage) and not there:
            with contextlib.suppress(OSError):
                storage.root.rmdir()
