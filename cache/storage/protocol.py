"""Define the operations that a store needs of its storage: the `Storage` protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO, NamedTuple, Protocol

Buffer = bytes | bytearray | memoryview
Guard = Callable[[], None]
"""Called just before a file is published; raises to prevent it."""

READ_LIMIT = 1 << 30
"""Largest description in bytes; the manifest of 10 million shards has a third of it."""
TABLE_LIMIT = 8 << 30
"""Largest table of a segment in bytes."""


class Listed(NamedTuple):
    """A file as a listing shows it."""

    size: int
    """In bytes."""
    written: float | None = None
    """When it was last written, in seconds by the storage's own clock; None where who copies a file may choose it."""


class Piece(NamedTuple):
    """A file that is asked for, or parts of it."""

    name: str
    ranges: Sequence[tuple[int, int]] = ()
    """(offset, length) in bytes; none: all of it, or its end."""
    end: int = 0
    """So many of its last bytes alone, or all where it has fewer; 0: all of it."""
    guessed: bool = False
    """Whether the ranges may lie beyond the file's end: then nothing is found, where else the storage refuses."""


class Found(NamedTuple):
    """What a file gave."""

    parts: list[bytes]
    """One a range; all of it or its end is one part."""
    size: int
    """Of the whole file, in bytes; -1 where ranges were asked for."""


Take = Callable[[int, Found | None], object]
"""Called with a piece's number and what was found; None where the file is missing, or implausibly large."""


def unguarded() -> None:
    """Prevent nothing."""


class Storage(Protocol):
    """Named immutable files under one root; names are POSIX paths relative to it."""

    url: str

    def read(self, name: str, most: int = READ_LIMIT) -> bytes:
        """Return a whole file; FileNotFoundError when there is none, DamageError when it has over `most` bytes."""
        ...

    def open_file(self, name: str, most: int = READ_LIMIT) -> BinaryIO:
        """Return a whole file as an open one, for what is too large for memory; errors as of `read`."""
        ...

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer where the file ends; FileNotFoundError when there is none."""
        ...

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of several (offset, length) ranges of one file, near ones fetched together."""
        ...

    def read_many(self, pieces: Sequence[Piece], take: Take) -> None:
        """Read parts of many files, many requests at once, and pass each to `take` as it comes, in this thread.

        However many are asked for, a bounded number of bytes is held at a time. Raises StoreError when the storage
        refuses one.
        """
        ...

    def read_each(self, name: str, ranges: Sequence[tuple[int, int]], take: Callable[[int, bytes], object]) -> None:
        """Pass the bytes of one (offset, length) range of a file after the other to `take`, with the range's number.

        For reading from end to end: the file is opened once, so that the system sees a stream and reads ahead. If the
        handle is lost on the way, all ranges are passed once more.
        """
        ...

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files directly in a folder, without temp files; [] when there is none."""
        ...

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the files that `names` gives, each with its size in bytes, from one listing."""
        ...

    def listings(self, folders: Sequence[str]) -> list[dict[str, Listed]]:
        """Return the files that `names` gives of several folders, asked for at once."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in a folder; [] when there is none."""
        ...

    def publish(self, name: str, data: Buffer, guard: Guard = unguarded) -> None:
        """Write a file so that readers see it whole or not at all, replacing an older one. Raises WriteError.

        `guard` is called last, when the bytes are durable and only the rename is left; if it raises, nothing is left.
        """
        ...

    def create(self, name: str, data: Buffer) -> bool:
        """Create a file that must not exist yet; False when it does. Raises WriteError."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens when there is none."""
        ...

    def sweep(self) -> int:
        """Remove the temp files of killed writers and return how many; call it only under the build's claim."""
        ...
