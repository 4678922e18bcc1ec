"""Keep the groups and splits that a store has, when files are added to it.

Rows that are built can't change group or split. So a new file joins the group in which the store has the other files of
its patient or clip, whatever that group was called then, and shares its side of the test split. What can't be decided
is refused: a patient on both sides would make every score too good, and nobody would see it.

Shape suffixes: n readable sources of the store, L images of a scan, f those of them that are new.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache.errors import SourceError
from usjepa.cache.places.digests import among
from usjepa.cache.scanning.known_sources import IS_COMPARABLE, IS_DICOM, IS_TEST
from usjepa.cache.sources.patients import KEY_VARIABLE, is_patient
from usjepa.cache.sources.splits import TEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.scanning.known_sources import Compared, KnownSources
    from usjepa.cache.scanning.scanned import Scanned
    from usjepa.cache.store.tables import SourceTable

    Ints = NDArray[np.int64]


def joined(
    known: KnownSources, scanned: Scanned, compared: Compared, fresh_f: Ints, tables: Iterable[SourceTable]
) -> Iterator[SourceTable]:
    """Yield tables of new sources, in which they have the groups and sides of the store.

    Args:
        known: the store's sources.
        scanned: what a scan found.
        compared: its images, compared with them.
        fresh_f: which images the store does not have.
        tables: a line of each of these, splits assigned, some at a time.

    Raises:
        SourceError: the store has files of one patient in several groups, or on the other side of the test split;
            or it can't be told whether it has the patient at all.
    """
    if not len(known) or not len(fresh_f):
        yield from tables
        return
    links = _Links.of(known, scanned.groups, compared, fresh_f)
    is_known_f = among(links.joined_f, known.group_n)
    is_test_f = among(links.joined_f, known.group_n[known.flags_n & IS_TEST > 0])
    columns = (links.count_f, links.other_f, is_known_f, is_test_f, scanned.marked[fresh_f])
    first, patient = 0, None
    for table in tables:
        here = slice(first, first + len(table))
        yield _joined(table, links, [column[here] for column in columns])
        patient = patient or _first_patient(table, np.flatnonzero(~is_known_f[here]))
        first = here.stop
    if patient is not None:
        _require_told_apart(known, compared, patient)


def _joined(table: SourceTable, links: _Links, columns: Sequence[NDArray[Any]]) -> SourceTable:
    """Return a table with the groups and sides of the store; `columns` are those of `joined` of its lines."""
    group, split = table.group.copy(), table.split.copy()
    told = zip(*(column.tolist() for column in columns), strict=True)
    for i, (had, other, is_known, is_test, is_marked) in enumerate(told):
        if table.error[i]:
            continue
        if had > 1 or other >= 0:
            group[i] = _group(table, i, had, links.names.get(other))
        if is_test:
            split[i] = TEST
        elif is_known and is_marked:
            raise SourceError(
                f"{table.path[i]}: it is marked `test`, but the store has rows of its group ({group[i]}) for "
                "training, and they can't change. Build a new store, or leave the file out."
            )
        elif is_known and split[i] == TEST:
            split[i] = ""  # drawn for testing with a share that was not asked for when the others were built
    return replace(table, group=group, split=split)


@dataclass(frozen=True)
class _Links:
    """Under which names a store has the groups of new sources: those of the files of a group that it has already."""

    count_f: NDArray[np.int64]
    """In how many groups of the store each one's group is."""
    other_f: NDArray[np.int64]
    """A source of the store in that group, where it has another name; else -1."""
    joined_f: NDArray[np.uint64]
    """Hash of the group that each one joins."""
    names: dict[int, tuple[str, str]]
    """Dataset and name of the groups of those."""

    @classmethod
    def of(cls, known: KnownSources, own_L: NDArray[np.uint64], compared: Compared, fresh_f: Ints) -> _Links:
        had_L = compared.built_L.copy()
        had_L[compared.held_h] = known.holding(compared.content_h)
        counts = ~compared.failed_L & (had_L >= 0) & among(own_L, own_L[fresh_f])
        own, had = own_L[counts], had_L[counts]
        order = np.lexsort((known.group_n[had], own))
        own, had = own[order], had[order]
        there = known.group_n[had]
        first = np.r_[True, (own[1:] != own[:-1]) | (there[1:] != there[:-1])][: len(own)]
        own, had, there = own[first], had[first], there[first]
        low, high = (np.searchsorted(own, own_L[fresh_f], side) for side in ("left", "right"))
        other_f, joined_f = np.full(len(fresh_f), -1, np.int64), own_L[fresh_f]
        one = np.flatnonzero(high - low == 1)
        one = one[there[low[one]] != own[low[one]]]
        other_f[one], joined_f[one] = had[low[one]], there[low[one]]
        return cls(high - low, other_f, joined_f, known.groups(np.unique(other_f[other_f >= 0])))


def _group(table: SourceTable, i: int, had: int, other: tuple[str, str] | None) -> str:
    """Return the name that the store has for the group of a line, which is another one than its own."""
    if had > 1 or other is None or other[0] not in ("", table.dataset[i]):
        raise SourceError(
            f"{table.path[i]}: the store has files of its patient or clip ({table.group[i]}) in {had} groups "
            "of other names, since it was built with another rule. Go on as it was built (--set cache.group=file "
            "for a group a file), or build a new store."
        )
    return other[1]


def _first_patient(table: SourceTable, lines: Ints) -> str | None:
    """Return the path of the first readable source of a patient among some lines, None where there is none."""
    return next((str(table.path[i]) for i in lines.tolist() if not table.error[i] and is_patient(table.group[i])), None)


def _require_told_apart(known: KnownSources, compared: Compared, patient: str) -> None:
    """Refuse a new patient where patients of the store, whose files are not at hand, may be the same.

    Args:
        known: the store's sources.
        compared: the images of a scan.
        patient: path of a source whose group the store does not have.
    """
    dicoms = np.flatnonzero(known.flags_n & IS_DICOM)
    if not len(dicoms):
        return
    here = np.unique(compared.built_L[compared.built_L >= 0])
    gone = dicoms[~among(dicoms, here)]
    for contents in (known.content(here), compared.content_h):
        gone = gone[~among(known.content(gone), contents)]
    if (known.flags_n[gone] & IS_COMPARABLE).all():
        return
    raise SourceError(
        f"{patient}: whether this patient's other files are in the store can't be told: "
        f"{len(gone):,} of its DICOM files are not in this source, and their groups were not named with the "
        f"secret that {KEY_VARIABLE} holds now. Give a source that has them too, or --set cache.group=file, "
        "which makes a group of each file and may put a patient on both sides of the test split. A store that "
        f"grows from folder to folder needs {KEY_VARIABLE} from its first build on."
    )
