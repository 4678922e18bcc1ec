"""The check of a row: the documented hash of its slot at its place, equal wherever it is computed."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from usjepa.cache.store.row_check import is_intact, row_hash, slot_tail
from usjepa.cache.store.shard import ShardLayout, pack_shard, parse_trailer


@settings(max_examples=200)
@given(data=st.data())
def test_every_row_of_any_size_has_the_hash_that_xxhash_gives_its_slot_and_no_changed_byte_passes(
    data: st.DataObject,
) -> None:
    layout, row = ShardLayout(1, data.draw(st.integers(1, 3000))), data.draw(st.integers(0, 2**62))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    digest, content = rng.bytes(16), rng.bytes(layout.row_nbytes)
    packed, table = pack_shard([content], layout, digest, row)
    slot = packed[: layout.slot_nbytes]
    hashed = parse_trailer(bytes(packed[layout.slot_nbytes :]), len(packed), layout, table, "here").hashes.item(0)
    seed = xxhash.xxh3_64_intdigest(digest + row.to_bytes(8, "little"))
    assert hashed == xxhash.xxh3_64_intdigest(bytes(slot), seed)
    for data_, tail in ((slot, b""), (slot[: layout.row_nbytes], slot[layout.row_nbytes :])):
        assert row_hash(digest, row, data_, tail) == hashed
    assert is_intact(slot, layout.row_nbytes)
    changed = bytearray(slot)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    assert row_hash(digest, row, bytes(changed)) != hashed
    assert not is_intact(memoryview(changed), layout.row_nbytes)


@pytest.mark.parametrize("change", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["another row", "another layer", "shifted"])
def test_whole_bytes_of_another_place_have_another_hash(change: tuple[int, int, int]) -> None:
    row, layer, shift = change
    slots = np.random.default_rng(0).bytes(256)
    here = row_hash(bytes(16), 7, slots[:128])
    assert row_hash(bytes([layer]) + bytes(15), 7 + row, slots[shift : 128 + shift]) != here


def test_the_tail_of_a_slot_is_the_rows_crc32c_and_zeros() -> None:
    assert slot_tail(b"123456789", 55) == google_crc32c.value(b"123456789").to_bytes(4, "little") + bytes(51)
