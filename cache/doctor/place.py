"""Time a place where a store or its sources lie: a folder, or a bucket."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.doctor.finding import Finding, size_text
from usjepa.cache.errors import UsageError
from usjepa.cache.storage.durable import explained, write_durably
from usjepa.cache.storage.location import open_storage
from usjepa.cache.storage.urls import is_file_url, is_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NBYTES = 64 << 20
"""Written and read back: long enough to be timed on any disk, short enough to wait for."""
_SMALL_FILES = 20
_REQUESTS = 5
_SLOW_FSYNC_S, _SLOW_REQUEST_S = 0.05, 0.2
_LEAST_FREE = 10 << 30
_LEAST_INODES = 100_000
_NETWORK = ("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "ceph", "beegfs", "9p", "afs")


def place(where: str) -> Iterator[Finding]:
    """Yield room and speed of a folder, existing or not, or the time of a request to a bucket.

    Raises:
        UsageError: a file lies there, or the URL is of no known kind.
        WriteError: the folder can't be written to.
        StoreError: the bucket refuses.
    """
    if is_url(where) and not is_file_url(where):
        yield _bucket(where)
        return
    folder = Path(open_storage(where).url)
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: a file. Give the folder where stores are to lie.")
    yield _room(folder)
    with explained(folder, NBYTES), tempfile.TemporaryDirectory(prefix=".usjepa-doctor-", dir=folder) as scratch:
        yield from _speed(Path(scratch))


def _room(folder: Path) -> Finding:
    kind = _file_system(folder)
    usage, inodes = shutil.disk_usage(folder), os.statvfs(folder).f_favail
    told = f"{folder}: {size_text(usage.free)} of {size_text(usage.total)} free"
    told += f", {inodes:,} files" if inodes else ""
    told += f", {kind}" if kind else ""
    scarce = usage.free < _LEAST_FREE or 0 < inodes < _LEAST_INODES
    return Finding("room", f"{told}{': little. `usjepa-cache plan` says what a build needs' if scarce else ''}",
                   "note" if scarce else "ok")  # fmt: skip


def _file_system(folder: Path) -> str:
    """Return the kind of file system that a folder lies on; "" where the system does not tell."""
    try:
        lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    inside = [(len(at), kind) for _, at, kind, *_ in lines if folder.resolve().is_relative_to(at)]
    kind = max(inside, default=(0, ""))[1]
    return f"{kind} (over the network)" if kind.startswith(_NETWORK) else kind


def _speed(scratch: Path) -> Iterator[Finding]:
    """Yield how fast large files are written and read, and how long a small durable file takes."""
    data, file = os.urandom(1 << 20) * (NBYTES >> 20), scratch / "large"
    written = _seconds(lambda: write_durably(file, data))
    with file.open("rb", buffering=0) as handle:
        if hasattr(os, "posix_fadvise"):  # out of the page cache, so that the disk is timed and not the memory
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        read = _seconds(handle.readall)
    yield Finding("large files", f"{size_text(NBYTES / written)}/s written, {size_text(NBYTES / read)}/s read")
    small = [_seconds(lambda n=n: write_durably(scratch / str(n), b"x")) for n in range(_SMALL_FILES)]  # type: ignore[misc]
    each = statistics.median(small)
    told = f"{1000 * each:.1f} ms each, made durable"
    if each > _SLOW_FSYNC_S:
        told += ": slow, so prefer large shards (cache.rows_per_shard)"
    yield Finding("small files", told, "note" if each > _SLOW_FSYNC_S else "ok")


def _bucket(where: str) -> Finding:
    storage = open_storage(where)
    each = statistics.median(_seconds(lambda: storage.size("zarr.json")) for _ in range(_REQUESTS))
    told = f"{where}: {1000 * each:.0f} ms per request"
    if each > _SLOW_REQUEST_S:
        return Finding("bucket", f"{told}: far away. `usjepa-cache copy` brings a store near", "note")
    return Finding("bucket", told)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return max(time.perf_counter() - start, 1e-9)
