"""Recognise how labelled frames lie on disk, and read them.

| layout       | recognised by                                         | groups              | splits |
|--------------|-------------------------------------------------------|---------------------|--------|
| `ultrabench` | `test.json` beside `train_val.json` or `train.json`   | `patient`, `source` | theirs |
| `busbra`     | `bus_data.csv` and `Images/`                          | `Case`              | ours   |
| `tn5000`     | `JPEGImages/`, `Annotations/` and `ImageSets/Main/`   | the image           | theirs |
| `plain`      | a manifest CSV, folders per class, or one file        | manifest's, or file | theirs |

A folder that holds several UltraBench tasks gives them all. `LAYOUT=PATH` insists on one of these names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError, UsjepaError
from usjepa.cache.sources.base import PHANTOM
from usjepa.evaluate.extensions import Registry, raised_at
from usjepa.evaluate.tasks.base import Labelled, TaskFolder
from usjepa.evaluate.tasks.busbra import BusBra
from usjepa.evaluate.tasks.tn5000 import Tn5000
from usjepa.evaluate.tasks.ultrabench import UltraBench

if TYPE_CHECKING:
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
        files = tuple(Labelled(e.path, e.label, e.group, e.split, dataset=e.dataset) for e in listing.entries)
        return [TaskFolder(self.name, path.stem or "task", listing.root or Path(PHANTOM), files)]


_PLAIN = Plain()
_BUILT_IN: tuple[Layout, ...] = (UltraBench(), BusBra(), Tn5000())

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
    layout = next(one for one in known.values() if one.fits(Path(path))) if name is None else known[name]
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
