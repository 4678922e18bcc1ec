"""Share one build among independent processes, such as tasks of a job array.

Part i of n makes every n-th shard, the i-th first. A part holds a claim of its own, so that it is built once; the scan,
which comes before any shard, is made by whichever part comes first while the others wait. The part that finds all
shards built seals; `usjepa-cache seal` does it when they ended in an unlucky order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.storage.claims import wait_until_free

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usjepa.cache.storage.protocol import Storage

WHOLE = "build"
"""Claim of what must be alone in a store: a whole build, a seal, a repair."""
SETUP = "setup"
"""Claim of the scan and of making layers, for a moment, among parts."""


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `count`."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Return the part that `i/n` means; raises UsageError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        part = cls(int(found[1]), int(found[2])) if found else None
        if part is None or not 1 <= part.number <= part.count:
            raise UsageError(f"--part {text}: give i/n with 1 <= i <= n, for example --part 3/16.")
        return part

    def __str__(self) -> str:
        return f"part {self.number}/{self.count}"

    @property
    def claim(self) -> str:
        """Name of the part's claim."""
        return f"part-{self.number:06d}-of-{self.count:06d}"

    def of(self, shards: Iterable[int]) -> list[int]:
        """Return those shards that are this part's; the parts of one count are disjoint and cover all."""
        return [shard for shard in shards if shard % self.count == self.number - 1]


def refuse_rivals(storage: Storage, mine: str, steal: bool) -> None:
    """Make sure nobody builds what the claim `mine` (already taken) is for; dead rivals' claims are removed.

    Both of two rivals that start together may be refused, never neither.

    Raises:
        ClaimedError: a whole build runs beside a part, parts of another count, or the other way round.
    """
    for name in storage.names("claims"):
        other = name.removesuffix(".json")
        if other not in (mine, SETUP) and _rivals(mine, other):
            wait_until_free(storage, f"claims/{name}", steal)


def _rivals(one: str, other: str) -> bool:
    """Return whether two claims stand for overlapping work."""
    return WHOLE in (one, other) or one.rpartition("-")[2] != other.rpartition("-")[2]
