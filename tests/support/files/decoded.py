"""Count and read a file as a scan and a build do, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.sources.reader import SourceReader
from usjepa.cache.sources.registry import join_path, reader_of_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.sources.base import FileFacts


def probe(file: Path, image: str = "") -> FileFacts:
    """Return the facts of a file, or of an image within it; SourceError when it can't be read."""
    path, name, reader = _source(file, image)
    return reader.probe(path, name)


def frames(file: Path, wanted: Sequence[int], image: str = "") -> list[NDArray[np.uint8]]:
    """Return the wanted frames of a file, or of an image within it; SourceError when one can't be read."""
    path, name, reader = _source(file, image)
    return list(reader.frames(path, name, wanted, reader.content_hash(path, name)))


def _source(file: Path, image: str) -> tuple[str, str, SourceReader]:
    found = reader_of_file(file)
    assert found is not None, f"no reader takes {file}"
    return join_path(file.name, image), found.name, SourceReader(file.parent, CacheSettings())
