"""Frames of listed sources, from files that are proven to be the ones that were scanned."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.errors import SourceError
from usjepa.cache.sources.content import ContentHasher
from usjepa.cache.sources.folders import confined
from usjepa.cache.sources.registry import PHANTOM, reader_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import FileFacts, Reader
    from usjepa.cache.sources.listing import Listing


class SourceReader:
    """Hashes, counts and reads sources by the paths of their entries.

    Belongs to one thread. Open files and what is known about them are dropped by fork and pickle. Errors name a source
    as the tables do, without the folder that it happens to lie in.
    """

    def __init__(self, root: Path | None, settings: CacheSettings, real: Mapping[str, str] | None = None) -> None:
        self._root, self._settings, self._real = root, settings, real or {}
        self._forget()

    @classmethod
    def of(cls, listing: Listing, settings: CacheSettings) -> SourceReader:
        """Return a reader of a listing's sources."""
        return cls(listing.root, settings, listing.real)

    def __reduce__(self) -> tuple[type[SourceReader], tuple[Path | None, CacheSettings, Mapping[str, str]]]:
        return SourceReader, (self._root, self._settings, self._real)

    def content_hash(self, path: str, reader: str) -> str:
        """Return the source's content hash, 32 hex digits; SourceError when it can't be read."""
        if reader == PHANTOM:
            from usjepa.cache.sources.phantom.source import Phantom

            return Phantom(self._settings.phantom).content_hash(self._real.get(path, path))
        with self._located(path, reader) as full:
            return self._hasher.hash_of(full)

    def version(self, reader: str) -> int:
        """Return the version of a reader."""
        return self._reader(reader).version

    def probe(self, path: str, reader: str) -> FileFacts:
        """Decode the whole source and return its facts; SourceError when that fails."""
        with self._located(path, reader) as full:
            return self._reader(reader).probe(full)

    def frames(self, path: str, reader: str, wanted: Sequence[int], content_hash: str) -> Iterator[NDArray[np.uint8]]:
        """Yield frames of one source.

        Args:
            path: the entry's path, relative to the root.
            reader: name of the reader that scanned it.
            wanted: ascending frame numbers.
            content_hash: what the scan found; checked once per process and source.

        Raises:
            SourceError: the file changed since, is gone, lies outside the root, or a frame can't be decoded.
        """
        if self._pid != os.getpid():
            self._forget()
        if self._verified.get(path) != content_hash:
            _require_same(path, self.content_hash(path, reader), content_hash)
            self._verified[path] = content_hash
        with self._located(path, reader) as full:
            yield from self._reader(reader).frames(full, wanted)

    def _reader(self, name: str) -> Reader:
        if name not in self._readers:
            self._readers[name] = reader_for(name, self._settings)
        return self._readers[name]

    @contextlib.contextmanager
    def _located(self, path: str, reader: str) -> Iterator[Path]:
        """Give the place of a source, and name it by its path in errors from within."""
        full = Path(self._real.get(path, path)) if reader == PHANTOM else self._place(path)
        try:
            yield full
        except SourceError as error:
            raise SourceError(str(error).replace(str(full), path)) from error

    def _place(self, path: str) -> Path:
        if self._root is None:
            raise SourceError(f"{path}: a file, but the source is the phantom. Name the source the rows came from.")
        try:
            return confined(self._root, self._real.get(path, path))
        except ValueError as error:
            raise SourceError(f"{path}: refused: {error}.") from error

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._hasher = ContentHasher()
        self._verified: dict[str, str] = {}
        self._readers: dict[str, Reader] = {}


def _require_same(path: str, found: str, scanned: str) -> None:
    if found != scanned:
        raise SourceError(
            f"{path}: its content changed since it was scanned (xxh3-128 {scanned} then, {found} now). "
            "Restore the file, or give the edited one another name to add it as a new source."
        )
