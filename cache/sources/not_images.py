"""Leave out what is no image: masks, thumbnails, folders that systems make.

Masks and thumbnails are told by their names, and only where the image that they belong to lies beside them: a class of
images called `mask` stays. What names don't tell, the scan tells by few grey levels (`scanning/label_maps.py`). Files
that a manifest names are never left out.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from usjepa.cache.sources.registry import without_ending

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
_IMAGES = re.compile(
    r"(?:.*[ _-])?(?:images?|imgs?|frames?|originals?|inputs?|us|bmode|jpe?g|png)(?:T[rs])?(?:[ _-].*)?", re.I
)
"""Folders of images beside a folder of masks, whose files may be called differently; nnU-Net's are `imagesTr`."""


def is_system_folder(name: str) -> bool:
    """Return whether a system made a folder of that name."""
    return name.lower() in _SYSTEM_FOLDERS


def beside_images(paths: Sequence[str]) -> dict[str, str]:
    """Return the paths that are masks or thumbnails of others among them: path -> kind.

    Args:
        paths: POSIX, relative to one root.
    """
    found: dict[str, str] = {}
    for kind, words in _KINDS.items():
        hint = re.compile(words, re.I)
        suspects = [path for path in paths if hint.search(path)]
        if suspects:
            found |= dict.fromkeys(_by_name(suspects, paths, words), kind)
            found |= dict.fromkeys(_by_folder(suspects, paths, words), kind)
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


def _placed(path: str) -> tuple[str, str]:
    """Return a file's folder, and its name in lower case without the ending, `.nii.gz` being one."""
    folder, _, name = path.rpartition("/")
    short = without_ending(name)
    return folder, (short if short != name else name.rpartition(".")[0] or name).lower()


def _by_name(suspects: Sequence[str], paths: Sequence[str], words: str) -> Iterable[str]:
    """Yield `x_mask`, `x (mask 2)` and `mask_x` where there is an `x` in the same folder."""
    behind = re.compile(rf"(?P<of>.+?)[ _.-]+\(?(?:{words}){_COPY}\)?", re.I)
    before = re.compile(rf"(?:{words})[ _.-]+(?P<of>.+)", re.I)

    def images_of(path: str) -> list[tuple[str, str]]:
        folder, stem = _placed(path)
        named = [form.fullmatch(stem) for form in (behind, before)]
        return [(folder, match["of"]) for match in named if match]

    wanted = {image for path in suspects for image in images_of(path)}
    there = {image for path in paths if wanted and (image := _placed(path)) in wanted}
    for path in suspects:
        if any(image in there for image in images_of(path)):
            yield path


def _by_folder(suspects: Sequence[str], paths: Sequence[str], words: str) -> Iterable[str]:
    """Yield the files of a folder called so which has beside it a folder of images, or files of the same names."""
    called = re.compile(rf"(?:.*[ _-])?(?:{words})(?:T[rs])?(?:[ _-].*)?", re.I)
    above = {path: [at for at, name in _folders(path) if called.fullmatch(name)] for path in suspects}
    beside: dict[str, set[str]] = {at: set() for places in above.values() for at in places}
    siblings: dict[str, set[str]] = {at: set() for at in beside}
    for path in paths if beside else ():
        if above.get(path):
            continue
        stem = _placed(path)[1]
        for at, name in (*_folders(path), (path.rpartition("/")[0], "")):
            if at in beside:
                beside[at].add(stem)
                siblings[at].add(name)
    for path, places in above.items():
        names = _without(_placed(path)[1], words)
        if any(names & beside[at] or any(_IMAGES.fullmatch(name) for name in siblings[at]) for at in places):
            yield path


def _folders(path: str) -> list[tuple[str, str]]:
    """Return each folder that a file lies in, as (the folder above it, its name)."""
    parts = path.split("/")[:-1]
    return [("/".join(parts[:depth]), name) for depth, name in enumerate(parts)]


def _without(stem: str, words: str) -> set[str]:
    """Return the names that the image of a mask may have: its own, and that without the word."""
    shorter = re.sub(rf"(?:^(?:{words})[ _.-]+)|(?:[ _.-]+(?:{words}){_COPY}$)", "", stem, flags=re.I)
    return {stem, shorter}
