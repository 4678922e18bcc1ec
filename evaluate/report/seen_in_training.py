"""Find test frames that took part in training, or in choosing the encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import StoreError
from usjepa.evaluate.tasks.splits import TEST

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.several.face import Readable
    from usjepa.evaluate.encoders.finished_run import FinishedRun
    from usjepa.evaluate.tasks.task import Task


def seen_in_training(run: FinishedRun, task: Task) -> str:
    """Return a note if test frames took part, without labels, in the run's training; "" if none is known to have."""
    test = task.rows[task.positions(TEST)]
    if run.sources is not None:
        return _by_content(run.sources, task.store, test)
    try:
        offered = _rows_offered(run, task.store)
    except StoreError as error:
        return f"Whether test frames took part in the encoder's training can't be told: {error}"
    split = task.store.table.split[np.searchsorted(task.store.rows, test)].astype(str)
    seen = int((np.isin(test, offered) & ~np.isin(split, run.excluded_splits)).sum())
    if not seen:
        return ""
    return _told(seen, len(test))


def chosen_by(run: FinishedRun, task: Task) -> str:
    """Return a note if test frames helped to choose the encoder among those of its run; "" if none did."""
    test = task.rows[task.positions(TEST)]
    seen = _count(run.chosen_on, task.store, test)
    if not seen:
        return ""
    return (
        f"{seen} of {len(test)} test frames helped to choose this encoder among those of its run (train.probe): scores "
        "on them flatter. On other frames they may be lower."
    )


def _by_content(trained_on: frozenset[str], store: Readable, test: NDArray[np.int64]) -> str:
    """Return a note on test frames whose file took part in training, whatever store or name it had there."""
    seen = _count(trained_on, store, test)
    return _told(seen, len(test)) if seen else ""


def _count(hashes: frozenset[str], store: Readable, rows: NDArray[np.int64]) -> int:
    """Return how many rows are of files of these contents."""
    sources = store.table.source[np.searchsorted(store.rows, rows)]
    return sum(store.table.sources[source].content_hash in hashes for source in sources.tolist())


def _told(seen: int, frames: int) -> str:
    return (
        f"{seen} of {frames} test frames took part in the encoder's training, without their labels, because they "
        "bear no split that training excludes. On patients that the encoder never saw, scores may be lower."
    )


def _rows_offered(run: FinishedRun, store: Readable) -> NDArray[np.int64]:
    """Return the rows of a store that a run's training could draw from, for runs that name no files by content.

    The run's generation is known by its content, in runs of earlier versions by the digest of its whole manifest.

    Raises:
        StoreError: the run was trained on another store, or the generations that it still has can't tell.
    """
    if not run.store:
        raise StoreError("the run's config.json does not name the store that it was trained on.")
    if len(store.parts) > 1:
        raise StoreError("its version did not name its files by content, and the task lies in two stores.")
    (store,) = store.parts
    kept = 0
    for manifest in store.generations():
        if run.store.get("content") == manifest.content_digest() or run.store.get("digest") == manifest.digest:
            return manifest.row_numbers()
        kept += 1
    if kept < store.generation:
        raise StoreError(
            f"{store.location} keeps {kept} of its {store.generation} generations, and the run's may be among the rest."
        )
    raise StoreError("it was trained on another store, and its version did not name its files by content.")
