"""Check that the target has space and inodes for the rest of a build."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from usjepa.cache.errors import WriteError
from usjepa.cache.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.state import State

BLOCK_NBYTES = 4096
"""Files take whole blocks; the usual one of ext4, XFS, tmpfs and NFS."""
_COMMIT_NBYTES = 4096
"""A commit record: half a KiB of JSON, hence one block (a shard with many unreadable frames lists them, and has less
data)."""
_MANIFEST_NBYTES_A_SHARD = 36
"""A manifest lists a 32-digit hash, quoted, for every shard of every layer."""
MANIFEST_COPIES = 3
"""The generation, the newest, and the temp file that becomes it."""
_FOLDER_SHARE = 64
"""Bytes of a folder's own entry for one file: name, inode number, hash tree."""


@dataclass(frozen=True)
class Need:
    """Space and inodes that are still to be taken."""

    nbytes: int
    """Whole blocks."""
    files: int
    """Inodes: files and folders."""


@dataclass(frozen=True)
class Room:
    """Space and inodes that a file system reports as left for this user."""

    nbytes: int
    files: int | None
    """None: it makes inodes as it needs them (btrfs, many shares)."""


def need_of_shards(sizes: Sequence[tuple[int, int]]) -> Need:
    """Return the space and inodes of shards, their commit records and the manifest.

    Args:
        sizes: (shards, bytes of each) pairs, one or more per layer.
    """
    shards = sum(count for count, _ in sizes)
    data = sum(count * _blocks(nbytes) for count, nbytes in sizes)
    manifests = MANIFEST_COPIES * _blocks(_MANIFEST_NBYTES_A_SHARD * shards + BLOCK_NBYTES)
    return Need(data + shards * (_COMMIT_NBYTES + 2 * _FOLDER_SHARE) + manifests, 2 * shards + MANIFEST_COPIES)


def need_of_build(state: State, layers: Sequence[Layer], done: Mapping[str, Collection[int]]) -> Need:
    """Return the need of a build: shards without a commit record, unreadable frames counted as rows.

    Args:
        state: the store's segments.
        layers: what is wanted.
        done: layer name -> committed shards.
    """
    sizes = [
        (1, layer.layout.size(len(state.rows_of_shard(shard))))
        for layer in layers
        for shard in range(state.shard_count)
        if shard not in done[layer.name]
    ]
    return need_of_shards(sizes) if sizes else Need(0, 0)


def room_at(folder: Path) -> Room:
    """Return the space and inodes left where a folder lies, or will lie."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    found = os.statvfs(folder)
    return Room(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def check_room(storage: Storage, need: Need) -> None:
    """Refuse a build that can't end for want of space; object storages have no such limit.

    Raises:
        WriteError: the target has less; the message gives both figures.
    """
    if not isinstance(storage, LocalStorage) or not need.files:
        return
    room = room_at(storage.root)
    few_inodes = room.files is not None and need.files > room.files
    lacks = []
    if need.nbytes > room.nbytes:
        lacks.append(f"{need.nbytes:,} bytes are still to be written and {room.nbytes:,} are free")
    if few_inodes:
        lacks.append(f"{need.files:,} files are still to be made and {room.files:,} inodes are free")
    if not lacks:
        return
    fewer = " Larger shards make fewer files: --set cache.rows_per_shard=N, in a new store." if few_inodes else ""
    raise WriteError(
        f"{storage.url}: {' and '.join(lacks)}, so the build could not end. It has not begun. Free some space or "
        "build elsewhere and run the same command again; int8 latents take half of fp16 (--set cache.precision=int8, "
        f"in a new store).{fewer} If the file system misreports what is free: --no-space-check."
    )


def _blocks(nbytes: int) -> int:
    return -(-nbytes // BLOCK_NBYTES) * BLOCK_NBYTES
