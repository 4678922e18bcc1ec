"""Keep the groups and splits that a store has, when files are added to it.

Rows that are built can't change group or split. So a new file joins the group in which the store has the other files of
its patient or clip, whatever that group was called then, and shares its side of the test split. What can't be decided
is refused: a patient on both sides would make every score too good, and nobody would see it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from usjepa.cache.errors import SourceError
from usjepa.cache.sources.patients import KEY_VARIABLE, comparable, group_key, is_patient
from usjepa.cache.sources.reader import name_of
from usjepa.cache.sources.splits import TEST, canonical

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.store.tables import SourceTable

SourceKey = tuple[str, str]
"""Dataset and path of a source."""
_GroupKey = tuple[str, str]


@dataclass
class KnownGroups:
    """The groups of a store's readable sources."""

    of_source: dict[SourceKey, _GroupKey] = field(default_factory=dict)
    of_content: dict[str, _GroupKey] = field(default_factory=dict)
    is_test: dict[_GroupKey, bool] = field(default_factory=dict)
    dicoms: dict[SourceKey, tuple[str, str]] = field(default_factory=dict)
    """Content and group of DICOM files."""
    _keys: dict[_GroupKey, _GroupKey] = field(default_factory=dict)
    """Each group's key as one object."""

    @classmethod
    def of(cls, tables: Iterable[SourceTable]) -> KnownGroups:
        """Return the groups of the tables of segments."""
        known = cls()
        for table in tables:
            known.add(table)
        return known

    def add(self, table: SourceTable) -> None:
        """Take in the groups of a segment's table, or of a part of it."""
        columns = (table.dataset, table.path, table.group, table.split, table.content_hash, table.reader)
        for dataset, path, group, split, content, reader in _lines(table.error == "", *columns):
            found = group_key(dataset, group)
            key = self._keys.setdefault(found, found)
            self.of_source[dataset, path] = self.of_content[content] = key
            self.is_test[key] = self.is_test.get(key, False) or canonical(split) == TEST
            if name_of(reader) == "dicom":
                self.dicoms[dataset, path] = content, group

    def joined(self, table: SourceTable, fresh: NDArray[np.int64], asked: Collection[SourceKey]) -> SourceTable:
        """Return a scan's table, in which new sources have the groups and sides of the store.

        Args:
            table: what a scan found, splits assigned.
            fresh: lines of the sources that the store does not have.
            asked: sources that the data itself marks `test`.

        Raises:
            SourceError: the store has files of one patient in several groups, or on the other side of the test split;
                or it can't be told whether it has the patient at all.
        """
        if not self.of_source or not len(fresh):
            return table
        links = self._links(table)
        group, split = table.group.copy(), table.split.copy()
        for i in fresh.tolist():
            if table.error[i]:
                continue
            group[i] = self._group(table, i, links)
            key = group_key(table.dataset[i], group[i])
            if key not in self.is_test:
                continue
            mine = (table.dataset[i], table.path[i])
            if self.is_test[key]:
                split[i] = TEST
            elif mine in asked:
                raise SourceError(
                    f"{table.path[i]}: it is marked `test`, but the store has rows of its group ({group[i]}) for "
                    "training, and they can't change. Build a new store, or leave the file out."
                )
            elif split[i] == TEST:
                split[i] = ""  # drawn for testing with a share that was not asked for when the others were built
        self._require_told_apart(table, fresh, group)
        return replace(table, group=group, split=split)

    def _links(self, table: SourceTable) -> dict[_GroupKey, set[_GroupKey]]:
        """Return under which names the store has the groups that a scan finds."""
        links: dict[_GroupKey, set[_GroupKey]] = defaultdict(set)
        for dataset, path, group, content in _lines(
            table.error == "", table.dataset, table.path, table.group, table.content_hash
        ):
            had = self.of_source.get((dataset, path)) or self.of_content.get(content)
            if had is not None:
                links[group_key(dataset, group)].add(had)
        return links

    @staticmethod
    def _group(table: SourceTable, i: int, links: dict[_GroupKey, set[_GroupKey]]) -> str:
        had = links.get(group_key(table.dataset[i], table.group[i]), set())
        if not had:
            return str(table.group[i])
        dataset, group = next(iter(had))
        if len(had) > 1 or dataset not in ("", table.dataset[i]):
            raise SourceError(
                f"{table.path[i]}: the store has files of its patient or clip ({table.group[i]}) in {len(had)} groups "
                "of other names, since it was built with another rule. Go on as it was built (--set cache.group=file "
                "for a group a file), or build a new store."
            )
        return group

    def _require_told_apart(self, table: SourceTable, fresh: NDArray[np.int64], group: NDArray[np.object_]) -> None:
        """Refuse new patients where patients of the store, whose files are not at hand, may be the same."""
        here, contents = set(zip(table.dataset, table.path, strict=True)), set(table.content_hash)
        gone = [g for key, (content, g) in self.dicoms.items() if key not in here and content not in contents]
        if all(comparable(g) for g in gone):
            return
        new = [i for i in fresh.tolist() if not table.error[i] and is_patient(group[i])]
        new = [i for i in new if group_key(table.dataset[i], group[i]) not in self.is_test]
        if new:
            raise SourceError(
                f"{table.path[new[0]]}: whether this patient's other files are in the store can't be told: "
                f"{len(gone):,} of its DICOM files are not in this source, and their groups were not named with the "
                f"secret that {KEY_VARIABLE} holds now. Give a source that has them too, or --set cache.group=file, "
                "which makes a group of each file and may put a patient on both sides of the test split. A store that "
                f"grows from folder to folder needs {KEY_VARIABLE} from its first build on."
            )


def _lines(mask: NDArray[np.bool_], *columns: NDArray[np.object_]) -> Iterable[tuple[str, ...]]:
    return zip(*(column[mask].tolist() for column in columns), strict=True)
