"""Read what a store holds right now, sealed or not: segments, layers and newest generation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from usjepa.cache.errors import DamageError, FormatError, NotSealedError
from usjepa.cache.identity import canonical, differences, digest_of, explain, parse_json
from usjepa.cache.storage.location import at_once
from usjepa.cache.store.commits import committed_layers
from usjepa.cache.store.generations import NEWEST, Manifest, Segment, generation_name
from usjepa.cache.store.layers import Layer, check_format, parse_array_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usjepa.cache.storage.protocol import Storage

_FOLDERS = ("latents", "scales")
UNFINISHED = "unfinished"
"""Folder of a file a job that rewrites or fills the whole store, from its first step to its last."""
_TO_FINISH = {
    "copy": "Run the same `usjepa-cache copy` again to finish it.",
    "remove": "Run `usjepa-cache remove` on it again to finish it.",
}


@dataclass(frozen=True)
class State:
    """Segments and layers as their own files describe them."""

    rows_per_shard: int
    segments: tuple[Segment, ...]
    layers: dict[str, Layer]
    newest: Manifest | None

    @property
    def extent(self) -> int:
        """One past the last row number."""
        return self.segments[-1].first_row + self.segments[-1].rows if self.segments else 0

    @property
    def shard_count(self) -> int:
        """Shards of each layer when all are built."""
        return self.segments[-1].shards(self.rows_per_shard).stop if self.segments else 0

    def segment_of_shard(self, shard: int) -> Segment:
        """Return the segment that a shard belongs to."""
        first = shard * self.rows_per_shard
        for segment in self.segments:
            if first in range(segment.first_row, segment.first_row + segment.rows):
                return segment
        raise DamageError(f"shard {shard} belongs to no segment.", shard=shard)

    def rows_of_shard(self, shard: int) -> range:
        """Return the row numbers of a shard; those of a ragged last one stop at its segment's end."""
        first, segment = shard * self.rows_per_shard, self.segment_of_shard(shard)
        return range(first, min(first + self.rows_per_shard, segment.first_row + segment.rows))


def job_name(job: str) -> str:
    """Return the file that says that a job, `copy` or `remove`, has not ended."""
    return f"{UNFINISHED}/{job}.json"


def refuse_unfinished(storage: Storage, but: str = "") -> None:
    """Raise NotSealedError while a copy into a store, or a removal from it, has not ended; `but` that job."""
    for name in storage.names(UNFINISHED):
        job = name.removesuffix(".json")
        if job != but and job in _TO_FINISH:
            raise NotSealedError(f"{storage.url}: a {job} that was begun here has not ended. {_TO_FINISH[job]}")


def exists(storage: Storage) -> bool:
    """Return whether there is a store; raises FormatError when something else, or a part of one, is in its place."""
    if storage.size("zarr.json") is not None:
        return True
    names, folders = storage.names(""), set(storage.folders(""))
    if UNFINISHED in folders:
        refuse_unfinished(storage)
    if names or folders - {"claims"}:  # a builder claims before it makes anything
        raise FormatError(
            _cut_copy(storage, names, folders)
            or f"{storage.url}: holds other files and no zarr.json, so it is no store. Give an empty or new folder."
        )
    return False


def _cut_copy(storage: Storage, names: Iterable[str], folders: Iterable[str]) -> str:
    """Return what to say of files of a store without its zarr.json; empty where there are none."""
    found = [name for name in ("commits", "manifest.json", "manifests", "segments") if name in {*names, *folders}]
    if not found:
        return ""
    return (
        f"{storage.url}: holds {', '.join(found)} of a store and no zarr.json: a copy that was cut, or a store that "
        f"lost it, which must not be built over. Finish a copy: usjepa-cache copy --resume SRC {storage.url}; mend a "
        "store: usjepa-cache verify STORE --repair."
    )


def root_settings(storage: Storage) -> int:
    """Check the format and return rows_per_shard; raises FormatError when there is no store of a known format."""
    where = f"{storage.url}/zarr.json"
    try:
        data = storage.read("zarr.json")
    except FileNotFoundError as error:
        raise FormatError(
            _cut_copy(storage, storage.names(""), storage.folders(""))
            or f"{storage.url}: no store here (no zarr.json). "
            f"Build one: usjepa-cache build {storage.url} --pipeline NAME"
        ) from error
    check_format(data, where)
    rows = parse_json(data, where)["attributes"]["usjepa"].get("rows_per_shard")
    if not isinstance(rows, int) or not 0 < rows <= 65536:
        raise DamageError(f"{where}: rows_per_shard is {rows!r}: damaged.")
    return rows


def read_manifest(storage: Storage, generation: int | None = None) -> Manifest | None:
    """Return a generation's manifest (the newest by default), None when it was never sealed."""
    name = NEWEST if generation is None else generation_name(generation)
    try:
        return Manifest.from_bytes(storage.read(name), f"{storage.url}/{name}")
    except FileNotFoundError:
        return None


def kept_generations(storage: Storage) -> list[int]:
    """Return the numbers of the generations whose manifests are kept, ascending."""
    stems = [name.removesuffix(".json") for name in storage.names("manifests") if name.endswith(".json")]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def segment_json(segment: Segment) -> bytes:
    """Return the bytes of `segment.json`; it is written last, so a segment that has one is whole."""
    body = segment.to_json()
    return canonical({**body, "digest": digest_of(body)}) + b"\n"


def _read_segments(storage: Storage) -> tuple[Segment, ...]:
    """Return the finished segments in order."""
    found = []
    names = [f"segments/{folder}/segment.json" for folder in storage.folders("segments")]
    for name, read in zip(names, at_once(storage, [partial(_or_none, storage, name) for name in names]), strict=True):
        if read is None:
            continue  # a scan that was killed: made again by the next build
        body = parse_json(read, f"{storage.url}/{name}")
        stored = body.pop("digest", None)
        if digest_of(body) != stored:
            raise DamageError(f"{storage.url}/{name}: does not match its own digest: damaged.")
        found.append(Segment.from_json(body, f"{storage.url}/{name}"))
    return tuple(found)


def read_layer(storage: Storage, name: str) -> Layer | None:
    """Return a layer from its own zarr.json, None when it has none."""
    file = f"{name}/zarr.json"
    data = _or_none(storage, file)
    return None if data is None else parse_array_json(name, data, f"{storage.url}/{file}")


def _or_none(storage: Storage, name: str) -> bytes | None:
    try:
        return storage.read(name)
    except FileNotFoundError:
        return None


def _layer_names(storage: Storage) -> list[str]:
    """Return the names of the layers that have a folder."""
    names: list[str] = [name for name in ("pixels", "regions") if name in storage.folders("")]
    for parent in _FOLDERS:
        names += [f"{parent}/{name}" for name in storage.folders(parent)]
    return names


def read_state(storage: Storage) -> State:
    """Read what a store holds; raises FormatError or DamageError when its own files contradict one another."""
    rows_per_shard = root_settings(storage)
    newest = read_manifest(storage)
    names = _layer_names(storage)
    found = at_once(storage, [partial(read_layer, storage, name) for name in names])
    layers = {name: layer for name, layer in zip(names, found, strict=True) if layer is not None}
    for name, sealed in (newest.layers if newest else {}).items():
        check_layer(storage, sealed, layers.get(name))
    return State(rows_per_shard, _read_segments(storage), layers, newest)


def check_layer(storage: Storage, sealed: Layer, found: Layer | None) -> None:
    """Check that a layer's zarr.json is there and describes what the manifest sealed."""
    where = f"{storage.url}/{sealed.name}/zarr.json"
    if found is None:
        raise DamageError(f"{where}: missing, though the store's manifest lists the layer. It is never made anew.")
    if found.digest != sealed.digest:
        diff = explain(differences(sealed.to_json(), found.to_json()))
        raise DamageError(f"{where}: describes another layer than the manifest (manifest | file):\n{diff}")


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
