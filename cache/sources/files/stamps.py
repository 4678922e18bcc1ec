"""Stamp tables with the reader of a source, and its version."""

from __future__ import annotations

from usjepa.cache.sources.base import PHANTOM
from usjepa.cache.sources.registry import reader_named


def stamp_of(reader: str) -> str:
    """Return how a table names a reader: `name`, or `name:version` from version 2 on.

    So a store tells which version counted a source's frames, and no other version goes on cutting them unnoticed.
    """
    version = version_of(reader)
    return reader if version == 1 else f"{reader}:{version}"


def name_of(stamp: str) -> str:
    """Return the name of the reader that a table names."""
    return stamp.partition(":")[0]


def version_of(reader: str) -> int:
    """Return the version of a reader, the phantom's included."""
    if reader == PHANTOM:
        from usjepa.cache.sources.phantom.source import PhantomReader

        return PhantomReader.version
    return reader_named(reader).version
