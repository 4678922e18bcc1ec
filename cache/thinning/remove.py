"""Remove sources from a store: their rows become holes, and their bytes go.

The next generation and its tables are worked out first, and every row that stays in the shards concerned is checked.
They are laid down under `unfinished/`, the mark `remove.json` last: it is the next generation's manifest, and on a line
of its own who was asked for. From then on nobody reads the store or writes to it, and each step brings one file from
the old state to the new. Whenever this is killed, the same command goes on from the mark to the same bytes; another
one finishes what was begun and then does what is left of its own. Between the two the mark stays, so that it may be
killed there too.

Earlier generations can't be read any more, and `gc` removes their manifests: reasons of holes in them name files.
"""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.building.parts import WHOLE, refuse_rivals
from usjepa.cache.errors import DamageError, NotSealedError, UsageError
from usjepa.cache.interrupt import graceful_interrupts, safe_point
from usjepa.cache.scanning.journal import JOURNAL
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.location import open_storage
from usjepa.cache.storage.protocol import TABLE_LIMIT
from usjepa.cache.store.descriptions import damaged_table, newest_readable, table_hashes
from usjepa.cache.store.generations import Manifest
from usjepa.cache.store.state import (
    job_name,
    kept_generations,
    read_manifest,
    read_state,
    refuse_unfinished,
    root_settings,
    segment_json,
)
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.terminal.progress import ProgressBar
from usjepa.cache.terminal.streams import shown_name
from usjepa.cache.thinning.rewriting import packed_without, rewrite
from usjepa.cache.thinning.runs import Run, pinned, runs_under
from usjepa.cache.thinning.withdrawal import Choice, Thinned, next_generation, thin_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from usjepa.cache.storage.protocol import Guard, Storage

logger = logging.getLogger(__name__)

MARK = job_name("remove")
_THEN_GC = "`usjepa-cache gc {}` removes earlier generations, which can't be read any more and may name files."
_MEND = "Nothing of this removal was begun: mend the store first, with usjepa-cache verify STORE --repair."
_PUT_BACK = (
    "The removal that was begun can't go on over it, and can't be undone. From a copy of the store made before the "
    "removal, put this file back (cp), or the whole store in place of this one, then run remove again."
)
_GO_ON = "Run the same command again to go on; until then the store is neither read nor written."
_THREADS = 4
"""Shards in hand at once."""


@dataclass
class Removal:
    """What a removal does."""

    files: int = 0
    rows: int = 0
    """Those that held data."""
    shards: int = 0
    """Files that are written anew."""
    runs: list[Run] = field(default_factory=list)
    """Trainings that began on a generation with these rows."""
    generation: int = 0
    groups: list[tuple[str, str]] = field(default_factory=list)
    """(group, data set) of the sources, where groups were asked for."""
    asked: Choice | None = None
    """Of a removal that was begun earlier: for whom."""

    def lines(self) -> list[str]:
        """Return what to say."""
        lines = [f"{self.files:,} sources, {self.rows:,} rows, {self.shards:,} shard files"]
        if len({dataset for _, dataset in self.groups}) > 1:
            for name in sorted({group for group, _ in self.groups}):
                of = ", ".join(shown_name(dataset) for group, dataset in self.groups if group == name)
                lines.append(f"group {shown_name(name)} of the data sets: {of} (--dataset D takes that of D alone)")
        lines += [f"saw these rows: {run}" for run in self.runs]
        return lines


def remove(store: str, choice: Choice, runs: Sequence[str] = (), dry_run: bool = False, steal: bool = False) -> Removal:
    """Remove sources and their rows from a sealed store; a removal that was interrupted is finished first.

    Args:
        store: folder or URL.
        choice: who withdraws.
        runs: folders in which trainings lie; those that saw the rows are named.
        dry_run: say what would go, and change nothing.
        steal: take over the claim of a builder known to be dead.

    Raises:
        UsageError: the store has no such source, or nothing else, or something in it is not sealed.
        DamageError: a row that stays, in a shard to be written anew, is damaged.
    """
    storage = open_storage(store)
    root_settings(storage)  # a folder of other things is left as it is
    if dry_run:
        refuse_unfinished(storage)
        found, _, _ = _planned(storage, choice, runs)
        logger.info("\n".join(["would be removed: " + found.lines()[0], *found.lines()[1:]]))
        return found
    with graceful_interrupts(_GO_ON), hold_claim(storage, WHOLE, steal) as claim:
        refuse_rivals(storage, WHOLE, steal)
        refuse_unfinished(storage, but="remove")
        storage.sweep()
        rest, went_on = choice, _finish(storage, claim.check)
        if went_on is not None:
            logger.info(
                f"finished the removal begun earlier (generation {went_on.generation}). {_THEN_GC.format(store)}"
            )
            left = choice.without(went_on.asked)
            if left is None:
                _unmark(storage, claim.check)
                return went_on
            rest = left
        try:
            found, thinned, manifest = _planned(storage, rest, runs)
        except (UsageError, NotSealedError, DamageError):
            _unmark(storage, claim.check)  # what was begun is finished: the store can be read, and mended
            raise
        _lay_down(storage, thinned, manifest, choice, claim.check)
        logger.info("\n".join(["removes " + found.lines()[0], *found.lines()[1:]]))
        _finish(storage, claim.check)
        _unmark(storage, claim.check)
        logger.info(f"sealed: generation {manifest.generation}. {_THEN_GC.format(store)}")
        return found


def _planned(storage: Storage, choice: Choice, runs: Sequence[str]) -> tuple[Removal, list[Thinned], Manifest]:
    """Return what is removed, the segments that change, and the next generation."""
    manifest = _sealed(storage)
    thinned = thin_segments(storage, manifest, choice)
    gone = np.concatenate([one.withdrawn for one in thinned]) if thinned else np.empty(0, np.int64)
    rows = np.intersect1d(gone, manifest.row_numbers())
    if not thinned:
        raise UsageError(f"{storage.url}: {choice} has withdrawn already.")
    if len(rows) == len(manifest.row_numbers()):
        raise UsageError(f"{storage.url}: holds nothing but {choice}: delete the whole store.")
    affected = sorted({int(row) // manifest.rows_per_shard for row in rows})
    tables: dict[tuple[str, int], str] = {}

    def table_of(name: str, shard: int) -> None:
        layer, mine = manifest.layers[name], _in_shard(rows, shard, manifest.rows_per_shard)
        _, tables[name, shard] = packed_without(storage, layer, shard, manifest.tables[name][shard], mine)

    with _advised(_MEND):
        _in_threads([partial(table_of, name, shard) for name in manifest.layers for shard in affected], "check")
    found = Removal(sum(one.files for one in thinned), len(rows), len(tables), generation=manifest.generation + 1)
    found.groups = sorted({pair for one in thinned for pair in one.groups}) if choice.groups else []
    found.runs = _runs_that_saw(storage, runs, int(gone.min(initial=manifest.extent)))
    return found, thinned, next_generation(manifest, thinned, tables)


def _sealed(storage: Storage) -> Manifest:
    state = read_state(storage)
    if state.newest is None:
        raise NotSealedError(f"{storage.url}: not sealed. Finish its build first.")
    begun = sorted(set(state.layers) - set(state.newest.layers))
    if begun or state.extent > state.newest.extent:
        what = f"layer {begun[0]}" if begun else f"segment {state.segments[-1].number}"
        raise UsageError(
            f"{storage.url}: {what} was begun and is not sealed. Finish its build first, or delete what was begun: "
            "usjepa-cache gc STORE --unfinished."
        )
    return state.newest


def _in_shard(rows: np.ndarray[tuple[int], np.dtype[np.int64]], shard: int, rows_per_shard: int) -> set[int]:
    return set(rows[rows // rows_per_shard == shard].tolist())


def _runs_that_saw(storage: Storage, folders: Sequence[str], first: int) -> list[Run]:
    """Return the trainings that began on a generation that has the row `first`; those noted in the store too."""
    manifests = [read_manifest(storage, number) for number in kept_generations(storage)]
    digests = {one.digest: one.generation for one in manifests if one is not None and one.extent > first}
    found = list(runs_under(folders, digests))
    noted, _ = pinned(storage, found)
    known = {run.folder for run in found}
    return found + [run for run in noted if run.folder not in known and run.generation in digests.values()]


def _staged(number: int, table: str) -> str:
    return f"unfinished/segment-{number:06d}-{table}.parquet"


def _lay_down(storage: Storage, thinned: Iterable[Thinned], manifest: Manifest, choice: Choice, guard: Guard) -> None:
    """Write everything that the removal needs to be finished, the mark last."""
    for one in thinned:
        storage.publish(_staged(one.segment.number, "sources"), one.sources, guard)
        storage.publish(_staged(one.segment.number, "rows"), one.rows, guard)
    storage.publish(MARK, manifest.to_bytes() + choice.to_bytes(), guard)


def _finish(storage: Storage, guard: Guard) -> Removal | None:
    """Bring the store to the generation that the mark holds, and leave the mark; None where there is none."""
    where = f"{storage.url}/{MARK}"
    try:
        sealed, _, asked = storage.read(MARK).partition(b"\n")
    except FileNotFoundError:
        _clear(storage)
        return None
    with _advised(_PUT_BACK):
        after = Manifest.from_bytes(sealed, where)
        choice = Choice.from_bytes(asked, where) if asked else None  # older versions kept none
        before = newest_readable(storage)
        if before is None:
            raise DamageError(f"{storage.url}/manifest.json: missing.")
    if before.generation < after.generation:
        with _advised(_PUT_BACK):
            _tables(storage, after, guard)
            _shards(storage, before, after, guard)
        storage.delete(JOURNAL)  # of a scan that never went on: it names files
        writer = StoreWriter(storage, guard, "remove")
        writer.publish_generation(after)
    _clear(storage)
    return Removal(generation=after.generation, asked=choice)


@contextlib.contextmanager
def _advised(what_to_do: str) -> Iterator[None]:
    """Add to a DamageError what to do about it."""
    try:
        yield
    except DamageError as error:
        error.args = (f"{error} {what_to_do}",)
        raise


def _unmark(storage: Storage, guard: Guard) -> None:
    guard()
    storage.delete(MARK)


def _tables(storage: Storage, after: Manifest, guard: Guard) -> None:
    for segment in after.segments:
        for (name, expected), table in zip(table_hashes(segment), ("sources", "rows"), strict=True):
            if damaged_table(storage, name, expected) is not None:
                staged = _staged(segment.number, table)
                wrong = damaged_table(storage, staged, expected)
                if wrong is not None:
                    raise DamageError(f"{storage.url}/{staged}: {wrong}.")
                storage.publish(name, storage.read(staged, TABLE_LIMIT), guard)
        name, described = f"{segment.folder}/segment.json", segment_json(segment)
        if storage.size(name) is None or storage.read(name) != described:
            storage.publish(name, described, guard)


def _shards(storage: Storage, before: Manifest, after: Manifest, guard: Guard) -> None:
    reasons = dict(before.holes)
    changed = np.array([row for row, why in after.holes if reasons.get(row) != why], np.int64)
    gone = {
        shard: _in_shard(changed, shard, after.rows_per_shard)
        for shard in set((changed // after.rows_per_shard).tolist())
    }
    tasks = [
        partial(rewrite, storage, layer, shard, (before, after), gone[shard], guard)
        for layer in after.layers.values()
        for shard in sorted(gone)
    ]
    _in_threads(tasks, "remove")


def _clear(storage: Storage) -> None:
    """Remove what was laid down, but for the mark."""
    for name in storage.names("unfinished"):
        if name.startswith("segment-"):
            storage.delete(f"unfinished/{name}")


def _in_threads(tasks: Sequence[Callable[[], None]], label: str) -> None:
    def run(task: Callable[[], None]) -> None:
        safe_point()
        task()

    pool = ThreadPoolExecutor(_THREADS, f"usjepa-{label}")
    try:
        with ProgressBar(len(tasks), label, unit="shards") as progress:
            for _ in pool.map(run, tasks):
                progress.update(1)
    finally:
        pool.shutdown(cancel_futures=True)
