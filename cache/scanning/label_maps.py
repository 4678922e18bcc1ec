"""Find label maps by their few grey levels and the image beside them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.places.packed import fields_of
from usjepa.cache.sources.registry import folders_of, without_ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from usjepa.cache.scanning.scanned import Line
    from usjepa.cache.sources.base import Entry

FEWEST_LEVELS = 8
"""Grey levels below which a picture shows no echo: a label map, a form, a test pattern."""
_JOINTS = " _.-("
"""What stands between the name of an image and what it is called besides."""


def label_maps(entries: Sequence[Entry], lines: Sequence[Line]) -> dict[int, int]:
    """Return which sources are label maps of which: place -> place of the image.

    A source of fewer than 8 levels is one where another of the same size with more levels has the same name in another
    folder, or the same name up to `_`, `-`, a point or a space.
    """

    def told() -> Iterator[tuple[int, str, int | None, tuple[int, int]]]:
        facts = fields_of(lines, "facts.frames", "facts.levels", "facts.height", "facts.width")
        for place, ((frames, levels, *size), (path,)) in enumerate(zip(facts, fields_of(entries, "path"), strict=True)):
            if frames:
                yield place, path, levels, (size[0], size[1])

    few = {
        place: (_names(_stem(path)), size)
        for place, path, levels, size in told()
        if levels is not None and levels < FEWEST_LEVELS
    }
    wanted = {name for names, _ in few.values() for name in names}
    images: dict[str, list[tuple[int, tuple[int, int]]]] = {}
    for place, path, levels, size in told() if few else ():
        if (levels or 0) >= FEWEST_LEVELS and (stem := _stem(path)) in wanted:
            images.setdefault(stem, []).append((place, size))
    found = {}
    for place, (names, size) in few.items():
        twins = (twin for name in names for twin in images.get(name, ()))
        image = next((twin for twin, its_size in twins if its_size == size), None)
        if image is not None:
            found[place] = image
    return found


def _stem(path: str) -> str:
    name = PurePosixPath(folders_of(path)).name
    short = without_ending(name)
    return (short if short != name else PurePosixPath(name).stem).lower()


def _names(stem: str) -> list[str]:
    """Return a name and its beginnings up to a joint, the longest first."""
    ends = [place for place, letter in enumerate(stem) if place and letter in _JOINTS]
    return [stem, *(stem[:end].rstrip(_JOINTS) for end in reversed(ends))]
