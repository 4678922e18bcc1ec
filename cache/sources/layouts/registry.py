"""Try the layouts on a folder, and say what was recognised."""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError, UsjepaError
from usjepa.cache.sources.layouts.base import Folder, Listed, Row, SourceLayout
from usjepa.cache.sources.layouts.breast import BusBra, Busi
from usjepa.cache.sources.layouts.camus import Camus
from usjepa.cache.sources.layouts.coco import Coco
from usjepa.cache.sources.layouts.echonet import EchoNet
from usjepa.cache.sources.layouts.huggingface import HuggingFace
from usjepa.cache.sources.layouts.manifest import Manifest
from usjepa.cache.sources.layouts.path_lists import PathLists
from usjepa.cache.sources.layouts.ultrabench import UltraBench
from usjepa.cache.sources.layouts.voc import Voc
from usjepa.cache.sources.registry import accepted, reader_of_file, split_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AUTO, FOLDERS = "auto", "folders"
_GROUP = "usjepa.source_layouts"
"""Entry point group in which packages name their layouts: values are classes or objects."""
_BUILT_IN: tuple[SourceLayout, ...] = (
    Manifest(), UltraBench(), EchoNet(), Camus(), Voc(), Coco(), HuggingFace(), Busi(), BusBra(), PathLists(),
)  # fmt: skip
"""In the order in which a folder is tried against them."""
_PARTS = ("name", "title", "recognises", "rows")


@cache
def layouts() -> Mapping[str, SourceLayout]:
    """Return all layouts by name; UsageError where a package's can't be imported, is not valid or takes a name."""
    found: dict[str, SourceLayout] = {}
    for layout in (*_BUILT_IN, *_installed()):
        if not all(hasattr(layout, part) for part in _PARTS):
            raise UsageError(f"{_GROUP}: {layout!r} is no layout; it needs {', '.join(_PARTS)}.")
        if layout.name in found or layout.name in (AUTO, FOLDERS):
            raise UsageError(f"{_GROUP}: another layout is called {layout.name!r} already.")
        found[layout.name] = layout
    return found


def recognise(folder: Folder, wanted: str) -> SourceLayout | None:
    """Return the layout of a folder; None where it is of none.

    Raises:
        UsageError: `wanted`, a value of `cache.layout`, names no layout; or a list of the folder can't be read.
    """
    if wanted == FOLDERS:
        return None
    if wanted != AUTO and wanted not in layouts():
        raise UsageError(f"cache.layout={wanted}: there is none called so; there are {', '.join(_names())}.")
    tried = layouts().values() if wanted == AUTO else [layouts()[wanted]]
    return next((layout for layout in tried if layout.recognises(folder)), None)


def listed(layout: SourceLayout, folder: Folder) -> Listed:
    """Return what a layout lists in a folder, with a first note that says what was recognised.

    Raises:
        UsageError: what it lists is wrong, not there, or of a kind that is not read.
    """
    try:
        found = layout.rows(folder)
    except UsjepaError:
        raise
    except Exception as error:  # other people's code raises any type there is
        raise UsageError(f"{folder.path}: layout `{layout.name}` failed: {error!r}") from error
    if not found.rows:
        raise UsageError(f"{folder.path}: {layout.title}, and it lists no file that is there.")
    _require_read(layout, folder, found.rows)
    extra = () if found.is_complete else _left_out(folder, found.rows)
    return Listed(found.rows, found.splits, found.groups, (_line(layout, folder, found), *found.notes, *extra))


def _line(layout: SourceLayout, folder: Folder, found: Listed) -> str:
    counts = Counter(row.split for row in found.rows)
    splits = ", ".join(f"{name or 'without'} {count:,}" for name, count in sorted(counts.items()))
    return (
        f"{folder.place or folder.name} is read as {layout.title}: {len(found.rows):,} files; "
        f"splits: {found.splits} ({splits}); groups: {found.groups}."
    )


def _require_read(layout: SourceLayout, folder: Folder, rows: Sequence[Row]) -> None:
    """Refuse a layout whose files no reader takes: leaving some out would be a different data set."""
    unread = [row.path for row in rows if reader_of_file(folder.path / split_path(row.path)[0]) is None]
    if unread:
        raise UsageError(
            f"{folder.path}: {layout.title}, of which {len(unread):,} of {len(rows):,} files are of a kind that is not "
            f"read, such as {unread[0]}. Convert them, or add a reader. Read are: {accepted()}."
        )


def _left_out(folder: Folder, rows: Sequence[Row]) -> tuple[str, ...]:
    """Return a note on files that could be read and are not listed: masks above all."""
    taken = {split_path(row.path)[0] for row in rows}
    others = [path for path in folder.tree if path not in taken and reader_of_file(folder.path / path) is not None]
    regions = {row.region for row in rows if row.region}
    rest = [path for path in others if path not in regions]
    told = [f"{len(regions):,} masks of the scan are no frames."] if regions else []
    if rest:
        told.append(f"{len(rest):,} other files that it does not list are left out, such as {rest[0]}.")
    return tuple(told)


def _names() -> list[str]:
    return [AUTO, FOLDERS, *layouts()]


def _installed() -> list[SourceLayout]:
    found = []
    for point in sorted(entry_points(group=_GROUP), key=lambda point: point.name):
        try:
            loaded = point.load()
            found.append(loaded() if isinstance(loaded, type) else loaded)
        except Exception as error:  # importing another package's module can raise anything
            raise UsageError(f"{_GROUP}: {point.name} ({point.value}) can't be loaded: {error!r}.") from error
    return found
