"""Hold out whole test groups (patients or clips)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.sources.patients import group_key
from usjepa.cache.sources.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usjepa.cache.sources.base import Entry
    from usjepa.cache.store.tables import SourceTable


def assign_splits(table: SourceTable, test_fraction: float) -> SourceTable:
    """Return the table with the split of every test group set to `test`.

    A group with any source marked `test` becomes wholly test. In datasets where no source is marked, the groups whose
    hash lies under `test_fraction` do; the hash depends on dataset and group alone, so growth moves no group. A patient
    whom DICOM files name is one group in all datasets.
    """
    keys = [group_key(*names) for names in zip(table.dataset, table.group, strict=True)]
    is_test = table.split == TEST
    marked = {key for key, own in zip(keys, is_test, strict=True) if own}
    with_own = set(table.dataset[is_test])
    undecided = {key for key, dataset in zip(keys, table.dataset, strict=True) if dataset not in with_own}
    test = marked | {key for key in undecided if _share(*key) < test_fraction}
    split = [TEST if key in test else own for key, own in zip(keys, table.split, strict=True)]
    return replace(table, split=np.array(split, dtype=object))


def straddling_groups(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """Return the groups that a listing has in test and elsewhere, see `group_key`; `assign_splits` makes them test."""
    splits: dict[tuple[str, str], set[bool]] = {}
    for entry in entries:
        splits.setdefault(group_key(entry.dataset, entry.group), set()).add(entry.split == TEST)
    return sorted(key for key, found in splits.items() if len(found) == 2)


def _share(dataset: str, group: str) -> float:
    """Return a number in [0, 1) for a group: the xxh3-64 of its dataset and name, which NUL keeps apart."""
    return xxhash.xxh3_64_intdigest(f"{dataset}\0{group}".encode()) / 2**64
