"""Let what several stores hold count once, and never on two sides of a split.

A file that two stores hold is trained on, or held out, from the first of them that has it. If either calls its split
one that is excluded, it takes part from neither; nor does a patient whom another store has in such a split alone, nor a
file that was withdrawn from another of the stores.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import UsageError
from usjepa.cache.places.runs import Runs
from usjepa.cache.several.stores import Stores
from usjepa.cache.sources.patients import is_patient, secret_of
from usjepa.cache.sources.splits import canonical
from usjepa.train.data.partners import codes_of
from usjepa.train.data.split import Split, split_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache import Table
    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.cache.several.face import Readable

    Ints = NDArray[np.int64]
    Flags = NDArray[np.bool_]

_HASHED = re.compile("[0-9a-f]{32}")
"""Path of a source that was named by a hash."""
_AT_ONCE = 1 << 18
"""Rows or sources that are looked at together."""
_SHOWN = 3
"""Most sources or groups that a note names."""


def split_of(store: Readable, settings: TrainSettings) -> tuple[Split, list[str]]:
    """Split the rows of one store or several; return what is to be said of rows that do not take part.

    Raises:
        UsageError: no row is left to train on.
    """
    split = split_rows(store.table, settings)
    if not isinstance(store, Stores):
        return split, []
    excluded = {canonical(name) for name in settings.exclude_splits}
    out_S = _of_sources(store.table, "split", lambda name: canonical(name) in excluded)
    dropped_S, notes = _left_out(store, out_S)
    across_S = _across(store, out_S)
    if across_S.any():
        patient_S = across_S & _of_sources(store.table, "group", is_patient)
        dropped_S |= patient_S
        notes += _of_test_groups(store, patient_S, across_S & ~patient_S)
    train, held = (_without(store, part, dropped_S) for part in (split.train, split.validation))
    if not len(train):
        raise UsageError(
            f"{store.location}: no row is left to train on, because every row that might be is another store's too, or "
            "was withdrawn from one: give one of these stores."
        )
    lost = len(split.train) + len(split.validation) - len(train) - len(held)
    notes += _unknown_to_each_other(store)
    return replace(split, train=train, validation=held, excluded=split.excluded + lost), notes


def _of_sources(table: Table, column: str, tells: Callable[[str], bool]) -> Flags:
    """Return of which sources a column tells something, bool [S]."""
    flags = [np.fromiter(map(tells, names), np.bool_, len(names)) for (names,) in table.source_columns(column)]
    return np.concatenate([np.empty(0, np.bool_), *flags])


def _without(store: Stores, part: Ints | Runs, dropped_S: Flags) -> Runs:
    """Return the rows of a part that are of no source that is dropped, and that no earlier store has."""
    repeated = Runs.like(store.joined.repeated)
    kept = [Runs.like(np.empty(0, np.int64))]
    for start in range(0, len(part), _AT_ONCE):
        rows = part[start : start + _AT_ONCE]
        rows = rows[~(dropped_S[store.table.stretches.at(rows)[0]] | repeated.find(rows)[1])]
        kept.append(Runs.like(rows))
    return Runs.of(np.concatenate([runs.first_r for runs in kept]), np.concatenate([runs.counts_r for runs in kept]))


def _left_out(store: Stores, out_S: Flags) -> tuple[Flags, list[str]]:
    """Return the sources that do not take part because several stores hold them, bool [S], and notes.

    Nor do the rows that are repeated.
    """
    joined, table, notes = store.joined, store.table, list[str]()
    rows_S = table.stretches.rows_per_source(len(table.sources))
    again, test = np.zeros_like(out_S), np.zeros_like(out_S)
    for first, later in joined.twins:
        if rows_S[first] and rows_S[later]:
            again[later] = True
            test[[first, later]] |= out_S[first] | out_S[later]
    gone = np.zeros_like(out_S)
    gone[joined.withdrawn] = True
    copies = again.copy()
    copies[table.stretches.at(joined.repeated)[0]] = True
    if copies.any():
        count = len(joined.repeated) + int(rows_S[again].sum())
        notes.append(
            f"{count:,} rows lie in two stores, of files with the same content ({_named(store, copies)}): they count "
            "once, in the first store that has them."
        )
    if (test & ~out_S).any():
        notes.append(
            f"{_named(store, test & ~out_S)}: left out, because another store has the same files in a split that is "
            "excluded."
        )
    if gone.any():
        notes.append(f"{_named(store, gone)}: left out, because the same files were withdrawn from another store.")
    return again | test | gone, notes


def _across(store: Stores, out_S: Flags) -> Flags:
    """Return which sources take part though another store has their group in an excluded split alone, bool [S]."""
    table, part_S = store.table, store.joined.part_S
    used_S = table.stretches.rows_per_source(len(table.sources)) > 0
    code_S = codes_of(table, "group")
    test_GK = np.zeros((int(code_S.max(initial=-1)) + 1, len(store.parts)), np.bool_)
    taking_GK = np.zeros_like(test_GK)
    for start in range(0, len(code_S), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        for flags_GK, mine in ((test_GK, out_S[here] & used_S[here]), (taking_GK, ~out_S[here] & used_S[here])):
            flags_GK[code_S[here][mine], part_S[here][mine]] = True
    only_test_G: Flags = np.any(test_GK & ~taking_GK, axis=1)
    found: Flags = only_test_G[code_S] & ~out_S & used_S
    return found


def _of_test_groups(store: Stores, patient_S: Flags, other_S: Flags) -> list[str]:
    """Say which sources are of groups that another store excludes: patients, who are left out, and others."""
    notes = []
    if patient_S.any():
        notes.append(
            f"{_named(store, patient_S)}: left out, because another store has the same patients in a split that is "
            "excluded."
        )
    if other_S.any():
        notes.append(
            f"{_named(store, other_S)}: trained on or held out, and another store has a group of the same name in a "
            "split that is excluded. If they are the same patients, scores on that split will be too high: give them "
            "one split in both stores, or leave them out of one (usjepa-cache remove)."
        )
    return notes


def _unknown_to_each_other(store: Stores) -> list[str]:
    """Say where a patient of two stores can't be recognised, as their groups were named in different ways."""
    table = store.table
    used_S = table.stretches.rows_per_source(len(table.sources)) > 0
    hashed: list[set[bool]] = [set() for _ in store.parts]
    secrets: list[set[str]] = [set() for _ in store.parts]
    number = 0
    for paths, groups in table.source_columns("path", "group"):
        for path, group in zip(paths, groups, strict=True):
            if used_S[number]:
                part = store.joined.part_S[number]
                hashed[part].add(_HASHED.fullmatch(path) is not None)
                if is_patient(group):
                    secrets[part].add(secret_of(group))
            number += 1
    patients = [mine for mine in secrets if mine]
    if len(set(map(frozenset, hashed))) > 1:
        how = "some of the stores were built with --hash-paths and some without"
    elif len(patients) > 1 and (len(set(map(frozenset, patients))) > 1 or "" in patients[0]):
        how = "they name groups after patients of DICOM files, and not with one secret (USJEPA_PATH_KEY)"
    else:
        return []
    return [
        f"{', '.join(store.names)}: {how}, so a patient who has files in two of them can't be recognised: such groups "
        "may lie on two sides of the held-out split."
    ]


def _named(store: Stores, chosen_S: Flags) -> str:
    """Return the first few of some sources, each with its store."""
    numbers = np.flatnonzero(chosen_S)
    names = store.names
    told = [f"{store.table.sources[i].path} of {names[store.joined.part_S[i]]}" for i in numbers[:_SHOWN].tolist()]
    return ", ".join(told) + (f" and {len(numbers) - _SHOWN:,} more" if len(numbers) > _SHOWN else "")
