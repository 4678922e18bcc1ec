"""Hold the names in the folders beside each other packed, in their order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from usjepa.cache.places.packed import Packed

Names = tuple[Sequence[str], Sequence[str]]
"""Names of the files and of the folders in a folder, sorted."""

_MANY = 1 << 16
"""More names than this are packed."""
_MOST_RUNS = 8
_NUL = "\0"


def in_order(names: Packed[str]) -> Sequence[str]:
    """Return names sorted; many are never held unpacked at once."""
    return names.in_order(str) if len(names) > _MANY else tuple(sorted(names))


class Siblings:
    """What lies in the folders of one folder, of those that were added, as records that are packed.

    Two million patients' folders beside each other, of three files each, took 770 bytes a folder as texts.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        """One where all are asked for in their order; another where one was asked for before its turn."""

    def add(self, name: str, names: Names) -> bool:
        """Hold the names in a folder; return whether they are held: not very many, nor of folders in a wild order."""
        files, folders = names
        if isinstance(files, Packed) or isinstance(folders, Packed):
            return False
        run = next((run for run in self._runs if name > run.last), None)
        if run is None:
            if len(self._runs) == _MOST_RUNS:
                return False
            run = _Run(name)
            self._runs.append(run)
        run.last = name
        run.records.append(f"{name}/{_NUL.join(files)}/{_NUL.join(folders)}")
        return True

    def find(self, name: str) -> Names | None:
        """Return the names in a folder that was added, None for another; cheapest in the folders' order."""
        return next((found for run in self._runs if (found := run.find(name)) is not None), None)


class _Run:
    """Records in ascending order of their folders."""

    def __init__(self, name: str) -> None:
        self.first = self.last = name
        self.records: Packed[str] = Packed(str)
        """`name/files/folders`, names parted by NUL: neither character may be in one."""
        self._next = 0

    def find(self, name: str) -> Names | None:
        if not self.first <= name <= self.last:
            return None
        place = self._next % len(self.records)
        if not self.records[place].startswith(f"{name}/"):
            place = bisect_left(self.records, name, key=lambda record: record.partition("/")[0])
        self._next = place + 1
        own, files, folders = self.records[place].split("/")
        return (_parted(files), _parted(folders)) if own == name else None


def _parted(names: str) -> tuple[str, ...]:
    return tuple(names.split(_NUL)) if names else ()
