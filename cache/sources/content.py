"""Content hashes of sources: xxh3-128 of the file's bytes. Names, places and times of files say nothing."""

from __future__ import annotations

from pathlib import Path

import xxhash

from usjepa.cache.sources.base import reading
from usjepa.cache.sources.inside import split_inside

_PIECE = 8 << 20  # bytes; read and hashed at a time, so memory does not grow with the file


class ContentHasher:
    """Hashes sources; the datasets of one HDF5 file, asked for one after the other, cost one pass over it."""

    def __init__(self) -> None:
        self._last: tuple[Path, str] | None = None

    def hash_of(self, path: Path) -> str:
        """Return the source's content hash, 32 hex digits; SourceError when the file can't be read.

        A dataset within a file has the hash of the file's hash and the dataset's name: datasets of one file differ.
        """
        location, inside = split_inside(str(path))
        if not inside:
            return hash_file(path)
        if self._last is None or self._last[0] != Path(location):
            self._last = (Path(location), hash_file(Path(location)))
        return xxhash.xxh3_128_hexdigest(f"{self._last[1]}::{inside}".encode())


def hash_file(path: Path) -> str:
    """Return the xxh3-128 of a file's bytes, 32 hex digits; SourceError when it can't be read."""
    hasher = xxhash.xxh3_128()
    with reading(path, "a file"), path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
    return hasher.hexdigest()
