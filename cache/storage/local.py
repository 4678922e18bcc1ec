"""Where a store's files live: a small protocol, and the local (or NFS) folder.

Publishing order, and why a crash at any point is harmless: bytes go to a unique sibling temp name, are
flushed and fsynced, renamed over the final name, and the folder is fsynced. Before the rename nobody sees
the file; after the folder's fsync it outlives a power cut. Temp names are unique, so two writers never mix
their bytes. No hard links, no flock, no clocks: this holds on NFS.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from usjepa.cache.errors import DamageError, StoreError, WriteError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Buffer = bytes | bytearray | memoryview
Guard = Callable[[], None]


READ_LIMIT = 1 << 30
"""Bytes of the largest description (a manifest of 10 million shards has a third of it)."""
TABLE_LIMIT = 8 << 30
"""Bytes of the largest table of a segment."""


def unguarded() -> None:
    """Let everything pass."""


TEMP_SUFFIX = ".tmp"
T = TypeVar("T")
_TRIES = 3
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WRITE_PIECE = 1 << 23
"""Bytes handed to the system at a time, so that the disk is at work while the next piece is copied."""


class Storage(Protocol):
    """Named immutable files under one root; names are POSIX paths relative to it."""

    url: str

    def read(self, name: str, most: int = READ_LIMIT) -> bytes:
        """Return a whole file; FileNotFoundError when there is none, DamageError when it has over `most` bytes."""
        ...

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer where the file ends; FileNotFoundError when there is none."""
        ...

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of several (offset, length) ranges of one file, near ones fetched together."""
        ...

    def read_each(self, name: str, ranges: Sequence[tuple[int, int]], take: Callable[[int, bytes], object]) -> None:
        """Give the bytes of one (offset, length) range of a file after the other to `take`, with the range's number.

        For reading from end to end: the file is opened once, so that the system sees a stream and reads ahead. Where
        the handle is lost on the way, all are given once more.
        """
        ...

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None when there is none."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files directly in a folder, without temp files; [] when there is none."""
        ...

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the folders directly in a folder; [] when there is none."""
        ...

    def publish(self, name: str, data: Buffer, guard: Guard = unguarded) -> None:
        """Write a file so that it is seen whole or not at all, replacing an older one. Raises WriteError.

        `guard` is asked last, when the bytes are durable and only the rename is left; what it raises leaves no trace.
        """
        ...

    def create(self, name: str, data: Buffer) -> bool:
        """Create a file that must not exist yet; False when it does. Raises WriteError."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens when there is none."""
        ...

    def sweep(self) -> int:
        """Remove temp files that a killed writer left; return how many. Only under the build's claim."""
        ...


@contextlib.contextmanager
def _told(path: Path, nbytes: int) -> Iterator[None]:
    """Turn the operating system's refusal into one message that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise WriteError(
                f"{path}: no room for {nbytes:,} bytes ({error.strerror}). Everything committed before is whole: "
                "free some space and run the same command again."
            ) from error
        raise WriteError(
            f"{path}: can't write ({error.strerror}). Check that the target exists, is writable and is still mounted."
        ) from error


def unreadable(path: Path | str, error: OSError) -> StoreError:
    """Return the operating system's refusal to read as one message that says what to do."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return StoreError(
            f"{path}: a symbolic link; a store holds none, and none is followed. It is damaged or forged."
        )
    return StoreError(f"{path}: can't be read ({error.strerror}). Check that the disk or share is whole and mounted.")


def sync_folder(folder: Path) -> None:
    """Make a rename or a new entry in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_durably(path: Path, data: Buffer, guard: Guard = unguarded) -> None:
    """Publish one local file: unique temp sibling, fsync, rename, fsync of the folder.

    Args:
        path: its place.
        data: its bytes.
        guard: asked just before the rename; may raise.

    Raises:
        WriteError: the target is full, read-only or gone; the temp file is removed, an older file is untouched.
    """
    view = memoryview(data).cast("B")
    temp = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMP_SUFFIX}")
    with _told(path, view.nbytes):
        make_folders(path.parent)
        handle = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            try:
                _write_all(handle, view)
                os.fsync(handle)
            finally:
                os.close(handle)
            guard()
            os.replace(temp, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temp)
            raise
        sync_folder(path.parent)


def _write_all(handle: int, view: memoryview) -> None:
    done = 0
    while done < view.nbytes:
        wrote = os.write(handle, view[done : done + _WRITE_PIECE])
        if view.nbytes > _WRITE_PIECE and hasattr(os, "posix_fadvise"):
            # On Linux this begins to write the piece out at once; without it all of it would wait for the fsync. The
            # fsync alone decides whether the bytes are durable, so a file system that can't take advice loses nothing.
            with contextlib.suppress(OSError):
                os.posix_fadvise(handle, done, wrote, os.POSIX_FADV_DONTNEED)
        done += wrote


def make_folders(folder: Path) -> None:
    """Create a folder and its parents, each made durable in its own parent."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
    sync_folder(folder.parent)


class LocalStorage:
    """A folder on a local disk or a mounted share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def path(self, name: str) -> Path:
        """Return the file's place; refuses names that would leave the root."""
        self._parts(name)
        return self.root / name

    def _parts(self, name: str) -> list[str]:
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\0" in name:
            raise StoreError(f"{self.url}: the file name {name!r} leaves the store. The store is damaged or forged.")
        return parts

    def _target(self, name: str) -> Path:
        """Return the place of a file to be written; refuses one behind a symbolic link."""
        path = self.path(name)
        folder = path.parent
        while folder != self.root and folder != folder.parent:
            if folder.is_symlink():
                raise StoreError(f"{folder}: a symbolic link; a store holds none, and nothing is written through one.")
            folder = folder.parent
        return path

    def open(self, name: str) -> int:
        """Return a read-only descriptor of a regular file; no symbolic link on the way is followed (a store has none).

        Raises OSError as the system does, and StoreError for a pipe, a device or the like.
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
        """Do what `open` does, given a descriptor of the file's folder."""
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
            size = os.fstat(handle).st_size
            if size > most:
                raise DamageError(f"{self.root / name}: {size:,} bytes are not plausible: damaged or forged.")
            with open(handle, "rb", closefd=False) as file:
                return file.read()

        return self._fetch(name, whole)

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer where the file ends."""
        return self._fetch(name, lambda handle: os.pread(handle, length, offset))

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of several (offset, length) ranges of one file."""
        return self._fetch(name, lambda handle: [os.pread(handle, length, offset) for offset, length in ranges])

    def read_each(self, name: str, ranges: Sequence[tuple[int, int]], take: Callable[[int, bytes], object]) -> None:
        """Give the bytes of one (offset, length) range of a file after the other to `take`, with the range's number."""

        def each(handle: int) -> None:
            for number, (offset, length) in enumerate(ranges):
                take(number, os.pread(handle, length, offset))

        self._fetch(name, each)

    def _fetch(self, name: str, fetch: Callable[[int], T]) -> T:
        """Open, fetch and close. A network share that lost the handle gets it opened again, a few times."""
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
        path = self._target(name)
        with _told(path, len(data)):
            make_folders(path.parent)
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            try:
                _write_all(handle, memoryview(data))
                os.fsync(handle)
            finally:
                os.close(handle)
            sync_folder(path.parent)
        return True

    def delete(self, name: str) -> None:
        """Remove a file, and its folder when that is empty then."""
        path = self.path(name)
        try:
            with _told(path, 0), contextlib.suppress(FileNotFoundError):
                path.unlink()
        finally:
            # An emptied folder would make two stores with the same content differ.
            with contextlib.suppress(OSError):
                if path.parent != self.root:
                    path.parent.rmdir()

    def sweep(self) -> int:
        """Remove temp files that a killed writer left; return how many."""
        stale = [path for path in self.root.rglob(f".*{TEMP_SUFFIX}") if path.is_file()]
        for path in stale:
            with _told(path, 0):
                path.unlink(missing_ok=True)
        return len(stale)


def open_storage(location: str | Path) -> Storage:
    """Return the storage behind a path or a URL (`s3://...`, `gs://...`, `az://...`, `memory://...`)."""
    text = str(location)
    if "://" in text and not text.startswith("file://"):
        from usjepa.cache.storage.objects import ObjectStorage

        return ObjectStorage(text)
    return LocalStorage(Path(text.removeprefix("file://")))
