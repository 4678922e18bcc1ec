"""Write a local file so that a crash leaves the old or the new, whole.

Order of publishing, and why a crash at any point is harmless: bytes go to a unique sibling temp name, are flushed and
fsynced, renamed over the final name, and the folder is fsynced. Before the rename nobody sees the file; after the
folder's fsync it outlives a power cut. Temp names are unique, so two writers never mix their bytes. No hard links, no
flock, no clocks: this works on NFS.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import uuid
from typing import TYPE_CHECKING

from usjepa.cache.errors import UsageError, WriteError
from usjepa.cache.storage.protocol import Buffer, Guard, unguarded
from usjepa.cache.storage.urls import is_url, shown
from usjepa.cache.terminal.refusals import FULL, advice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TEMP_SUFFIX = ".tmp"
_TEMP = re.compile(r"\..*\.[0-9a-f]{32}\.tmp", re.DOTALL)
_KINDS = {
    stat.S_IFLNK: "symbolic link",
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_TRIES = 100
"""How often a new file's folder is made: whoever removes the last file of a folder removes the folder as well."""
_WRITE_PIECE = 1 << 23
"""Bytes written per call, so that the disk works while the next piece is copied."""


def is_temp(name: str) -> bool:
    """Return whether a file is one that `write_durably` left when it was killed, and nobody else's."""
    return _TEMP.fullmatch(name) is not None


@contextlib.contextmanager
def explained(path: Path, nbytes: int) -> Iterator[None]:
    """Raise WriteError, with what to do about it, in place of an OSError of the block."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise WriteError(
                f"{path}: no room for {nbytes:,} bytes ({error.strerror}). Everything committed before is whole: "
                "free some space and run the same command again."
            ) from error
        raise WriteError(f"{path}: can't write ({error.strerror}). {advice(error)}") from error


def _sync_folder(folder: Path) -> None:
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
        guard: called just before the rename; may raise.

    Raises:
        WriteError: the target is full, read-only or gone; the temp file is removed, an older file is untouched.
    """
    view = memoryview(data).cast("B")
    with new_file(path, view.nbytes, guard) as handle:
        write_all(handle, view)


@contextlib.contextmanager
def new_file(path: Path, nbytes: int, guard: Guard = unguarded) -> Iterator[int]:
    """Yield the descriptor of a file that is written piece by piece and published when the `with` block ends well.

    Args:
        path: its place.
        nbytes: its size, for messages.
        guard: called just before the rename; may raise.

    Raises:
        WriteError: as `write_durably` does.
    """
    temp = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMP_SUFFIX}")
    with explained(path, nbytes):
        handle = _created(temp)
        try:
            try:
                yield handle
                os.fsync(handle)
            finally:
                os.close(handle)
            guard()
            os.replace(temp, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temp)
            raise
        _sync_folder(path.parent)


def publish_folder(path: Path, fill: Callable[[Path], None], guard: Guard = unguarded) -> None:
    """Publish a folder that `fill` writes: nobody sees it half-written. One that is there is replaced.

    No system call replaces a folder: between two renames there is none for an instant. A kill just then leaves none,
    and a temp folder for the next owner to sweep.

    Args:
        path: its place.
        fill: writes the files, durably, into the folder that it is given.
        guard: called just before the renames; may raise.

    Raises:
        WriteError: the target is full, read-only or gone; an older folder is untouched.
    """
    new, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMP_SUFFIX}") for _ in range(2))
    try:
        with explained(path, 0):
            make_folders(new)
        fill(new)
        guard()
        with explained(path, 0):
            if os.path.lexists(path):
                os.replace(path, old)
            os.replace(new, path)
            _sync_folder(path.parent)
    finally:
        for litter in (new, old):
            remove_temp(litter)


def remove_temp(path: Path) -> None:
    """Remove a temp file or temp folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_output(path: Path) -> None:
    """Refuse a place for a result where something lies that must not be replaced.

    Raises:
        UsageError: a link, a device, a pipe, a socket or a folder lies there, or the path is a URL.
    """
    if is_url(path):
        place = shown(str(path))
        raise UsageError(f"{place}: results are written to files on this machine, not to a URL. Give a path.")
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "special file")
        raise UsageError(f"{path}: a {kind}, which is not replaced by a result. Give the name of a new file.")


def create_durably(path: Path, data: Buffer) -> bool:
    """Create one local file that must not exist yet; False when it does. Raises WriteError as `write_durably` does."""
    with explained(path, len(data)):
        try:
            handle = _created(path)
        except FileExistsError:
            return False
        _fill(handle, memoryview(data).cast("B"))
        _sync_folder(path.parent)
    return True


def _created(path: Path) -> int:
    """Create a file that must not exist yet, and its folder where there is none; return its descriptor."""
    for _ in range(_TRIES - 1):
        # Another process may release the last claim in the folder between the two calls, and remove it as empty.
        with contextlib.suppress(FileNotFoundError):
            make_folders(path.parent)
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    make_folders(path.parent)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _fill(handle: int, view: memoryview) -> None:
    """Write all bytes to a new file, make them durable and close it."""
    try:
        write_all(handle, view)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, view: memoryview) -> None:
    """Write all bytes to a descriptor; raises OSError."""
    done = 0
    while done < view.nbytes:
        wrote = os.write(handle, view[done : done + _WRITE_PIECE])
        if view.nbytes > _WRITE_PIECE and hasattr(os, "posix_fadvise"):
            # On Linux this begins to write the piece out at once; without it all of it would wait for the fsync. The
            # fsync alone makes the bytes durable, so a file system that ignores the advice loses nothing.
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
    _sync_folder(folder.parent)
