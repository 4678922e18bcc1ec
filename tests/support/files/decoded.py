"""Count and read a file as a scan and a build do, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import SourceError
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.sources.files.describing import images_in, patient_in
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.listing import make_listing
from usjepa.cache.sources.registry import join_path, reader_of_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.sources.base import Contents, FileFacts, Listing


def probe(file: Path, image: str = "") -> FileFacts:
    """Return the facts of a file, or of an image within it; SourceError when it can't be read."""
    path, name, reader = _source(file, image)
    return reader.probe(path, name)


def frames(file: Path, wanted: Sequence[int], image: str = "") -> list[NDArray[np.uint8]]:
    """Return the wanted frames of a file, or of an image within it; SourceError when one can't be read."""
    path, name, reader = _source(file, image)
    return list(reader.frames(path, name, wanted, reader.content_hash(path, name)))


def listed(source: Path, settings: CacheSettings | None = None) -> Listing:
    """Return the listing of a source, its containers opened in this process; a container that can't be read stays."""

    def images_of(files: Sequence[tuple[Path, str]]) -> list[Contents | None]:
        return [_or(None, images_in, *file) for file in files]

    def patients_of(files: Sequence[tuple[Path, str]]) -> list[str]:
        return [_or("", patient_in, *file) for file in files]

    return make_listing(str(source), settings or CacheSettings(), images_of, patients_of)


def _or(otherwise: Any, look: Callable[..., Any], *file: object) -> Any:
    try:
        return look(*file)
    except SourceError:
        return otherwise


def read_all(listing: Listing, settings: CacheSettings | None = None) -> dict[str, list[NDArray[np.uint8]]]:
    """Return all frames of each source of a listing; SourceError at the first that can't be read."""
    sources, found = SourceReader.of(listing, settings or CacheSettings()), {}
    for entry in listing.entries:
        facts = sources.probe(entry.path, entry.reader)
        content = sources.content_hash(entry.path, entry.reader)
        found[entry.path] = list(sources.frames(entry.path, entry.reader, range(facts.frames), content))
    return found


def _source(file: Path, image: str) -> tuple[str, str, SourceReader]:
    found = reader_of_file(file)
    assert found is not None, f"no reader takes {file}"
    return join_path(file.name, image), found.name, SourceReader(file.parent, CacheSettings())
