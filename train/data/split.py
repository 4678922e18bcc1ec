"""Split rows into training and validation, by hash of the group.

Groups (patients, clips) are held out whole; rows of excluded splits, such as `test`, take part in neither.

Shape suffixes: R rows, S sources, n those that take part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.patients import group_key
from usjepa.cache.sources.splits import KNOWN, canonical, split_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from usjepa.cache import Table
    from usjepa.cache.places.runs import Runs
    from usjepa.cache.recipes.train import TrainSettings

    Ints = NDArray[np.int64]
    Column = NDArray[Any]
    """One value a row or source: strings (object or str dtype) or integers."""


_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Split:
    """The rows (or sources) of each part, as ascending positions in the table."""

    train: Ints | Runs
    """int64"""
    validation: Ints | Runs
    """int64"""
    excluded: int
    """Rows of `exclude_splits`, in neither part."""
    note: str = ""
    """A warning about how the groups fell; "" for none."""


def split_rows(table: Table, settings: TrainSettings) -> Split:
    """Split the rows of a store's table by the groups of their sources; sources without rows do not count.

    No array of all rows is made.

    Raises:
        UsageError: every row belongs to an excluded split, or a name that is to be excluded is no split's.
    """
    rows_S = table.stretches.rows_per_source(len(table.sources))
    excluded = {canonical(name) for name in settings.exclude_splits}
    taken_S, hash_S, named = rows_S > 0, np.empty(len(rows_S), np.uint64), set[str]()
    first = 0
    for columns in table.source_columns("dataset", "group", "split", "path"):
        here = slice(first, first + len(columns[0]))
        taken_S[here] &= [canonical(str(name)) not in excluded for name in columns[2]]
        named.update(map(str, columns[2]))
        hash_S[here] = _hashes(columns[0], columns[1], columns[3])
        first = here.stop
    _refuse_unknown(settings.exclude_splits, named)
    held_S, note = _held_out(taken_S, hash_S, settings)
    train, held = table.stretches.rows_of(taken_S & ~held_S), table.stretches.rows_of(held_S)
    return Split(train, held, int(rows_S[~taken_S].sum()), note or _far_more(len(train), len(held), settings))


def _refuse_unknown(excluded: Sequence[str], named: set[str]) -> None:
    """Raise UsageError for a name that is neither a known spelling of a split nor there: a slip of the pen would let
    test rows be trained on."""
    there = {canonical(name) for name in named}
    for name in excluded:
        if not split_named(name) and canonical(name) not in there:
            found = ", ".join(sorted(there - {""})) or "none"
            raise UsageError(
                f"train.exclude_splits: {name!r} is no split, so it would exclude nothing. Write {KNOWN}, or [] to "
                f"exclude none; splits that the data names: {found}."
            )


def _far_more(train: int, held: int, settings: TrainSettings) -> str:
    """Return a note where more than twice as many rows are held out as the settings request."""
    share, requested = held / (train + held), settings.validation_fraction
    if share <= 2 * requested:
        return ""
    return (
        f"{share:.0%} of the rows are held out, but train.validation_fraction is {requested:.0%}: groups are held out "
        "whole and by chance, and here they are few or large. A smaller fraction leaves more rows to train on."
    )


def _split_groups(
    dataset_R: Column, group_R: Column, split_R: Column, settings: TrainSettings, path_R: Column | None = None
) -> Split:
    """Hold out the groups whose hash lies under `validation_fraction`, so that growing a store moves none of them.

    Columns are of rows, or of the sources that have rows. A group is a pair (dataset, group name). Rows without a group
    name ("") belong to the group of their source's path if `path_R` is given, else to that of their dataset. If no hash
    lies under the fraction, the group with the smallest one is held out; if all do, the one with the largest is trained
    on; a single group is trained on. `Split.note` reports each of these exceptions, because further groups may end it.

    Raises:
        UsageError: every row belongs to an excluded split.
    """
    excluded = {canonical(name) for name in settings.exclude_splits}
    taken = np.array([canonical(str(name)) not in excluded for name in split_R.tolist()], dtype=np.bool_)
    paths = [""] * len(group_R) if path_R is None else path_R.tolist()
    held, note = _held_out(taken, _hashes(dataset_R.tolist(), group_R.tolist(), paths), settings)
    return Split(np.flatnonzero(taken & ~held), np.flatnonzero(held), int((~taken).sum()), note)


def _hashes(datasets: Sequence[object], groups: Sequence[object], paths: Sequence[object]) -> NDArray[np.uint64]:
    """Return the hash of the group of each row or source, uint64: groups of one hash fall alike anyway.

    It is the xxh3-64 of a tagged name. Without the tag, another split by the hash of (dataset, group), such as the
    scan's test split, would pick the same groups and leave none under the fraction.
    """
    keys = (
        (*group_key(str(dataset), str(group)), "" if group != "" else path)
        for dataset, group, path in zip(datasets, groups, paths, strict=True)
    )
    names = ("\0".join(("usjepa validation", *map(str, key))) for key in keys)
    return np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in names), np.uint64, len(groups))


def _held_out(
    taken_n: NDArray[np.bool_], hash_n: NDArray[np.uint64], settings: TrainSettings
) -> tuple[NDArray[np.bool_], str]:
    """Return which of the rows or sources that are taken are held out, by the hashes of their groups, and a note on any
    exception made; UsageError where none is taken."""
    if not taken_n.any():
        raise UsageError(
            f"All rows belong to the excluded splits {list(settings.exclude_splits)}, so none is left to train on: "
            "change train.exclude_splits or add data."
        )
    fraction = settings.validation_fraction
    held_n = np.empty_like(taken_n)
    for start in range(0, len(hash_n), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        held_n[part] = taken_n[part] & (hash_n[part].astype(np.float64) / 2.0**64 < fraction)
    if fraction == 0.0:
        return held_n, ""
    least = hash_n.min(where=taken_n, initial=np.iinfo(np.uint64).max)
    most = hash_n.max(where=taken_n, initial=0)
    if least == most:
        alone = "There is only one group: all of it is trained on, without a validation loss."
        return np.zeros_like(held_n), alone
    if not held_n.any():
        note = f"No group's hash lies under {fraction:g}: the one with the smallest hash is held out."
        return taken_n & (hash_n == least), note
    if held_n[taken_n].all():
        note = f"Every group's hash lies under {fraction:g}: the one with the largest hash is trained on."
        return taken_n & (hash_n != most), note
    return held_n, ""
