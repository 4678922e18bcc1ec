"""Describe what client and workers of a cluster build send each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.recipes.cache import CacheSettings, TeacherSettings


@dataclass(frozen=True)
class WorkOrder:
    """Everything that a worker needs to make any shard of a store; small, and equal for all tasks of a build."""

    store: str
    settings: CacheSettings
    source: str | None
    """What the build was given, an absolute path or `phantom`; none when no pixels have to be cut."""
    root: Path | None
    """Folder of the sources; none for the phantom."""
    teacher: TeacherSettings | None
    device: str | None
    skip_errors: bool
    claim: tuple[str, str]
    """Token of the client's claim."""
    neighbours: int = 1
    """Workers that share a machine and its cores."""

    @property
    def topic(self) -> str:
        """Where workers tell what they are and which shards are done: a `Told` as a dict."""
        return f"usjepa-{self.claim[1]}"


class Told(TypedDict):
    """What a worker tells the client."""

    worker: str
    """Its address."""
    how: str
    """How it works."""
    shard: int
    """One that is committed."""
    stages: dict[str, dict[str, Any]]
    """As `Stages.told`, since it began with this build."""
