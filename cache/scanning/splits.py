"""Hold out whole test groups (patients or clips)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.places.digests import among, short_hashes
from usjepa.cache.places.packed import fields_of
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
    numbers: dict[str, int] = {}
    code_n = np.array([numbers.setdefault(dataset, len(numbers)) for dataset, _, _ in files], np.int32)
    marked_n = np.array([split == TEST for _, _, split in files], np.bool_)
    groups = group_hashes((dataset for dataset, _, _ in files), (group for _, group, _ in files))
    return in_test_groups(code_n, groups, marked_n, test_fraction)


def in_test_groups(
    code_n: NDArray[np.int32], group_n: NDArray[np.uint64], marked_n: NDArray[np.bool_], test_fraction: float
) -> NDArray[np.bool_]:
    """Return which files lie in test groups, bool [n].

    Args:
        code_n: a number for the dataset of each.
        group_n: the hash of the group of each, see `group_hashes`: 2^64 times its share.
        marked_n: which the data itself marks `test`.
        test_fraction: of the groups.
    """
    with_own = np.zeros(int(code_n.max(initial=-1)) + 1, np.bool_)
    with_own[code_n[marked_n]] = True
    drawn_n = group_n.astype(np.float64) / 2.0**64 < test_fraction
    return among(group_n, group_n[marked_n | (drawn_n & ~with_own[code_n])])


def group_hashes(datasets: Iterable[str], groups: Iterable[str]) -> NDArray[np.uint64]:
    """Return the xxh3-64 of the group of each source: of its dataset and name, see `group_key`, with NUL between."""
    return short_hashes("\0".join(group_key(*pair)) for pair in zip(datasets, groups, strict=True))


def straddling_groups(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Return the groups that a listing has in test and elsewhere, see `group_key`; `assign_splits` makes them test."""
    splits: dict[tuple[str, str], set[bool]] = {}
    for dataset, group, split in fields_of(entries, "dataset", "group", "split"):
        splits.setdefault(group_key(dataset, group), set()).add(split == TEST)
    return sorted(key for key, found in splits.items() if len(found) == 2)
