"""Find label maps by their few grey levels and the image beside them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.sources.registry import folders_of, without_ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.sources.base import Entry, FileFacts

FEWEST_LEVELS = 8
"""Grey levels below which a picture shows no echo: a label map, a form, a test pattern."""
_JOINTS = " _.-("
"""What stands between the name of an image and what it is called besides."""


def label_maps(entries: Sequence[Entry], facts: Sequence[FileFacts]) -> dict[int, int]:
    """Return which sources are label maps of which: place -> place of the image.

    A source of fewer than 8 levels is one where another of the same size with more levels has the same name in another
    folder, or the same name up to `_`, `-`, a point or a space.
    """
    images: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        if (facts[place].levels or 0) >= FEWEST_LEVELS:
            images.setdefault(_stem(entry.path), []).append(place)
    found = {}
    for place, entry in enumerate(entries):
        levels, size = facts[place].levels, (facts[place].height, facts[place].width)
        if levels is None or levels >= FEWEST_LEVELS or not facts[place].frames:
            continue
        twins = (twin for name in _names(_stem(entry.path)) for twin in images.get(name, ()))
        twin = next((t for t in twins if (facts[t].height, facts[t].width) == size), None)
        if twin is not None:
            found[place] = twin
    return found


def _stem(path: str) -> str:
    name = PurePosixPath(folders_of(path)).name
    short = without_ending(name)
    return (short if short != name else PurePosixPath(name).stem).lower()


def _names(stem: str) -> list[str]:
    """Return a name and its beginnings up to a joint, the longest first."""
    ends = [place for place, letter in enumerate(stem) if place and letter in _JOINTS]
    return [stem, *(stem[:end].rstrip(_JOINTS) for end in reversed(ends))]
