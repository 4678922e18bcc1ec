"""Delete what no kept generation names, after saying what and how much.

Kept are the newest generations, as many as asked for, and those that unfinished runs need. Nothing that they name is
touched, so a store verifies whenever this is killed; the manifests of the others go last, as they say what was theirs.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from usjepa.cache.building.parts import WHOLE, refuse_rivals
from usjepa.cache.errors import NotSealedError, UsageError
from usjepa.cache.interrupt import graceful_interrupts, safe_point
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.storage.pins import pins
from usjepa.cache.store.layers import array_json
from usjepa.cache.store.state import kept_generations, read_manifest, refuse_unfinished, root_settings
from usjepa.cache.terminal.progress import ProgressBar
from usjepa.cache.thinning.garbage import Garbage, Heap, dropped_numbers, find_garbage
from usjepa.cache.thinning.runs import Run, pinned, runs_under

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.storage.pins import Pin
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest

logger = logging.getLogger(__name__)

_GO_ON = "The store is whole: run the same command again to go on."
_THREADS = 64
"""Files that are deleted at once: object storages take their time."""


@dataclass
class Collection:
    """What is kept and what goes."""

    kept: list[Manifest]
    """Newest first."""
    dropped: list[int]
    needed: list[Run]
    """Unfinished runs that pin a generation."""
    garbage: Garbage
    stale: list[Pin] = field(default_factory=list)

    def lines(self, delete_begun: bool) -> list[str]:
        """Return what to say before anything is deleted."""
        numbers = ", ".join(str(manifest.generation) for manifest in self.kept)
        lines = [f"keeps generations: {numbers}"]
        lines += [f"  needed by the run {run}" for run in self.needed]
        lines += [f"deletes {heap}" for heap in self.heaps(delete_begun)]
        lines += [f"leaves {heap} (--unfinished deletes it)" for heap in ([] if delete_begun else self.garbage.begun)]
        lines += [f"leaves {name}: none of a store's" for name in self.garbage.strangers]
        return lines

    def heaps(self, delete_begun: bool) -> list[Heap]:
        """Return what is deleted, in order."""
        stale = Heap("notes of runs that have ended", dict.fromkeys((pin.file for pin in self.stale), 0))
        return [*(self.garbage.begun if delete_begun else []), *([stale] if self.stale else []), *self.garbage.heaps]


def collect(
    store: str,
    keep: int = 1,
    dry_run: bool = False,
    runs: Sequence[str] = (),
    forget: Sequence[str] = (),
    unfinished: bool = False,
    steal: bool = False,
) -> Collection:
    """Delete what no kept generation names.

    Args:
        store: folder or URL of a sealed store.
        keep: how many of the newest generations stay.
        dry_run: say what would go, and delete nothing.
        runs: folders in which runs lie, for those that could not pin their generation in the store.
        forget: folders of runs that will never go on; their pins are removed.
        unfinished: delete layers and segments too that were begun and never sealed.
        steal: take over the claim of a builder known to be dead.

    Raises:
        NotSealedError: there is no generation, or a copy or removal has not ended.
        DamageError: a manifest, a pin or a run is damaged, so that nobody knows what is needed.
        UsageError: there is no pin of a run to forget.
    """
    storage = open_storage(store)
    root_settings(storage)
    if dry_run:
        found = _found(storage, keep, runs, forget)
        _say(found, unfinished, "would be deleted")
        return found
    with graceful_interrupts(_GO_ON), hold_claim(storage, WHOLE, steal, doing="collected") as claim:
        refuse_rivals(storage, WHOLE, steal)
        found = _found(storage, keep, runs, forget)
        _say(found, unfinished, "to delete")
        swept = storage.sweep()
        for heap in found.heaps(unfinished):
            _delete(storage, heap)
        if unfinished and found.garbage.begun:
            newest = found.kept[0]
            for layer in newest.layers.values():  # whose shapes may have run ahead of what is left
                storage.publish(f"{layer.name}/zarr.json", array_json(layer, newest.extent), claim.check)
        if swept:
            logger.info(f"{swept:,} temporary files of killed writers removed")
    return found


def _say(found: Collection, delete_begun: bool, how: str) -> None:
    heaps = found.heaps(delete_begun)
    files, nbytes = sum(len(heap.files) for heap in heaps), sum(heap.nbytes for heap in heaps)
    logger.info("\n".join([*found.lines(delete_begun), f"{files:,} files, {nbytes / 1e6:,.1f} MB {how}"]))


def _found(storage: Storage, keep: int, runs: Sequence[str], forget: Sequence[str]) -> Collection:
    refuse_unfinished(storage)
    newest = read_manifest(storage)
    if newest is None:
        raise NotSealedError(f"{storage.url}: not sealed, so nothing in it is known to be needed. Finish its build.")
    generations = _readable(storage, newest)
    digests = {manifest.digest: number for number, manifest in sorted(generations.items())}
    needed, stale = pinned(storage, runs_under(runs, digests))
    stale += _forgotten(storage, forget)
    gone = {pin.run for pin in stale}
    needed = [run for run in needed if run.folder not in gone]
    readable = [number for number in sorted(generations) if number >= newest.withdrawn_since]
    for run in needed:
        if run.generation not in readable:
            logger.warning(f"the run {run} can't go on: its generation is gone, or rows of it were withdrawn")
    needed = [run for run in needed if run.generation in readable]
    stay = sorted({*readable[-keep:], *(run.generation for run in needed), newest.generation})
    kept = [generations[number] for number in reversed(stay) if number in generations]
    dropped = dropped_numbers(storage, stay)
    others = [generations[number] for number in dropped if number in generations]
    return Collection(kept, dropped, needed, find_garbage(storage, kept, others), stale)


def _readable(storage: Storage, newest: Manifest) -> dict[int, Manifest]:
    """Return the generations by number; a damaged one raises DamageError, as nobody knows what it names."""
    found = {newest.generation: newest}
    for number in kept_generations(storage):
        manifest = newest if number == newest.generation else read_manifest(storage, number)
        if manifest is not None:
            found[number] = manifest
    return found


def _forgotten(storage: Storage, folders: Sequence[str]) -> list[Pin]:
    found = []
    known = list(pins(storage))
    for folder in folders:
        mine = [pin for pin in known if pin.run.rstrip("/") == folder.rstrip("/")]
        if not mine:
            named = ", ".join(pin.run for pin in known) or "none"
            raise UsageError(f"--forget {folder}: no run of that folder is noted in {storage.url}; noted: {named}.")
        found += mine
    return found


def _delete(storage: Storage, heap: Heap) -> None:
    """Delete a heap's files; the first of them alone, as it says what the others are."""
    first, *others = heap.files

    def delete(name: str) -> None:
        safe_point()
        storage.delete(name)

    pool = ThreadPoolExecutor(_THREADS, "usjepa-gc")
    try:
        with ProgressBar(len(heap.files), "gc", unit="files") as progress:
            delete(first)
            progress.update(1)
            for _ in pool.map(delete, others):
                progress.update(1)
    finally:
        pool.shutdown(cancel_futures=True)
