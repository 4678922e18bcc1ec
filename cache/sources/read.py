"""Frames of listed sources, from files that are proven to be the ones that were scanned."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from usjepa.cache.errors import SourceError
from usjepa.cache.sources.content import ContentHasher
from usjepa.cache.sources.kinds import reader_for
from usjepa.cache.sources.layout import confined
from usjepa.cache.sources.listing import PHANTOM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.settings import CacheSettings
    from usjepa.cache.sources.base import Reader
    from usjepa.cache.sources.phantom import Phantom


class SourceReader:
    """Reads frames by entry path. Belongs to one thread; what it holds open or knows is dropped by fork and pickle."""

    def __init__(self, root: Path | None, settings: CacheSettings) -> None:
        self._root, self._settings = root, settings
        self._phantom: Phantom | None = None
        self._forget()

    def __reduce__(self) -> tuple[type[SourceReader], tuple[Path | None, CacheSettings]]:
        return SourceReader, (self._root, self._settings)

    def frames(self, path: str, reader: str, wanted: Sequence[int], content_hash: str) -> Iterator[NDArray[np.uint8]]:
        """Yield frames of one source.

        Args:
            path: the entry's path, relative to the root.
            reader: name of the reader that scanned it.
            wanted: ascending frame numbers.
            content_hash: what the scan found; checked once per process and file.

        Raises:
            SourceError: the file changed since, is gone, lies outside the root, or a frame can't be decoded.
        """
        if self._pid != os.getpid():
            self._forget()
        if reader == PHANTOM:
            yield from self._phantom_frames(path, wanted, content_hash)
            return
        full = self._locate(path)
        with naming(full, path):
            if self._verified.get(path) != content_hash:
                _require_same(path, self._hasher.hash_of(full), content_hash)
                self._verified[path] = content_hash
            if reader not in self._readers:
                self._readers[reader] = reader_for(reader)
            yield from self._readers[reader].frames(full, wanted)

    def _phantom_frames(self, path: str, wanted: Sequence[int], content_hash: str) -> Iterator[NDArray[np.uint8]]:
        from usjepa.cache.sources.phantom import Phantom

        if self._phantom is None:
            self._phantom = Phantom(self._settings.phantom)
        if self._verified.get(path) != content_hash:
            _require_same(path, self._phantom.content_hash(path), content_hash)
            self._verified[path] = content_hash
        for number in wanted:
            yield self._phantom.frame(path, number)

    def _locate(self, path: str) -> Path:
        if self._root is None:
            raise SourceError(f"{path}: a file, but the source is the phantom. Name the source the rows came from.")
        try:
            return confined(self._root, path)
        except ValueError as error:
            raise SourceError(f"{path}: refused: {error}.") from error

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._hasher = ContentHasher()
        self._verified: dict[str, str] = {}
        self._readers: dict[str, Reader] = {}
        self._phantom = None


@contextlib.contextmanager
def naming(full: Path, path: str) -> Iterator[None]:
    """Name a file in errors as the tables do, without the folder that it happens to lie in."""
    try:
        yield
    except SourceError as error:
        raise SourceError(str(error).replace(str(full), path)) from error


def _require_same(path: str, found: str, scanned: str) -> None:
    if found != scanned:
        raise SourceError(
            f"{path}: its content changed since it was scanned (xxh3-128 {scanned} then, {found} now). "
            "Restore the file, or give the edited one another name to add it as a new source."
        )
