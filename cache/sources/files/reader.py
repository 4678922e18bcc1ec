"""Read frames of listed sources from files proven to be the scanned ones.

A file is identified by the xxh3-128 of its bytes, never by its name, place or time. Whatever the reader of a format
raises on the bytes of others becomes a SourceError here; it names the source as the tables do, without the folder that
it happens to lie in.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.errors import SourceError
from usjepa.cache.identity import hash_file
from usjepa.cache.plain_files import require_plain
from usjepa.cache.sources.base import PHANTOM, Reader, levels_of
from usjepa.cache.sources.files.failing import checked, naming, refuse_odd
from usjepa.cache.sources.files.stamps import name_of
from usjepa.cache.sources.folders import confined
from usjepa.cache.sources.registry import join_path, reader_named, reader_of_path, split_path
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Box, FileFacts, Listing

_MOST_FRAMES = (1 << 31) - 1
"""Of a source: tables count them in 32 bits."""
_MASKED = "an image that masks its scan"


class SourceReader:
    """Hash, count and read sources by the paths of their entries.

    Belongs to one thread. Open files and remembered hashes are dropped by fork and pickle.
    """

    def __init__(
        self,
        root: Path | None,
        settings: CacheSettings,
        real: Mapping[str, str] | None = None,
        regions: Mapping[str, str] | None = None,
    ) -> None:
        """Make a reader.

        Args:
            root: folder that paths are relative to; None for the phantom.
            settings: the phantom's are used.
            real: alias -> path, where paths are hidden.
            regions: path of a source -> the mask of the scan that comes with it.
        """
        self._root, self._settings, self._real, self._regions = root, settings, real or {}, regions or {}
        self._forget()

    @classmethod
    def of(cls, listing: Listing, settings: CacheSettings) -> SourceReader:
        """Return a reader of a listing's sources."""
        return cls(listing.root, settings, listing.real, listing.regions)

    def __reduce__(self) -> tuple[type[SourceReader], tuple[object, ...]]:
        return SourceReader, (self._root, self._settings, self._real, self._regions)

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._hashed: tuple[Path, str] | None = None
        self._verified: dict[str, str] = {}
        self._readers: dict[str, Reader] = {}

    def content_hash(self, path: str, reader: str) -> str:
        """Return the source's content hash, 32 hex digits; SourceError when the file can't be read.

        An image in a file has the hash of the file's hash and the image's name, so that images of one file differ.
        Images of one file that are hashed one after the other cost one pass over it. A mask of the scan that comes with
        a source belongs to its content.
        """
        own = self._own_hash(path, reader)
        if path not in self._regions:
            return own
        mask = self._mask_of(path)
        with naming(path, mask, "", _MASKED):
            located, member = split_path(str(mask))
            hashed = hash_file(Path(located)) + (f" {member}" if member else "")
            return xxhash.xxh3_128_hexdigest(f"{own} {hashed}".encode())

    def _own_hash(self, path: str, reader: str) -> str:
        if name_of(reader) == PHANTOM:
            from usjepa.cache.sources.phantom.source import Phantom

            return Phantom(self._settings.phantom).content_hash(self._real.get(path, path))
        file, image = self._located(path)
        with naming(path, file, image, "a file"):
            if not image:
                return self._file_hash(file, reader)
            if self._hashed is None or self._hashed[0] != file:
                self._hashed = (file, self._file_hash(file, reader))
        return xxhash.xxh3_128_hexdigest(join_path(self._hashed[1], image).encode())

    def _file_hash(self, file: Path, reader: str) -> str:
        """Return the hash of a file, and of the others that its content lies in."""
        parts = self._reader(reader).parts(file)
        if not parts:
            return hash_file(file)
        hashed = [] if file.is_dir() else [f"{hash_file(file)} {file.name}"]
        for part in parts:
            require_plain(self._inside(part))
            hashed.append(f"{hash_file(part)} {part.relative_to(file.parent).as_posix()}")
        return xxhash.xxh3_128_hexdigest("\n".join(hashed).encode(errors="surrogateescape"))

    def probe(self, path: str, reader: str) -> FileFacts:
        """Decode the whole source and return its facts; SourceError when that fails."""
        file, image = self._located(path, reader)
        decoder = self._reader(reader)
        with naming(path, file, image, decoder.title):
            refuse_odd(file, reader)
            facts = self._facts(decoder, file, image)
            if facts.frames < 1:
                raise ValueError("it holds no frames")
            if facts.frames > _MOST_FRAMES:
                raise ValueError(f"it has {facts.frames:,} frames; at most {_MOST_FRAMES:,} of a source are read")
            if name_of(reader) == PHANTOM:
                return facts
            # What can't be shown in 8 bits is found out here too, not in the middle of a build.
            (first,) = decoder.frames(file, image, [0])
            return replace(facts, levels=levels_of(checked(first, 0)))

    def _facts(self, decoder: Reader, file: Path, image: str) -> FileFacts:
        """Return what a reader finds of a source; where frames are compared, with the hashes of a clip's."""
        if not self._settings.min_change:
            return decoder.probe(file, image)
        from usjepa.cache.perceptual import frame_hash

        survey = getattr(decoder, "survey", None) or partial(Reader.survey, decoder)
        facts, hashes = survey(file, image, frame_hash)
        if facts.frames == 1:
            return facts
        if len(hashes) != facts.frames:
            raise ValueError(f"its reader counts {facts.frames} frames and gave {len(hashes)}")
        return replace(facts, hashes=b"".join(hashes))

    def frames(self, path: str, reader: str, wanted: Sequence[int], content_hash: str) -> Iterator[NDArray[np.uint8]]:
        """Yield frames of one source: uint8 [H, W] grey or [H, W, 3] RGB.

        Args:
            path: the entry's path, relative to the root.
            reader: the reader that scanned it, as tables name it.
            wanted: ascending frame numbers from 0.
            content_hash: what the scan found; checked once per process and source.

        Raises:
            SourceError: the file changed since, is gone, lies outside the root, or a frame can't be decoded.
            ValueError: frame numbers do not ascend from 0.
        """
        if any(number < 0 for number in wanted) or any(b < a for a, b in itertools.pairwise(wanted)):
            raise ValueError(f"{path}: frame numbers must ascend from 0, got {list(wanted)[:8]}")
        if self._pid != os.getpid():
            self._forget()
        if self._verified.get(path) != content_hash:
            _require_same(path, self.content_hash(path, reader), content_hash)
            self._verified[path] = content_hash
        file, image = self._located(path, reader)
        decoder = self._reader(reader)
        with naming(path, file, image, decoder.title):
            refuse_odd(file, reader)
            for number, frame in itertools.zip_longest(wanted, decoder.frames(file, image, wanted)):
                yield checked(frame, number)

    def region(self, path: str, height: int, width: int) -> NDArray[np.bool_] | None:
        """Return the mask of the scan that comes with a source of this size, bool [H, W]; None where none does.

        What is brighter than half of the mask's brightest pixel is scan.

        Raises:
            SourceError: it can't be read, has another size, or is empty.
        """
        if path not in self._regions:
            return None
        file = self._mask_of(path)
        kind = reader_of_path(str(file))
        with naming(path, file, "", _MASKED):
            if kind is None:
                raise ValueError("the mask is of a kind that is not read")
            located, member = split_path(str(file))
            (shown,) = kind().frames(Path(located), member, [0])
            mask = checked(shown, 0)
            mask = mask if mask.ndim == 2 else mask.max(axis=2)
            if mask.shape != (height, width):
                raise ValueError(f"the mask has {mask.shape[0]}x{mask.shape[1]} pixels, the frames {height}x{width}")
            if not mask.any():
                raise ValueError("the mask is empty")
            return np.asarray(mask > mask.max() // 2)

    def boxes(self, path: str, reader: str) -> Sequence[Box]:
        """Return the parts of the frames that the source itself says hold images; see `Reader.boxes`."""
        file, image = self._located(path, reader)
        decoder = self._reader(reader)
        with naming(path, file, image, decoder.title):
            return decoder.boxes(file, image)

    def _mask_of(self, path: str) -> Path:
        """Return the file of a source's mask; SourceError when it lies outside the root."""
        if self._root is None:
            raise _not_of_the_phantom(path)
        try:
            return confined(self._root, self._regions[path], self._settings.follow_links)
        except ValueError as error:
            raise SourceError(f"{shown_name(path)}: its mask of the scan is refused: {error}.") from error

    def _inside(self, file: Path) -> Path:
        """Return a file that another one names; ValueError where it leads out of the root."""
        if self._root is None:
            return file
        return confined(self._root, file.relative_to(self._root).as_posix(), self._settings.follow_links)

    def _reader(self, stamp: str) -> Reader:
        name = name_of(stamp)
        if name not in self._readers:
            self._readers[name] = self._phantom() if name == PHANTOM else reader_named(name)()
        return self._readers[name]

    def _phantom(self) -> Reader:
        from usjepa.cache.sources.phantom.source import PhantomReader

        return PhantomReader(self._settings.phantom)

    def _located(self, path: str, reader: str = "") -> tuple[Path, str]:
        """Return the file of a source and the image within it; SourceError when it lies outside the root."""
        real = self._real.get(path, path)
        if name_of(reader) == PHANTOM:
            return Path(real), ""
        if self._root is None:
            raise _not_of_the_phantom(path)
        file, image = split_path(real)
        try:
            return confined(self._root, file, self._settings.follow_links), image
        except ValueError as error:
            raise SourceError(f"{shown_name(path)}: refused: {error}.") from error


def _not_of_the_phantom(path: str) -> SourceError:
    what = "a file, but the source is the phantom. Name the source the rows came from."
    return SourceError(f"{shown_name(path)}: {what}")


def _require_same(path: str, found: str, scanned: str) -> None:
    if found != scanned:
        raise SourceError(
            f"{shown_name(path)}: its content changed since it was scanned (xxh3-128 {scanned} then, {found} now). "
            "Restore the file, or give the edited one another name to add it as a new source."
        )
