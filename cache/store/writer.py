"""Write a store: segments, layers, whole shards, and the manifest that seals them.

Order, and why a crash anywhere is harmless: a segment's tables, then segment.json; a layer's zarr.json; a shard's
file, then its commit record; after all of them the manifest. Each step is durable before the next begins, and each
is only believed through the one after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.errors import DamageError, IdentityError, NotSealedError, StoreError, TeacherError
from usjepa.cache.identity import Json, differences, explain
from usjepa.cache.store.commits import Commit, Commits, committed_layers, read_commit, shard_matches
from usjepa.cache.store.descriptions import root_json
from usjepa.cache.store.generations import NEWEST, Manifest, Segment, generation_name
from usjepa.cache.store.layers import Layer, array_json, group_json
from usjepa.cache.store.memory import aligned_empty
from usjepa.cache.store.shard import pack_shard
from usjepa.cache.store.state import State, exists, read_state, refuse_unfinished, segment_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from usjepa.cache.storage.protocol import Storage

Holes = Sequence[tuple[int, str]]
"""(row, reason) of rows that hold no data."""


class StoreWriter:
    """A store under construction. Any method may be called again after a crash; `guard` is asked before each rename.

    Nothing is written while a copy or a removal has not ended, but by the `job` that it is.
    """

    def __init__(self, storage: Storage, guard: Callable[[], None] = lambda: None, job: str = "") -> None:
        self.storage = storage
        self.guard = guard
        self._job = job
        self._memory = _ShardMemory()
        self.state: State = State(0, (), {}, None)
        self._known: Commits = {}

    def attach(self) -> None:
        """Read what is there and change nothing: for a helper of the builder that made it ready."""
        refuse_unfinished(self.storage, self._job)
        self.state = read_state(self.storage)

    def create_or_open(self, rows_per_shard: int) -> None:
        """Create the store, or read what is there. An existing store keeps its own rows_per_shard."""
        refuse_unfinished(self.storage, self._job)
        if self._job or not exists(self.storage):
            self._publish_if_changed("zarr.json", root_json(rows_per_shard))
        self.state = read_state(self.storage)
        self._extend_arrays()

    def add_segment(self, sources: bytes | memoryview, rows: bytes | memoryview, count: int) -> Segment:
        """Append a segment of `count` rows at the next shard boundary; both tables are Parquet bytes."""
        number = len(self.state.segments) + 1
        segment = Segment(
            number,
            self.state.shard_count * self.state.rows_per_shard,
            count,
            xxhash.xxh3_128_hexdigest(sources),
            xxhash.xxh3_128_hexdigest(rows),
        )
        self.storage.publish(f"{segment.folder}/sources.parquet", sources)
        self.storage.publish(f"{segment.folder}/rows.parquet", rows)
        self.storage.publish(f"{segment.folder}/segment.json", segment_json(segment), self.guard)
        self.state = replace(self.state, segments=(*self.state.segments, segment))
        self._extend_arrays()
        return segment

    def add_layer(self, layer: Layer) -> Layer:
        """Create a layer, or check that the stored one is the same.

        Raises:
            IdentityError: the stored layer differs in a hard field; the difference is shown field by field.
        """
        stored = self.state.layers.get(layer.name)
        if layer.coding is not None:  # before the layer: an older version must not come upon it
            self._publish_if_changed("zarr.json", root_json(self.state.rows_per_shard, [layer]))
        if stored is None:
            parent, _, _child = layer.name.rpartition("/")
            if parent:
                self._publish_if_changed(f"{parent}/zarr.json", group_json())
            self.storage.publish(f"{layer.name}/zarr.json", array_json(layer, self.state.extent), self.guard)
            self.state = replace(self.state, layers={**self.state.layers, layer.name: layer})
            return layer
        check_same_layer(stored, layer, self.storage.url)
        return stored

    def _extend_arrays(self) -> None:
        # Shapes serve foreign readers; they may run ahead of the manifest, never behind it.
        for layer in self.state.layers.values():
            self._publish_if_changed(f"{layer.name}/zarr.json", array_json(layer, self.state.extent))

    def _publish_if_changed(self, name: str, data: bytes) -> None:
        if self.storage.size(name) is None or self.storage.read(name) != data:
            self.storage.publish(name, data)

    def committed(self, layers: Iterable[Layer]) -> Commits:
        """Return the finished shards of layers; those that were read or written here before are not read again."""
        wanted = list(layers)
        found = committed_layers(self.storage, wanted, self._known)
        self._known |= {name: dict(commits) for name, commits in found.items()}
        return found

    def write_shard(
        self,
        layer: Layer,
        shard: int,
        rows: NDArray[np.generic],
        holes: Holes,
        soft: Mapping[str, Json],
        blank: Holes = (),
        doubtful: Holes = (),
    ) -> Commit:
        """Publish one whole shard, then its commit record.

        Args:
            layer: where it belongs.
            shard: its number.
            rows: [n, *layer.shape] in row order, n the rows of this shard; what lies at a hole is not written.
            holes: rows of this shard that hold no data.
            soft: what it was computed with.
            blank: rows that show no echo, for the record.
            doubtful: rows whose region may show more than the scan, for the record.

        Raises:
            TeacherError: a float row is not finite.
            WriteError: the target can't take it.
        """
        numbers = self.state.rows_of_shard(shard)
        if rows.shape != (len(numbers), *layer.shape) or rows.dtype != np.dtype(layer.dtype):
            raise StoreError(
                f"shard {shard} of {layer.name} needs {layer.dtype} {(len(numbers), *layer.shape)}, "
                f"not {rows.dtype} {rows.shape}."
            )
        missing = {row for row, _ in holes}
        flat, nbytes = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data, layer.row_nbytes
        buffers = [
            None if number in missing else flat[i * nbytes : (i + 1) * nbytes] for i, number in enumerate(numbers)
        ]
        check, digest = _finite_check(rows, layer, numbers.start), bytes.fromhex(layer.digest)
        data, table = pack_shard(buffers, layer.layout, digest, numbers.start, self._memory.room, check)
        noted = tuple(sorted(holes)), tuple(sorted(blank)), tuple(sorted(doubtful))
        commit = Commit(shard, len(data), table, layer.digest, dict(soft), *noted)
        self._publish(layer, commit, data)
        return commit

    def _publish(self, layer: Layer, commit: Commit, data: memoryview) -> None:
        try:
            earlier = read_commit(self.storage, layer, commit.shard)
        except DamageError:  # a damaged record counts as none; verify names it, the new one replaces it
            earlier = None
        if earlier is not None and shard_matches(self.storage, layer, earlier):
            return  # a task that ran twice: what is committed stays
        self.publish_shard(layer, data, commit)

    def publish_shard(self, layer: Layer, data: memoryview, commit: Commit) -> None:
        """Publish a packed shard, then its commit record, in place of whatever is there."""
        self.storage.publish(layer.shard_name(commit.shard), data, self.guard)
        self.storage.publish(layer.commit_name(commit.shard), commit.to_bytes(), self.guard)
        self._known.setdefault(layer.name, {})[commit.shard] = commit

    def seal(self, removed: tuple[dict[str, Json], ...] = ()) -> Manifest:
        """Write the manifest of everything that is built, the first with `removed`; an unchanged state keeps its own.

        Raises:
            NotSealedError: a layer lacks shards; it names them and says what to run.
        """
        if not self.state.segments or not {"pixels", "regions"} <= set(self.state.layers):
            raise NotSealedError(f"{self.storage.url}: nothing is built yet. {_how_to_fill(None)}")
        commits = self.committed(layer for _, layer in sorted(self.state.layers.items()))
        wanted = range(self.state.shard_count)
        for name, found in commits.items():
            lacking = [shard for shard in wanted if shard not in found]
            if lacking:
                what = f"layer {name} has {len(found)} of {len(wanted)} shards"
                raise NotSealedError(f"{self.storage.url}: {what}. {_how_to_fill(self.state.layers[name])}")
        newest = self.state.newest
        manifest = Manifest(
            newest.generation + 1 if newest else 1,
            self.state.rows_per_shard,
            self.state.segments,
            {name: self.state.layers[name] for name in commits},
            {name: tuple(found[shard].table for shard in wanted) for name, found in commits.items()},
            {name: soft_runs([found[shard].soft for shard in wanted]) for name, found in commits.items()},
            tuple(sorted({hole for found in commits.values() for c in found.values() for hole in c.holes})),
            newest.repaired if newest else (),
            newest.audits if newest else (),
            newest.removed if newest else removed,
        )
        if newest is not None and newest.digest == manifest.digest:
            return newest
        return self.publish_generation(manifest)

    def publish_generation(self, manifest: Manifest) -> Manifest:
        """Write a manifest under its number and as the newest one."""
        self.storage.publish(generation_name(manifest.generation), manifest.to_bytes(), self.guard)
        self.storage.publish(NEWEST, manifest.to_bytes(), self.guard)
        self.state = replace(self.state, newest=manifest)
        return manifest


_VERSIONS = "identity.versions."
_OTHER_SETTINGS = (
    "Use the stored settings, or build into another store (another teacher needs another name: "
    "--set cache.teacher.name=NAME)."
)
_OTHER_VERSION = (
    "No setting changes versions: another version of usjepa cut these rows, with other algorithms. The store is read, "
    "trained on and verified as ever; to grow it or to ask another teacher, build a new one."
)


def check_same_layer(stored: Layer, wanted: Layer, where: str) -> None:
    """Raise IdentityError, field by field, when two layers of one name differ in anything that changes numbers."""
    found = hard_differences(stored, wanted)
    if found:
        raise IdentityError(
            f"{where}: layer {stored.name} was built with other settings (stored | wanted):\n{explain(found)}\n"
            + (_OTHER_VERSION if any(field.startswith(_VERSIONS) for field, _, _ in found) else _OTHER_SETTINGS)
        )


def hard_differences(stored: Layer, wanted: Layer) -> list[tuple[str, Json, Json]]:
    """Return (field, stored, wanted) of everything that changes numbers and differs between two layers of one name."""
    return differences(_asked_for(stored), _asked_for(replace(wanted, rows_per_shard=stored.rows_per_shard)))


def _asked_for(layer: Layer) -> dict[str, Json]:
    """Return a layer's description without what was found in a sample: that is computed once and kept in the store."""
    return {key: value for key, value in layer.to_json().items() if key not in ("channel_scale", "coding", "digest")}


def _how_to_fill(layer: Layer | None) -> str:
    if layer is not None and "converted" in layer.identity:
        axes = f" --axes {layer.identity['axes']}" if "axes" in layer.identity else ""
        named = f"--precision {layer.identity['precision']}{axes} --name {layer.teacher}"
        return f"Run usjepa-cache convert STORE {named} again: it makes what is missing."
    if layer is not None and layer.teacher is not None:
        return (
            f"Run build with the teacher {layer.teacher!r} again: it computes what is missing from the stored pixels."
        )
    return "Run the same build command again: it goes on where it stopped."


def soft_runs(values: Sequence[dict[str, Json]]) -> tuple[tuple[int, dict[str, Json]], ...]:
    """Return (first shard, soft identity) wherever it changes, so that a manifest holds each once."""
    runs: list[tuple[int, dict[str, Json]]] = []
    for shard, value in enumerate(values):
        if not runs or runs[-1][1] != value:
            runs.append((shard, value))
    return tuple(runs)


class _ShardMemory(threading.local):
    """Memory that a thread assembles its shards in, one after the other: at most one shard a writing thread."""

    def __init__(self) -> None:
        self._held = aligned_empty((0,), "uint8")

    def room(self, nbytes: int) -> memoryview:
        """Return memory of so many bytes; what the thread was given before is overwritten."""
        if len(self._held) < nbytes:
            self._held = aligned_empty((nbytes,), "uint8")
        return self._held[:nbytes].data


_EXPONENT: dict[str, np.unsignedinteger[Any]] = {"float16": np.uint16(0x7C00), "float32": np.uint32(0x7F800000)}
"""The exponent's bits of IEEE 754 binary16 and binary32: all of them set mean an infinity or no number."""


def finite_rows(rows: NDArray[np.generic]) -> Callable[[int], bool]:
    """Return what tells whether a row of a float16 or float32 array [n, ...] is finite throughout.

    By the exponents' bits: `np.isfinite` of float16 converts every value, ten times as slowly.
    """
    mask = _EXPONENT[rows.dtype.name]
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(mask.dtype)
    exponents = np.empty(flat.shape[1:], mask.dtype)
    return lambda place: bool(np.bitwise_and(flat[place], mask, out=exponents).max(initial=0) < mask)


def _finite_check(rows: NDArray[np.generic], layer: Layer, first_row: int) -> Callable[[int], None]:
    """Return what raises TeacherError at the place of a float row that is not finite."""
    if not np.issubdtype(rows.dtype, np.floating):
        return lambda place: None
    is_finite = finite_rows(rows)

    def check(place: int) -> None:
        if not is_finite(place):
            raise TeacherError(f"{layer.name}, row {first_row + place}: not finite; nothing of its shard is stored.")

    return check
