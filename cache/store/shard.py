"""Pack and parse a shard file: a Zarr v3 shard with a checksum table.

    slot of row 0 | slot of row 1 | ... | table | Zarr index | crc32c of the index

* slot: the row's bytes, their crc32c (4 bytes, the inner `crc32c` codec), zeros up to a multiple of 64.
  Rows that do not exist (holes) have no slot.
* table: not named by the index; Zarr readers skip it. It binds every row to its place: an xxh3-64 of the
  whole slot, seeded from the layer's identity digest and the row number.
* index: per row (offset, length incl. crc32c) as little-endian uint64; both 2**64 - 1 for a hole.

All integers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from usjepa.cache.errors import DamageError
from usjepa.cache.store.memory import ALIGNMENT
from usjepa.cache.store.row_check import CRC_NBYTES, crc_of, is_intact, row_hash, slot_tail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_MAGIC = b"USJTABLE"
_TABLE_VERSION = 1
_MISSING = 2**64 - 1
Room = Callable[[int], memoryview]
_HEADER = struct.Struct("<8sII16sQQ16x")  # magic, version, rows a shard, digest, first row, bytes a row
assert _HEADER.size == ALIGNMENT


@dataclass(frozen=True)
class ShardLayout:
    """Where things lie in the shards of one layer."""

    rows: int
    """Rows in a full shard."""
    row_nbytes: int
    """Bytes of one row, without its crc32c."""

    @property
    def slot_nbytes(self) -> int:
        """Bytes from one row's start to the next."""
        return -(-(self.row_nbytes + CRC_NBYTES) // ALIGNMENT) * ALIGNMENT

    @property
    def tail_nbytes(self) -> int:
        """Bytes of a slot behind the row itself: crc32c and zeros."""
        return self.slot_nbytes - self.row_nbytes

    @property
    def table_nbytes(self) -> int:
        """Bytes of the checksum table."""
        return _HEADER.size + 8 * self.rows

    @property
    def index_nbytes(self) -> int:
        """Bytes of the Zarr index with its crc32c."""
        return 16 * self.rows + CRC_NBYTES

    @property
    def trailer_nbytes(self) -> int:
        """Bytes of table and index, the end of the file."""
        return self.table_nbytes + self.index_nbytes

    def size(self, present: int) -> int:
        """Return the file's size when `present` rows exist."""
        return present * self.slot_nbytes + self.trailer_nbytes


@dataclass(frozen=True, slots=True)
class Trailer:
    """The end of a shard: where each row lies, and the hash of its slot."""

    offsets: NDArray[np.int64]
    """[rows] byte offset of each row's slot, -1 for a hole."""
    hashes: NDArray[np.uint64]
    """[rows] xxh3-64 of each row's slot, 0 for a hole."""


def pack_shard(
    rows: Sequence[memoryview | bytes | None],
    layout: ShardLayout,
    digest: bytes,
    first_row: int,
    room: Room = lambda nbytes: memoryview(bytearray(nbytes)),
    check: Callable[[int], None] = lambda place: None,
) -> tuple[memoryview, str]:
    """Assemble a shard in memory.

    Args:
        rows: each row's bytes in row order, None for a hole; fewer than `layout.rows` leaves holes at the end.
        layout: the layer's layout.
        digest: 16 bytes, of the layer's hard identity.
        first_row: the global number of the shard's first row.
        room: gives memory of so many bytes, whatever it holds.
        check: called with each row's place in `rows` before it is copied; may raise.

    Returns:
        The file's bytes and the xxh3-128 (hex) of its table.
    """
    view = room(layout.size(sum(row is not None for row in rows)))
    into = np.frombuffer(view, np.uint8)
    hashes = np.zeros(layout.rows, dtype="<u8")
    index = np.full((layout.rows, 2), _MISSING, dtype="<u8")
    offset, nbytes = 0, layout.row_nbytes
    for i, row in enumerate(rows):
        if row is None:
            continue
        # Checked, copied, summed and hashed one row at a time, while it lies in the processor's cache; by calls that
        # leave the interpreter to the teacher's thread, as a memoryview's copy and the one-shot hash do not.
        check(i)
        slot = into[offset : offset + layout.slot_nbytes]
        slot[:nbytes] = np.frombuffer(row, np.uint8)
        view[offset + nbytes : offset + layout.slot_nbytes] = slot_tail(slot[:nbytes].data, layout.tail_nbytes)
        hashes[i] = row_hash(digest, first_row + i, slot.data)
        index[i] = offset, nbytes + CRC_NBYTES
        offset += layout.slot_nbytes
    table = _HEADER.pack(_MAGIC, _TABLE_VERSION, layout.rows, digest, first_row, layout.row_nbytes) + hashes.tobytes()
    index_bytes = index.tobytes()
    view[offset : offset + len(table)] = table
    view[offset + len(table) :] = index_bytes + crc_of(index_bytes)
    return view, table_hash(table)


def table_hash(table: bytes | memoryview) -> str:
    """Return the hash of a table as a commit record and a manifest hold it."""
    return xxhash.xxh3_128_hexdigest(table)


def parse_trailer(trailer: bytes, file_size: int, layout: ShardLayout, expected: str, where: str) -> Trailer:
    """Check a shard's last bytes against the hash that the manifest holds and return what they say.

    Args:
        trailer: the file's last `layout.trailer_nbytes` bytes.
        file_size: the file's size in bytes.
        layout: the layer's layout.
        expected: the table's xxh3-128 (hex) in the manifest or commit record.
        where: names the shard in messages.

    Raises:
        DamageError: the table is not the one that was committed, or the index contradicts it.
    """
    if len(trailer) != layout.trailer_nbytes:
        raise DamageError(f"{where}: {file_size:,} bytes are too few for a shard; it was cut or never finished.")
    table, index_bytes = trailer[: layout.table_nbytes], trailer[layout.table_nbytes :]
    if table_hash(table) != expected:
        raise DamageError(f"{where}: its checksum table is not the one committed: a stale, swapped or damaged shard.")
    hashes = np.frombuffer(table, dtype="<u8", offset=_HEADER.size)
    if crc_of(index_bytes[:-CRC_NBYTES]) != index_bytes[-CRC_NBYTES:]:
        raise DamageError(f"{where}: the crc32c of its index does not match: the index is damaged.")
    full_index, full_offsets = _full(layout)
    if index_bytes == full_index:
        present, offsets = layout.rows, full_offsets
    else:
        offsets = _offsets_of(index_bytes, layout, where)
        present = int((offsets >= 0).sum())
    if file_size != layout.size(present):
        raise DamageError(f"{where}: {file_size:,} bytes, not the {layout.size(present):,} its index needs.")
    return Trailer(offsets, hashes)


def damaged_slots(data: memoryview, trailer: Trailer, layout: ShardLayout, digest: bytes, first_row: int) -> list[int]:
    """Return the places of rows whose slot, crc32c or padding is not what was written, in a whole shard in memory."""
    bad = []
    for place in np.flatnonzero(trailer.offsets >= 0).tolist():
        offset = int(trailer.offsets[place])
        slot = data[offset : offset + layout.slot_nbytes]
        good = row_hash(digest, first_row + place, slot) == int(trailer.hashes[place])
        if not good or not is_intact(slot, layout.row_nbytes):
            bad.append(place)
    return bad


@lru_cache(maxsize=16)
def _full(layout: ShardLayout) -> tuple[bytes, NDArray[np.int64]]:
    """Return the index, with its crc32c, and the offsets of a shard without holes: most shards are compared with it."""
    index = np.full((layout.rows, 2), layout.row_nbytes + CRC_NBYTES, dtype="<u8")
    index[:, 0] = np.arange(layout.rows, dtype=np.uint64) * np.uint64(layout.slot_nbytes)
    offsets = index[:, 0].astype(np.int64)
    offsets.setflags(write=False)
    data = index.tobytes()
    return data + crc_of(data), offsets


def _offsets_of(index_bytes: bytes, layout: ShardLayout, where: str) -> NDArray[np.int64]:
    """Return [rows] offsets, -1 for holes; raises DamageError where the index names other places than the layout's."""
    index = np.frombuffer(index_bytes[:-CRC_NBYTES], dtype="<u8").reshape(layout.rows, 2)
    hole = index[:, 0] == _MISSING
    place = np.cumsum(~hole) - 1
    wanted = np.where(hole, _MISSING, place.astype(np.uint64) * np.uint64(layout.slot_nbytes))
    lengths = np.where(hole, _MISSING, np.uint64(layout.row_nbytes + CRC_NBYTES))
    if not (np.array_equal(index[:, 0], wanted) and np.array_equal(index[:, 1], lengths)):
        raise DamageError(f"{where}: its index names places where no row can lie: the index is damaged or forged.")
    return np.where(hole, -1, place * layout.slot_nbytes).astype(np.int64)
