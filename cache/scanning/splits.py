"""Hold out whole test groups (patients or clips)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.sources.patients import group_key
from usjepa.cache.sources.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.sources.base import Entry
    from usjepa.cache.store.tables import SourceTable


def assign_splits(table: SourceTable, test_fraction: float) -> SourceTable:
    """Return the table with the split of every test group set to `test`.

    A group with any source marked `test` becomes wholly test. In datasets where no source is marked, the groups whose
    hash lies under `test_fraction` do; the hash depends on dataset and group alone, so growth moves no group. A patient
    whom DICOM files name is one group in all datasets.
    """
    test = in_test(list(zip(table.dataset, table.group, table.split, strict=True)), test_fraction)
    split = [TEST if is_test else own for is_test, own in zip(test, table.split, strict=True)]
    return replace(table, split=np.array(split, dtype=object))


def in_test(files: Sequence[tuple[str, str, str]], test_fraction: float) -> NDArray[np.bool_]:
    """Return which files lie in test groups, see `assign_splits`, from the dataset, group and split of each."""
    keys = [group_key(dataset, group) for dataset, group, _ in files]
    marked = {key for key, (_, _, split) in zip(keys, files, strict=True) if split == TEST}
    with_own = {dataset for dataset, _, split in files if split == TEST}
    undecided = {key for key, (dataset, _, _) in zip(keys, files, strict=True) if dataset not in with_own}
    test = marked | {key for key in undecided if _share(*key) < test_fraction}
    return np.array([key in test for key in keys], dtype=np.bool_)


def straddling_groups(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """Return the groups that a listing has in test and elsewhere, see `group_key`; `assign_splits` makes them test."""
    splits: dict[tuple[str, str], set[bool]] = {}
    for entry in entries:
        splits.setdefault(group_key(entry.dataset, entry.group), set()).add(entry.split == TEST)
    return sorted(key for key, found in splits.items() if len(found) == 2)


def _share(dataset: str, group: str) -> float:
    """Return a number in [0, 1) for a group: the xxh3-64 of its dataset and name, which NUL keeps apart."""
    return xxhash.xxh3_64_intdigest(f"{dataset}\0{group}".encode()) / 2**64
