"""Find the files of a store that no kept generation names.

Three kinds are told apart: what earlier generations named, and scans that were killed, are garbage; what was begun and
not sealed yet is a builder's work, and goes only when asked for; files that are none of a store's are left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from usjepa.cache.store.generations import NEWEST, generation_name
from usjepa.cache.store.state import UNFINISHED, kept_generations, read_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from usjepa.cache.storage.protocol import Storage
    from usjepa.cache.store.generations import Manifest

_SHARD = re.compile(r"c\.(\d+)(\.0)+")
_RECORD = re.compile(r"(\d{6,})\.json")
_GENERATION = re.compile(r"(\d{6,})\.json")


@dataclass
class Heap:
    """Files that go or stay for one reason."""

    what: str
    files: dict[str, int] = field(default_factory=dict)
    """Name -> bytes, in the order in which they are deleted."""

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def __str__(self) -> str:
        return f"{self.what}: {len(self.files):,} files, {self.nbytes / 1e6:,.1f} MB"


@dataclass
class Garbage:
    """What is in a store beside its kept generations."""

    heaps: list[Heap] = field(default_factory=list)
    """What no kept generation names."""
    begun: list[Heap] = field(default_factory=list)
    """What a builder has begun and not sealed."""
    strangers: list[str] = field(default_factory=list)
    """Files that are none of a store's."""

    def add(self, heap: Heap, begun: bool = False) -> None:
        """Note a heap, unless it is empty."""
        if heap.files:
            (self.begun if begun else self.heaps).append(heap)


def find_garbage(storage: Storage, kept: Sequence[Manifest], dropped: Sequence[Manifest]) -> Garbage:
    """Return what lies in a store beside its kept generations.

    Args:
        storage: of the store.
        kept: the generations that stay, the newest among them.
        dropped: the others that can be read.
    """
    found = Garbage()
    _segments(storage, kept, dropped, found)
    _layers(storage, kept, dropped, found)
    _generations(storage, kept, found)
    known = {"pixels", "regions", "latents", "scales", "commits", "segments", "manifests", "references", "claims"}
    for folder in sorted(set(storage.folders("")) - known - {UNFINISHED, "pins", "scan"}):
        found.strangers.append(f"{folder}/")
    found.strangers += sorted(set(storage.names("")) - {"zarr.json", NEWEST})
    return found


def _segments(storage: Storage, kept: Sequence[Manifest], dropped: Sequence[Manifest], found: Garbage) -> None:
    named = {segment.folder for manifest in kept for segment in manifest.segments}
    before = {segment.folder for manifest in dropped for segment in manifest.segments}
    for name in storage.folders("segments"):
        folder = f"segments/{name}"
        if folder in named:
            continue
        # Its description goes first: tables without one count for nothing.
        files = _of(storage, folder, lambda name: name != "segment.json")
        whole = f"{folder}/segment.json" in files
        found.add(Heap(f"{folder} ({'begun, not sealed' if whole else 'a scan that was killed'})", files),
                  begun=whole and folder not in before)  # fmt: skip


def _layers(storage: Storage, kept: Sequence[Manifest], dropped: Sequence[Manifest], found: Garbage) -> None:
    named = {name for manifest in kept for name in manifest.layers}
    before = {name for manifest in dropped for name in manifest.layers}
    shards = max(manifest.shard_count for manifest in kept)
    for name in _layer_folders(storage):
        if name in named:
            _beyond(storage, name, shards, found)
            continue
        # Its description goes first: a layer without one is none, and no seal waits for its shards.
        files = _of(storage, name, lambda name: name != "zarr.json")
        files |= _of(storage, f"commits/{name}")
        if name.startswith("latents/"):
            reference = f"{name.removeprefix('latents/')}.safetensors"
            files |= _of(storage, "references", only=reference.__eq__)
        sealed = name in before or read_layer(storage, name) is None
        found.add(
            Heap(f"layer {name} ({'of earlier generations' if sealed else 'begun, not sealed'})", files), not sealed
        )


def _beyond(storage: Storage, name: str, shards: int, found: Garbage) -> None:
    """Note a kept layer's shards and records behind those that generations name, and files that are neither."""
    files: dict[str, int] = {}
    for folder, pattern in ((name, _SHARD), (f"commits/{name}", _RECORD)):
        for file, nbytes in storage.sizes(folder).items():
            shard = pattern.fullmatch(file)
            if shard is not None and int(shard[1]) >= shards:
                files[f"{folder}/{file}"] = nbytes
            elif shard is None and file != "zarr.json":
                found.strangers.append(f"{folder}/{file}")
    found.add(Heap(f"shards of {name} (begun, not sealed)", files), begun=True)


def _generations(storage: Storage, kept: Sequence[Manifest], found: Garbage) -> None:
    numbers = {manifest.generation for manifest in kept}
    files = {}
    for file, nbytes in storage.sizes("manifests").items():
        number = _GENERATION.fullmatch(file)
        if number is None:
            found.strangers.append(f"manifests/{file}")
        elif int(number[1]) not in numbers:
            files[f"manifests/{file}"] = nbytes
    found.add(Heap("manifests of earlier generations", files))  # last: until then they say what else was theirs


def _layer_folders(storage: Storage) -> Iterable[str]:
    """Return the names of layers that have files, of shards or of records."""
    for parent in ("latents", "scales"):
        names = {*storage.folders(parent), *storage.folders(f"commits/{parent}")}
        yield from (f"{parent}/{name}" for name in sorted(names))
    yield from ("pixels", "regions")


def _of(
    storage: Storage,
    folder: str,
    order: Callable[[str], object] = lambda name: 0,
    only: Callable[[str], bool] = lambda name: True,
) -> dict[str, int]:
    files = {name: nbytes for name, nbytes in storage.sizes(folder).items() if only(name)}
    return {f"{folder}/{name}": files[name] for name in sorted(files, key=lambda name: (order(name), name))}


def dropped_numbers(storage: Storage, kept: Iterable[int]) -> list[int]:
    """Return the numbers of the generations that do not stay, ascending."""
    stay = {generation_name(number) for number in kept}
    return [number for number in kept_generations(storage) if generation_name(number) not in stay]
