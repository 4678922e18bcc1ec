"""Recognise how labelled frames lie on disk, and read them.

| layout       | recognised by                                         | groups              | splits |
|--------------|-------------------------------------------------------|---------------------|--------|
| `ultrabench` | `test.json` beside `train_val.json` or `train.json`   | `patient`, `source` | theirs |
| `busbra`     | `bus_data.csv` and `Images/`                          | `Case`              | ours   |
| `tn5000`     | `JPEGImages/`, `Annotations/` and `ImageSets/Main/`   | the image           | theirs |
| `masks`      | `images/` beside `masks/`, without a manifest         | the image           | theirs |
| `plain`      | a manifest CSV, folders per class, or one file        | manifest's, or file | theirs |

A folder that holds several UltraBench tasks gives them all. A manifest comes before all layouts of this table, as when
it is scanned. `LAYOUT=PATH` insists on one of these names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError, UsjepaError
from usjepa.cache.sources.base import PHANTOM
from usjepa.evaluate.extensions import Registry, raised_at
from usjepa.evaluate.tasks.base import Labelled, TaskFolder
from usjepa.evaluate.tasks.measurements import manifest_of
from usjepa.evaluate.tasks.published.busbra import BusBra
from usjepa.evaluate.tasks.published.image_masks import MASK, ImagesAndMasks, manifest_masks, mask_names
from usjepa.evaluate.tasks.published.tn5000 import Tn5000
from usjepa.evaluate.tasks.published.ultrabench import UltraBench

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.evaluate.tasks.base import Layout


class Plain:
    """Whatever stage one lists by itself: manifests, class folders, single files, the phantom."""

    name = "plain"
    wanted = "`manifest.csv` with a column `label`, or a folder per class."

    def fits(self, path: Path) -> bool:
        """Return True: a path that is of no other layout is read as a plain one."""
        del path
        return True

    def read(self, path: Path, settings: CacheSettings) -> list[TaskFolder]:
        """Return all that lies there, as one folder of possibly several datasets."""
        from usjepa.cache.scanning.scan import list_source

        listing = list_source(str(path), settings.model_copy(update={"hash_paths": False}))
        masks = manifest_masks(path)
        files = tuple(
            Labelled(e.path, e.label, e.group, e.split, {MASK: masks[e.path]} if e.path in masks else {}, e.dataset)
            for e in listing.entries
        )
        _refuse_images_and_masks(path, files)
        root = listing.root or Path(PHANTOM)
        return [TaskFolder(self.name, path.stem or "task", root, files, mask_names=mask_names(path))]


_DEEPEST, _MOST_FOLDERS, _NAMED = 3, 2000, 5
"""How far down published tasks are looked for, in how many folders a level, and how many are named."""
_OF_MASKS = frozenset(
    {"mask", "masks", "scan", "segmentation", "segmentations", "seg", "annotation", "annotations", "labels", "gt"}
)
_NO_CLASSES = _OF_MASKS | {"image", "images", "img", "imgs", "frame", "frames"}
"""Names of folders that hold images or masks, and no class."""
_PLAIN = Plain()
_BUILT_IN: tuple[Layout, ...] = (UltraBench(), BusBra(), Tn5000(), ImagesAndMasks())

LAYOUTS: Registry[Layout] = Registry("usjepa.layouts", ("name", "wanted", "fits", "read"), _BUILT_IN)
"""All but `plain`, by name, in the order in which a path is tried against them."""


def register_layout(layout: Layout) -> None:
    """Add a layout to this process; UsageError where its name is taken or an attribute is missing."""
    if layout.name == _PLAIN.name:
        raise UsageError(f"{LAYOUTS.group}: {layout.name!r} is the layout of what no other recognises.")
    LAYOUTS.register(layout)


def recognise(place: str, settings: CacheSettings) -> list[TaskFolder]:
    """Return the tasks at `[LAYOUT=]PATH`.

    Raises:
        UsageError: there is nothing there, it is not of the layout that was named, or what it lists is wrong.
    """
    known = _all()
    name, path = _named(place, known)
    if path != PHANTOM and not Path(path).exists():
        raise UsageError(f"{place}: no such store, folder or manifest.")
    layout = _fitting(Path(path), known) if name is None else known[name]
    if name is None and layout is _PLAIN and manifest_of(Path(path)) is None:
        _refuse_too_far_up(Path(path))
    if not layout.fits(Path(path)):
        raise UsageError(f"{place}: not of the layout `{layout.name}`: {layout.wanted}")
    if layout.name in (_PLAIN.name, *(one.name for one in _BUILT_IN)):
        return layout.read(Path(path), settings)
    try:
        return layout.read(Path(path), settings)
    except UsjepaError:
        raise
    except Exception as error:  # other people's code raises any type there is
        raise UsageError(f"{place}: layout `{layout.name}` failed{raised_at(error)}: {error!r}") from error


def _fitting(path: Path, known: Mapping[str, Layout]) -> Layout:
    """Return the layout of a path. A manifest is the user's own word, which no published layout passes over."""
    passed = _BUILT_IN if manifest_of(path) is not None else ()
    return next(one for one in known.values() if one not in passed and one.fits(path))


def _refuse_too_far_up(path: Path) -> None:
    """Raise UsageError for a folder that holds published tasks further down: read plainly they would be others."""
    if not path.is_dir():
        return
    found: list[str] = []
    level = [path]
    for _ in range(_DEEPEST):
        level = [folder for above in level for folder in _folders_in(above)][:_MOST_FOLDERS]
        for folder in level:
            layout = next((one for one in _BUILT_IN if one.fits(folder)), None)
            found += [f"{folder.relative_to(path).as_posix()} ({layout.name})"] if layout is not None else []
        if found:
            break
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise UsageError(
            f"{path}: holds published tasks further down: {', '.join(found[:_NAMED])}{more}. Name such a folder "
            "itself; this one as a whole would be another task."
        )


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink())
    except OSError:
        return []  # what can't be listed is refused where its files are


def _refuse_images_and_masks(path: Path, files: tuple[Labelled, ...]) -> None:
    """Raise UsageError where the classes would be images and masks: no encoder has trouble telling them apart."""
    labels = {file.label.lower() for file in files if file.label}
    if len(labels) > 1 and labels <= _NO_CLASSES and labels & _OF_MASKS:
        raise UsageError(
            f"{path}: its folders {', '.join(sorted(labels))} would be the classes, and they are images and masks. "
            "Name the folder of a task, one of images in a folder per class, or a manifest CSV with a column `label`."
        )


def known_layouts() -> str:
    """Return what makes a folder one of the layouts, for messages about folders that fit none."""
    return " ".join(f"`{layout.name}`: {layout.wanted}" for layout in _all().values())


def _all() -> dict[str, Layout]:
    """Return every layout; `plain` takes what no other recognises, so it comes last."""
    return {**LAYOUTS.all(), _PLAIN.name: _PLAIN}


def _named(place: str, known: dict[str, Layout]) -> tuple[str | None, str]:
    """Return the layout that the text insists on, if any, and the path. A path that exists is taken as it stands."""
    name, mark, rest = place.partition("=")
    if not mark or Path(place).exists():
        return None, place
    if name not in known:
        raise UsageError(f"{place}: no layout {name!r}; there are {', '.join(known)}.")
    return name, rest
