"""Describe what a build is to do, beside its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.sources.base import PHANTOM

if TYPE_CHECKING:
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing


@dataclass(frozen=True)
class BuildRequest:
    """Where a build takes its rows and its teacher from, and how the work is shared out."""

    source: str | None = None
    """Folder, file, manifest CSV or `phantom`; none: the recipe's own, and once all pixels are built none is needed."""
    teacher: str | None = None
    """What `resolve_teacher` takes; none: pixels and regions only."""
    reference: str | None = None
    """File of pixels and tokens from the code of the teacher's authors; the teacher must give these tokens."""
    on_error: str | None = None
    """"stop" or "skip", in place of the recipe's."""
    steal: bool = False
    """Take over the claim of a builder known to be dead."""
    device: str | None = None
    """Torch device of the teacher; none: a GPU when there is one."""
    devices: str | None = None
    """Torch devices of one kind, such as `cuda:0,cuda:1`, that compute beside one another; in place of `device`."""
    part: str | None = None
    """`i/n`: make only every n-th shard; other processes make the others."""
    dask: str | None = None
    """Address of a Dask scheduler, or `local:N`: make the shards there."""
    space_check: bool = True
    """Refuse before the first shard when space or inodes don't suffice."""
    listing: Listing | None = None
    """Sources that the caller has listed, in place of the name of a source."""

    @property
    def is_shared_out(self) -> bool:
        """Whether several processes make the shards."""
        return self.part is not None or self.dask is not None

    def skip_errors(self, settings: CacheSettings) -> bool:
        """Return whether an unreadable source makes holes instead of ending the build."""
        return (self.on_error or settings.on_error) == "skip"


def absolute(path: str) -> str:
    """Return a path as other processes must name it."""
    return path if path == PHANTOM else str(Path(path).resolve())
