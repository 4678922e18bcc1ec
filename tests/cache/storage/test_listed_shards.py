"""What a bucket's listing shows of a shard isn't asked for again, and what it doesn't vouch for is."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.files.counting import CountingStorage
from tests.support.stores import arrays, layers, tables
from usjepa.cache.errors import NotSealedError
from usjepa.cache.storage.objects import ObjectStorage
from usjepa.cache.store.commits import committed_layers
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.storage.protocol import Listed

ROWS, PER_SHARD, SHARDS = 48, 4, 12
_numbers = itertools.count()
_PIXELS = "pixels/c.{}.0.0.0"


@pytest.fixture
def bucket() -> CountingStorage:
    """Return a bucket of this process that holds every shard of a store that is not sealed."""
    storage = ObjectStorage(f"memory:///{next(_numbers)}")
    writer = StoreWriter(storage)
    writer.create_or_open(PER_SHARD)
    writer.add_segment(*tables(ROWS), ROWS)
    for layer in layers(PER_SHARD).values():
        writer.add_layer(layer)
        content = arrays(layer, ROWS)
        for shard in range(SHARDS):
            rows = writer.state.rows_of_shard(shard)
            writer.write_shard(layer, shard, content[rows.start : rows.stop], [], {})
    return CountingStorage(storage)


def committed(storage: CountingStorage) -> dict[str, set[int]]:
    found = committed_layers(storage, list(layers(PER_SHARD).values()))
    return {name: set(commits) for name, commits in found.items()}


def everything_but(*pixels: int) -> dict[str, set[int]]:
    every = set(range(SHARDS))
    return {name: every - set(pixels) if name == "pixels" else every for name in layers()}


def test_in_a_bucket_what_is_committed_is_two_listings_a_layer_and_one_read_a_shard(bucket: CountingStorage) -> None:
    assert committed(bucket) == everything_but()
    assert bucket.requests == Counter(list=2 * 3, read=3 * SHARDS)
    assert bucket.waits <= 3
    assert all(name.startswith("commits/") for name in bucket.names_read)


def test_to_go_on_and_to_seal_reads_each_record_of_a_bucket_once_and_no_shard(bucket: CountingStorage) -> None:
    writer = StoreWriter(bucket)
    writer.attach()
    bucket.reset()
    writer.committed(writer.state.layers.values())
    writer.seal()
    assert bucket.requests == Counter(list=3 * 3, read=3 * SHARDS, write=2)


@pytest.mark.parametrize("damage", ["cut", "longer", "a neighbour's", "another's of that size", "empty", "missing"])
def test_a_shard_of_a_bucket_that_is_not_the_recorded_one_is_recognised_before_it_is_sealed(
    bucket: CountingStorage, damage: str
) -> None:
    name = _PIXELS.format(5)
    data = bucket.storage.read(name)
    made = {
        "cut": data[:-64],
        "longer": data + bytes(64),
        "a neighbour's": bucket.storage.read(_PIXELS.format(6)),
        "another's of that size": data[:-200] + bytes(200),
        "empty": b"",
    }
    if damage == "missing":
        bucket.storage.delete(name)
    else:
        bucket.storage.publish(name, made[damage])
    assert committed(bucket) == everything_but(5)
    assert [name for name in bucket.names_read if not name.startswith("commits/")] == [name]
    writer = StoreWriter(bucket)
    writer.attach()
    with pytest.raises(NotSealedError, match="layer pixels has 11 of 12 shards"):
        writer.seal()


def test_where_a_tool_copied_records_before_shards_each_shard_is_asked_for(bucket: CountingStorage) -> None:
    for shard in range(SHARDS):
        bucket.storage.publish(_PIXELS.format(shard), bucket.storage.read(_PIXELS.format(shard)))
    assert committed(bucket) == everything_but()
    assert bucket.requests["read"] == 3 * SHARDS + SHARDS


def test_a_shard_that_an_old_listing_does_not_show_is_asked_for(bucket: CountingStorage) -> None:
    class Stale(CountingStorage):
        def listings(self, folders: Sequence[str]) -> list[dict[str, Listed]]:
            shown = super().listings(folders)
            return [{name: listed for name, listed in one.items() if not name.startswith("c.7.")} for one in shown]

    storage = Stale(bucket.storage)
    assert committed(storage) == everything_but()
    assert storage.requests["read"] == 3 * SHARDS + 3
