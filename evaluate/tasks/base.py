"""Define what a layout is and what it returns: the labelled files of a task.

A layout turns a folder as it was published into a list of files; see `layouts.py` for those there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from usjepa.cache.errors import UsageError
from usjepa.cache.sources.folders import confined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from usjepa.cache.recipes.cache import CacheSettings


@dataclass(frozen=True)
class Labelled:
    """One file of a task with its label, group, split and masks."""

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
    """The files of one task, or for `plain` of all datasets under a root."""

    layout: str
    name: str
    root: Path
    files: tuple[Labelled, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the scores must know of the layout."""
    classified: bool = True
    """Whether its labels are a classification task of the benchmark."""
    mask_names: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Value of a mask -> its name, where the data tells."""


class Layout(Protocol):
    """How labelled frames lie on disk: what recognises it, and what reads it."""

    @property
    def name(self) -> str:
        """The NAME of `--task NAME=PATH`."""
        ...

    @property
    def wanted(self) -> str:
        """What makes a folder one of these, as a sentence for messages about folders that are none."""
        ...

    def fits(self, path: Path) -> bool:
        """Return whether a path is of this layout; looks at names alone, so that trying every layout is cheap."""
        ...

    def read(self, path: Path, settings: CacheSettings) -> list[TaskFolder]:
        """Return the tasks at a path that fits.

        Args:
            path: the folder or file.
            settings: of stage one: how its own listing reads manifests and class folders.

        Raises:
            UsageError: what the folder lists is wrong; file and line or item are named.
        """
        ...


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
