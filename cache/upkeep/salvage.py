"""Recover the intact rows of a damaged shard.

Where each row lies follows from which rows exist, so neither index nor file size is needed. Rows are proven by the
shard's checksum table, if that is still the committed one; without it, rows whose own crc32c holds are candidates,
and only the hash of the table that they would give proves them, all together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.store.row_check import is_intact, row_hash
from usjepa.cache.store.shard import pack_shard, table_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.layers import Layer

_HEADER_NBYTES = 64


@dataclass(frozen=True)
class Salvaged:
    """The rows of one shard that survive."""

    proven: dict[int, bytes]
    """Row -> its bytes; the table vouches for each."""
    candidates: dict[int, bytes]
    """Row -> bytes that are whole but may belong elsewhere; only when the table is lost."""


def salvage(storage: Storage, layer: Layer, shard: int, present: Sequence[int], table: str) -> Salvaged:
    """Read what is left of a shard.

    Args:
        storage: where the store lies.
        layer: of which layer.
        shard: its number.
        present: the rows that exist in it, ascending.
        table: xxh3-128 (hex) of its table, as the manifest holds it.
    """
    try:
        most = layer.layout.size(layer.rows_per_shard)
        data = memoryview(storage.read_range(layer.shard_name(shard), 0, most))
    except FileNotFoundError:
        return Salvaged({}, {})
    layout, digest, first = layer.layout, bytes.fromhex(layer.digest), shard * layer.rows_per_shard
    end = len(present) * layout.slot_nbytes
    found_table = data[end : end + layout.table_nbytes]
    hashes = np.frombuffer(found_table, "<u8", offset=_HEADER_NBYTES) if table_hash(found_table) == table else None
    proven: dict[int, bytes] = {}
    candidates: dict[int, bytes] = {}
    for place, row in enumerate(present):
        slot = data[place * layout.slot_nbytes : (place + 1) * layout.slot_nbytes]
        if len(slot) < layout.slot_nbytes or not is_intact(slot, layout.row_nbytes):
            continue
        content = bytes(slot[: layout.row_nbytes])
        if hashes is None:
            candidates[row] = content
        elif row_hash(digest, row, slot) == int(hashes[row - first]):
            proven[row] = content
    return Salvaged(proven, candidates)


def assemble(layer: Layer, shard: int, rows: Mapping[int, bytes]) -> tuple[memoryview, str]:
    """Return a shard's file and the hash of its table, from the bytes of all rows that exist in it."""
    first = shard * layer.rows_per_shard
    buffers = [rows.get(first + i) for i in range(layer.rows_per_shard)]
    return pack_shard(buffers, layer.layout, bytes.fromhex(layer.digest), first)
