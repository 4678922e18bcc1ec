"""Tell stores apart by short names, in messages and in a run's record.

A name is the last part of the place. The whole place may name a user or a bucket, and records are published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def short_names(locations: Sequence[str]) -> tuple[str, ...]:
    """Return a name for each store: the last part of its place, with its number where two would have the same."""
    last = [location.rstrip("/").rpartition("/")[2] or location for location in locations]
    return tuple(name if last.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(last, start=1))
