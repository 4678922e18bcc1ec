"""Split rows into training and validation, by hash of the group.

Groups (patients, clips) are held out whole; rows of excluded splits, such as `test`, take part in neither.

Shape suffixes: R rows, S sources, n those that take part, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.patients import group_key
from usjepa.cache.sources.splits import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache import Table
    from usjepa.cache.recipes.train import TrainSettings

    Ints = NDArray[np.int64]
    Column = NDArray[Any]
    """One value a row or source: strings (object or str dtype) or integers."""


@dataclass(frozen=True)
class Split:
    """The rows (or sources) of each part, as ascending positions in the table."""

    train: Ints
    """int64"""
    validation: Ints
    """int64"""
    excluded: int
    """Rows of `exclude_splits`, in neither part."""
    note: str = ""
    """A warning about how the groups fell; "" for none."""


def split_rows(table: Table, settings: TrainSettings) -> Split:
    """Split the rows of a store's table by the groups of their sources; sources without rows do not count.

    Raises:
        UsageError: every row belongs to an excluded split.
    """
    rows_S = np.bincount(table.source, minlength=len(table.sources))
    used = np.flatnonzero(rows_S)
    sources = [table.sources[source] for source in used.tolist()]
    columns = {name: np.empty(len(sources), dtype=object) for name in ("dataset", "group", "split", "path")}
    for name, column in columns.items():
        column[:] = [getattr(source, name) for source in sources]
    of_sources = _split_groups(columns["dataset"], columns["group"], columns["split"], settings, columns["path"])
    part_S = np.zeros(len(rows_S), dtype=np.int8)
    part_S[used[of_sources.train]], part_S[used[of_sources.validation]] = 1, 2
    part_R = part_S[table.source]
    excluded = int(rows_S[part_S == 0].sum())
    train, held = np.flatnonzero(part_R == 1), np.flatnonzero(part_R == 2)
    return Split(train, held, excluded, of_sources.note or _far_more(len(train), len(held), settings))


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
    positions = np.flatnonzero(taken).astype(np.int64)
    if not positions.size:
        raise UsageError(
            f"All rows belong to the excluded splits {list(settings.exclude_splits)}, so none is left to train on: "
            "change train.exclude_splits or add data."
        )
    group_n, hash_G = _groups(dataset_R[taken], group_R[taken], None if path_R is None else path_R[taken])
    held_G, note = _held_out(hash_G, settings.validation_fraction)
    held_n = held_G[group_n]
    return Split(positions[~held_n], positions[held_n], int(len(taken) - positions.size), note)


def _groups(dataset_n: Column, group_n: Column, path_n: Column | None) -> tuple[Ints, NDArray[np.uint64]]:
    """Return each row's group number, int64 [n], and each group's hash, uint64 [G].

    The hash is xxh3-64 of a tagged name. Without the tag, another split by the hash of (dataset, group), such as the
    scan's test split, would pick the same groups and leave none under the fraction.
    """
    columns = [dataset_n.tolist(), group_n.tolist()]
    columns.append([""] * len(group_n) if path_n is None else path_n.tolist())
    numbers: dict[tuple[object, object, object], int] = {}
    keys = (
        (*group_key(str(dataset), str(group)), "" if group != "" else path)
        for dataset, group, path in zip(*columns, strict=True)
    )
    number_n = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(group_n))
    names = ("\0".join(("usjepa validation", *map(str, key))) for key in numbers)
    return number_n, np.fromiter((xxhash.xxh3_64_intdigest(name.encode()) for name in names), np.uint64, len(numbers))


def _held_out(hash_G: NDArray[np.uint64], fraction: float) -> tuple[NDArray[np.bool_], str]:
    """Return which groups are held out, bool [G], and a note on any exception made."""
    share_G = hash_G.astype(np.float64) / 2.0**64
    held_G = share_G < fraction
    if fraction == 0.0:
        return held_G, ""
    if len(hash_G) == 1:
        return np.zeros(
            1, dtype=np.bool_
        ), "There is only one group: all of it is trained on, without a validation loss."
    if not held_G.any():
        held_G[np.argmin(share_G)] = True
        return held_G, f"No group's hash lies under {fraction:g}: the one with the smallest hash is held out."
    if held_G.all():
        held_G[np.argmax(share_G)] = False
        return held_G, f"Every group's hash lies under {fraction:g}: the one with the largest hash is trained on."
    return held_G, ""
