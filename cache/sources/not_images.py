"""Leave out what is no image: masks, thumbnails, folders that systems make.

Masks and thumbnails are told by their names, and only where the image that they belong to lies beside them: a class of
images called `mask` stays. What names don't tell, the scan tells by few grey levels (`scanning/label_maps.py`). Files
that a manifest names are never left out.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from usjepa.cache.sources.registry import ending_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SYSTEM_FOLDERS = {
    *("@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "~snapshot", "$recycle.bin"),
    *("recycler", "system volume information", "lost+found", "lost.dir", "found.000", "__macosx", "__pycache__"),
    *("$extend", "msocache", "network trash folder", "temporary items"),
}
"""Folders of Synology, QNAP, NetApp, Windows, Linux, Android and macOS that hold thumbnails or what was deleted."""

_MASK = (
    r"masks?|labels?|label_?maps?|seg|segs|segmentations?|gt|gts|ground_?truths?|annotations?|annotated|anno|overlays?"
)
_THUMBNAIL = r"thumbs?|thumbnails?|tn|preview"
_KINDS = {"masks and label maps": _MASK, "thumbnails": _THUMBNAIL}
_COPY = r"(?:[ _.-]?\d+)?"
"""Several masks of one image are numbered."""
_IMAGES = re.compile(r"(?:.*[ _-])?(?:images?|imgs?|frames?|originals?|inputs?|us|bmode|jpe?g|png)(?:[ _-].*)?", re.I)
"""Folders of images beside a folder of masks, whose files may be called differently."""


def is_system_folder(name: str) -> bool:
    """Return whether a system made a folder of that name."""
    return name.lower() in _SYSTEM_FOLDERS


def beside_images(paths: Sequence[str]) -> dict[str, str]:
    """Return the paths that are masks or thumbnails of others among them: path -> kind.

    Args:
        paths: POSIX, relative to one root.
    """
    stems = {path: _stem(path) for path in paths}
    found: dict[str, str] = {}
    for kind, words in _KINDS.items():
        found |= dict.fromkeys(_by_name(stems, words), kind) | dict.fromkeys(_by_folder(stems, words), kind)
    return found


def notes_on(left_out: dict[str, str], system: Counter[str], hidden: bool) -> list[str]:
    """Return a note for the user per kind of what was left out; without names of files where these are hidden."""
    notes = []
    for kind, count in sorted(Counter(left_out.values()).items()):
        first = "" if hidden else f" (such as {next(path for path, of in left_out.items() if of == kind)})"
        notes.append(f"{kind} beside images were left out: {count:,}{first}. A manifest that names them takes them.")
    if system:
        named = ", ".join(f"{count:,} {name}" for name, count in sorted(system.items()))
        notes.append(f"folders that systems make were left out: {named}.")
    return notes


def _stem(path: str) -> str:
    name = PurePosixPath(path).name
    return name.removesuffix(ending_of(name)).lower()


def _by_name(stems: dict[str, str], words: str) -> Iterable[str]:
    """Yield `x_mask`, `x (mask 2)` and `mask_x` where there is an `x` in the same folder."""
    behind = re.compile(rf"(?P<of>.+?)[ _.-]+\(?(?:{words}){_COPY}\)?", re.I)
    before = re.compile(rf"(?:{words})[ _.-]+(?P<of>.+)", re.I)
    there = {(PurePosixPath(path).parent, stem) for path, stem in stems.items()}
    for path, stem in stems.items():
        folder = PurePosixPath(path).parent
        named = [form.fullmatch(stem) for form in (behind, before)]
        if any(match and (folder, match["of"]) in there for match in named):
            yield path


def _by_folder(stems: dict[str, str], words: str) -> Iterable[str]:
    """Yield the files of a folder called so which has beside it a folder of images, or files of the same names."""
    called = re.compile(rf"(?:.*[ _-])?(?:{words})(?:[ _-].*)?", re.I)
    beside: dict[PurePosixPath, set[str]] = {}
    siblings: dict[PurePosixPath, set[str]] = {}
    for path, stem in stems.items():
        parts = PurePosixPath(path).parts
        if any(called.fullmatch(part) for part in parts[:-1]):
            continue
        for depth in range(len(parts)):
            above = PurePosixPath(*parts[:depth])
            beside.setdefault(above, set()).add(stem)
            siblings.setdefault(above, set()).update(parts[depth:-1][:1])
    for path, stem in stems.items():
        parts = PurePosixPath(path).parts
        for depth, part in enumerate(parts[:-1]):
            above = PurePosixPath(*parts[:depth])
            if called.fullmatch(part) and (
                _without(stem, words) & beside.get(above, set())
                or any(_IMAGES.fullmatch(name) for name in siblings.get(above, ()))
            ):
                yield path
                break


def _without(stem: str, words: str) -> set[str]:
    """Return the names that the image of a mask may have: its own, and that without the word."""
    shorter = re.sub(rf"(?:^(?:{words})[ _.-]+)|(?:[ _.-]+(?:{words}){_COPY}$)", "", stem, flags=re.I)
    return {stem, shorter}
