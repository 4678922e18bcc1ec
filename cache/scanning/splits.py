"""Hold out whole test groups (patients or clips)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usjepa.cache.sources.base import Entry
    from usjepa.cache.store.tables import SourceTable

_TEST = "test"


def assign_splits(table: SourceTable, test_fraction: float) -> SourceTable:
    """Return the table with the split of every test group set to `test`.

    A group with any source marked `test` becomes wholly test. In datasets where no source is marked, the groups whose
    hash lies under `test_fraction` do; the hash depends on dataset and group alone, so growth moves no group.
    """
    keys = list(zip(table.dataset, table.group, strict=True))
    marked = {key for key, split in zip(keys, table.split, strict=True) if split == _TEST}
    marked_datasets = {dataset for dataset, _ in marked}
    drawn = {key for key in set(keys) if key[0] not in marked_datasets and _share(*key) < test_fraction}
    test = marked | drawn
    split = [_TEST if key in test else own for key, own in zip(keys, table.split, strict=True)]
    return replace(table, split=np.array(split, dtype=object))


def straddling_groups(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """Return the (dataset, group) pairs that a listing has in test and elsewhere; `assign_splits` makes them test."""
    splits: dict[tuple[str, str], set[bool]] = {}
    for entry in entries:
        splits.setdefault((entry.dataset, entry.group), set()).add(entry.split == _TEST)
    return sorted(key for key, found in splits.items() if len(found) == 2)


def _share(dataset: str, group: str) -> float:
    """Return a number in [0, 1) for a group: the xxh3-64 of its dataset and name, which NUL keeps apart."""
    return xxhash.xxh3_64_intdigest(f"{dataset}\0{group}".encode()) / 2**64
