"""Keep a store's files in a folder on a local disk or a mounted share."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from usjepa.cache.errors import DamageError, StoreError
from usjepa.cache.storage.durable import TEMP_SUFFIX, create_durably, explained, is_temp, write_durably
from usjepa.cache.storage.protocol import READ_LIMIT, Buffer, Found, Guard, Listed, Piece, unguarded
from usjepa.cache.terminal.refusals import advice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.storage.protocol import Take

T = TypeVar("T")
_TRIES = 3
_THREADS = 16
"""Files that are read at once where many are asked for."""


def unreadable(path: Path | str, error: OSError) -> StoreError:
    """Return the StoreError for an OSError met while reading, with what to do about it."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        for place in reversed(Path(path).parents):
            if not place.is_dir() and not place.is_symlink():
                return StoreError(f"{place}: a file where a folder of the store should be. The store is damaged.")
        return StoreError(
            f"{path}: a symbolic link; a store has none, and none is followed. The store is damaged or forged."
        )
    return StoreError(f"{path}: can't be read ({error.strerror}). {advice(error)}")


class LocalStorage:
    """A folder on a local disk or a mounted share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def path(self, name: str) -> Path:
        """Return a file's path; raises StoreError for a name that leaves the root."""
        self._parts(name)
        return self.root / name

    def _parts(self, name: str) -> list[str]:
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise StoreError(f"{self.url}: the file name {name!r} leaves the store. The store is damaged or forged.")
        return parts

    def _target(self, name: str) -> Path:
        """Return the path of a file to write; raises StoreError when a folder on the way is a symbolic link."""
        path = self.path(name)
        folder = path.parent
        while folder != self.root and folder != folder.parent:
            if folder.is_symlink():
                raise StoreError(f"{folder}: a symbolic link; a store has none, and nothing is written through one.")
            folder = folder.parent
        return path

    def open(self, name: str) -> int:
        """Return a read-only descriptor of a regular file, following no symbolic link (a store has none).

        Raises:
            OSError: as the system does.
            StoreError: the file is a pipe, a device or the like.
        """
        self._parts(name)
        place = self.open_folder(name.rpartition("/")[0])
        try:
            return self.open_in(place, name)
        finally:
            os.close(place)

    def open_folder(self, name: str) -> int:
        """Return a descriptor of a folder of the store ("" = its root), for `open_in`; see `open`."""
        place = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for folder in self._parts(name) if name else []:
                inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
                os.close(place)
                place = inner
        except BaseException:
            os.close(place)
            raise
        return place

    def open_in(self, place: int, name: str) -> int:
        """Return what `open` returns, given a descriptor of the file's folder."""
        last = self._parts(name)[-1]
        # Without O_NONBLOCK a pipe in a forged store would hang the reader.
        handle = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise StoreError(f"{self.root / name}: not a regular file. The store is damaged or forged.")
        return handle

    def read(self, name: str, most: int = READ_LIMIT) -> bytes:
        """Return a whole file; FileNotFoundError when there is none, StoreError when it can't be read."""

        def whole(handle: int) -> bytes:
            with self._checked(name, handle, most) as file:
                return file.read()

        return self._fetch(name, whole)

    def open_file(self, name: str, most: int = READ_LIMIT) -> BinaryIO:
        """Return a whole file, open; what is renamed over it afterwards is not seen."""
        return self._fetch(name, lambda handle: self._checked(name, os.dup(handle), most, closefd=True))

    def _checked(self, name: str, handle: int, most: int, closefd: bool = False) -> BinaryIO:
        file = os.fdopen(handle, "rb", closefd=closefd)
        size = os.fstat(handle).st_size
        if size > most:
            file.close()
            raise DamageError(f"{self.root / name}: {size:,} bytes are not plausible: damaged or forged.")
        return file

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer where the file ends."""
        return self._fetch(name, lambda handle: os.pread(handle, length, offset))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of several (offset, length) ranges of one file."""
        return self._fetch(name, lambda handle: [os.pread(handle, length, offset) for offset, length in ranges])

    def read_many(self, pieces: Sequence[Piece], take: Take) -> None:
        """Read parts of many files, several at once: on a network share each waits for the server."""

        def fetch(piece: Piece, handle: int) -> Found:
            size = os.fstat(handle).st_size
            if piece.ranges:
                return Found([os.pread(handle, length, offset) for offset, length in piece.ranges], -1)
            if not piece.end and size > READ_LIMIT:
                raise FileNotFoundError(piece.name)
            length = min(size, piece.end or size)
            return Found([os.pread(handle, length, size - length)], size)

        def read(piece: Piece) -> Found | None:
            try:
                return self._fetch(piece.name, partial(fetch, piece))
            except FileNotFoundError:
                return None

        if len(pieces) < _THREADS:
            for number, piece in enumerate(pieces):
                take(number, read(piece))
            return
        with ThreadPoolExecutor(_THREADS, "usjepa-storage") as pool:
            for start in range(0, len(pieces), _THREADS):
                for number, found in enumerate(pool.map(read, pieces[start : start + _THREADS]), start):
                    take(number, found)

    def read_each(self, name: str, ranges: Sequence[tuple[int, int]], take: Callable[[int, bytes], object]) -> None:
        """Pass the bytes of one (offset, length) range of a file after the other to `take`, with the range's number."""

        def each(handle: int) -> None:
            for number, (offset, length) in enumerate(ranges):
                take(number, os.pread(handle, length, offset))

        self._fetch(name, each)

    def _fetch(self, name: str, fetch: Callable[[int], T]) -> T:
        """Open, fetch and close; where a network share lost the handle, open it again, a few times."""
        tries = _TRIES
        while True:
            tries -= 1
            try:
                handle = self.open(name)
                try:
                    return fetch(handle)
                finally:
                    os.close(handle)
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno != errno.ESTALE or not tries:
                    raise unreadable(self.path(name), error) from error

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when there is none."""
        try:
            return self.path(name).lstat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files directly in a folder, without temp files."""
        return sorted(
            entry.name for entry in self._scan(folder) if not entry.is_dir() and not entry.name.endswith(TEMP_SUFFIX)
        )

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the files that `names` gives, each with its size in bytes."""
        found = {}
        for name in self.names(folder):
            size = self.size(f"{folder}/{name}" if folder else name)
            if size is not None:  # else removed since it was listed
                found[name] = size
        return found

    def listings(self, folders: Sequence[str]) -> list[dict[str, Listed]]:
        """Return the files that `names` gives of several folders; `cp -p` and the like choose a file's time."""
        return [{name: Listed(size) for name, size in self.sizes(folder).items()} for folder in folders]

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in a folder."""
        return sorted(entry.name for entry in self._scan(folder) if entry.is_dir(follow_symlinks=False))

    def _scan(self, folder: str) -> Sequence[os.DirEntry[str]]:
        try:
            with os.scandir(self.path(folder)) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def publish(self, name: str, data: Buffer, guard: Guard = unguarded) -> None:
        """Write a file durably; readers see the old one or the new one, whole."""
        write_durably(self._target(name), data, guard)

    def create(self, name: str, data: Buffer) -> bool:
        """Create a file that must not exist yet; False when it does."""
        return create_durably(self._target(name), data)

    def delete(self, name: str) -> None:
        """Remove a file, and its folder when that is empty then; raises StoreError as `publish` for links."""
        path = self._target(name)
        try:
            with explained(path, 0), contextlib.suppress(FileNotFoundError):
                path.unlink()
        finally:
            # An empty folder would make two stores with the same content differ.
            with contextlib.suppress(OSError):
                if path.parent != self.root:
                    path.parent.rmdir()

    def sweep(self) -> int:
        """Remove the temp files of killed writers and return how many."""
        stale = [path for path in self.root.rglob(f".*{TEMP_SUFFIX}") if is_temp(path.name) and path.is_file()]
        for path in stale:
            with explained(path, 0):
                path.unlink(missing_ok=True)
        return len(stale)
