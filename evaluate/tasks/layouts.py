"""Layouts: how labelled frames lie on disk. A layout turns a folder as it was published into a list of files.

| layout       | recognised by                                         | groups              | splits |
|--------------|-------------------------------------------------------|---------------------|--------|
| `ultrabench` | `test.json` beside `train_val.json` or `train.json`   | `patient`, `source` | theirs |
| `busbra`     | `bus_data.csv` and `Images/`                          | `Case`              | ours   |
| `tn5000`     | `JPEGImages/`, `Annotations/` and `ImageSets/Main/`   | the image           | theirs |
| `plain`      | a manifest CSV, folders per class, or one file        | manifest's, or file | theirs |

A folder that holds several UltraBench tasks gives them all. `LAYOUT=PATH` insists on one of these names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.folders import confined

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from usjepa.cache.recipes.cache import CacheSettings

PHANTOM = "phantom"
_VERSION = re.compile(r"_v\d[\w.]*$")


@dataclass(frozen=True)
class Labelled:
    """One file of a task, and what is known of it."""

    path: str
    """Relative to the task's root, POSIX."""
    label: str
    """Empty for none."""
    group: str
    """Patient or clip; empty where the layout knows none: the file is then a group of its own."""
    split: str
    """As the data names it, lower case; empty for none."""
    masks: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Name of a segmentation -> path of its mask, relative to the root. The scan's own mask is not among them."""
    dataset: str = ""
    """Where one root holds several datasets; empty: the task's name."""


@dataclass(frozen=True)
class TaskFolder:
    """What a layout found: one dataset, or for `plain` all that lie under a root."""

    layout: str
    name: str
    root: Path
    files: tuple[Labelled, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the scores must know of the layout."""
    classified: bool = True
    """Whether its labels are a classification task of the benchmark."""


def recognise(place: str, settings: CacheSettings) -> list[TaskFolder]:
    """Return the tasks at `[LAYOUT=]PATH`.

    Raises:
        UsageError: there is nothing there, it is not of the layout that was named, or what it lists is wrong.
    """
    layout, path = _named(place)
    if path != PHANTOM and not Path(path).exists():
        raise UsageError(f"{place}: no such store, folder or manifest.")
    if layout is not None:
        if not _FITS[layout](Path(path)):
            raise UsageError(f"{place}: not of the layout `{layout}`: {_WANTED[layout]}")
        return _READ[layout](Path(path), settings)
    found = next((name for name, fits in _FITS.items() if name != "plain" and fits(Path(path))), "plain")
    return _READ[found](Path(path), settings)


def looked_for() -> str:
    """Return what makes a folder one of the layouts, for messages about folders that fit none."""
    return " ".join(f"`{name}`: {wanted}" for name, wanted in _WANTED.items())


def task_name(folder: Path) -> str:
    """Return a task's name from its folder's: without UltraBench's version."""
    return _VERSION.sub("", folder.resolve().name) or "task"


def checked(root: Path, path: object, where: str) -> str:
    """Return a listed path, normalised; UsageError where it is none, leaves the root, or names no file."""
    if not isinstance(path, str) or not path:
        raise UsageError(f"{where}: {path!r} is no path.")
    try:
        full = confined(root, path)
    except ValueError as error:
        raise UsageError(f"{where}: path {path!r} is refused: {error}.") from error
    if not full.is_file():
        raise UsageError(f"{where}: {path!r} does not exist in {root}. Is the folder complete?")
    return Path(path).as_posix()


def refuse_twice(files: Sequence[Labelled], where: str) -> None:
    """Refuse a file that is listed twice: it would count twice, or lie in two splits."""
    seen: dict[str, str] = {}
    for file in files:
        if file.path in seen:
            raise UsageError(f"{where}: {file.path!r} is listed twice (splits {seen[file.path]!r} and {file.split!r}).")
        seen[file.path] = file.split


def _named(place: str) -> tuple[str | None, str]:
    """Return the layout that the text insists on, if any, and the path. A path that exists is taken as it stands."""
    name, mark, rest = place.partition("=")
    if not mark or Path(place).exists():
        return None, place
    if name not in _FITS:
        raise UsageError(f"{place}: no layout {name!r}; there are {', '.join(_FITS)}.")
    return name, rest


def _plain(path: Path, settings: CacheSettings) -> list[TaskFolder]:
    """Return what stage one's own listing says: manifests, class folders, single files, the phantom."""
    from usjepa.cache.sources.listing import list_source

    listing = list_source(str(path), settings.model_copy(update={"hash_paths": False}))
    files = tuple(Labelled(e.path, e.label, e.group, e.split, dataset=e.dataset) for e in listing.entries)
    return [TaskFolder("plain", path.stem or "task", listing.root or Path(PHANTOM), files)]


def _ultrabench(path: Path, settings: CacheSettings) -> list[TaskFolder]:
    from usjepa.evaluate.tasks.ultrabench import read_tasks

    del settings
    return read_tasks(path)


def _busbra(path: Path, settings: CacheSettings) -> list[TaskFolder]:
    from usjepa.evaluate.tasks.published import read_busbra

    del settings
    return [read_busbra(path)]


def _tn5000(path: Path, settings: CacheSettings) -> list[TaskFolder]:
    from usjepa.evaluate.tasks.published import read_tn5000

    del settings
    return [read_tn5000(path)]


def _is_ultrabench(path: Path) -> bool:
    from usjepa.evaluate.tasks.ultrabench import task_folders

    return bool(task_folders(path))


_READ: dict[str, Callable[[Path, CacheSettings], list[TaskFolder]]] = {
    "ultrabench": _ultrabench,
    "busbra": _busbra,
    "tn5000": _tn5000,
    "plain": _plain,
}
_FITS: dict[str, Callable[[Path], bool]] = {
    "ultrabench": _is_ultrabench,
    "busbra": lambda path: (path / "bus_data.csv").is_file() and (path / "Images").is_dir(),
    "tn5000": lambda path: all((path / name).is_dir() for name in ("JPEGImages", "Annotations", "ImageSets/Main")),
    "plain": lambda path: True,
}
_WANTED = {
    "ultrabench": "`test.json` beside `train_val.json` or `train.json`, in the folder or in folders within it.",
    "busbra": "`bus_data.csv` beside `Images/`.",
    "tn5000": "`JPEGImages/`, `Annotations/` and `ImageSets/Main/`.",
    "plain": "`manifest.csv` with a column `label`, or a folder per class.",
}
