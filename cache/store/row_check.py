"""Compute the checksums of a row: one bound to its place, one for Zarr.

Packing a shard makes them; reading, `verify` and salvage compare them. The place-bound hash is the xxh3-64 of the whole
slot (row, crc32c, padding), seeded with the xxh3-64 of the layer's digest and the row number, so that the bytes of
another row, layer or version never pass. The crc32c is what the inner codec of the Zarr shard checks.
"""

from __future__ import annotations

import google_crc32c
import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

CRC_NBYTES = 4
"""Bytes of a crc32c, little-endian, behind the data that it covers."""


def row_hash(digest: bytes, row: int, data: bytes | memoryview, tail: bytes | memoryview = b"") -> int:
    """Return the xxh3-64 of a slot at its place.

    Args:
        digest: 16 bytes, of the layer's hard identity.
        row: the global row number.
        data: the slot, or its first part.
        tail: the rest of the slot.
    """
    # `update` of 100 kB or more lets go of the interpreter's lock; the one-shot function does not.
    hasher = xxh3_64(data, xxh3_64_intdigest(digest + row.to_bytes(8, "little")))
    hasher.update(tail)
    return hasher.intdigest()


def crc_of(data: bytes | memoryview) -> bytes:
    """Return the crc32c of some bytes as it is stored."""
    # An array, not a memoryview, which the library refuses: it would have to be copied into bytes.
    return google_crc32c.value(np.frombuffer(data, np.uint8)).to_bytes(CRC_NBYTES, "little")  # type: ignore[no-any-return]


def slot_tail(data: bytes | memoryview, tail_nbytes: int) -> bytes:
    """Return the `tail_nbytes` bytes that follow a row in its slot: the row's crc32c, and zeros."""
    return crc_of(data) + bytes(tail_nbytes - CRC_NBYTES)


def is_intact(slot: memoryview, row_nbytes: int) -> bool:
    """Return whether a slot's crc32c and padding are those of the row in it, wherever the slot belongs."""
    return bytes(slot[row_nbytes:]) == slot_tail(slot[:row_nbytes], len(slot) - row_nbytes)
