"""Describe what is built so far of a store that is not sealed yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.store.commits import committed_layers
from usjepa.cache.store.generations import Manifest

if TYPE_CHECKING:
    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.state import State


def progress_text(storage: Storage, state: State) -> str:
    """Return how far each layer of an unsealed store is."""
    if not state.layers:
        return "nothing is built yet"
    done = committed_layers(storage, list(state.layers.values()))
    return ", ".join(f"{name} {len(found)}/{state.shard_count} shards" for name, found in done.items())


def partial_manifest(storage: Storage, state: State) -> Manifest:
    """Return what is committed so far as a generation 0; shards not yet built have an empty table hash."""
    found = committed_layers(storage, list(state.layers.values()))
    shards = range(state.shard_count)
    return Manifest(
        0,
        state.rows_per_shard,
        state.segments,
        state.layers,
        {name: tuple(c[i].table if i in c else "" for i in shards) for name, c in found.items()},
        dict.fromkeys(found, ()),
        tuple(sorted({hole for c in found.values() for commit in c.values() for hole in commit.holes})),
    )
