"""Export a store as plain files, a part a shard, every row checked.

A file is written under a temporary name and renamed, so what is there is whole; an export that was interrupted goes on
with the parts that are missing. `export.json` comes last and names every file with its xxh3-128, read back from the
disk. Run again on a finished export, the command reads all files and makes those anew that are not what it wrote.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.building.parts import WHOLE
from usjepa.cache.converting.plain import FORMATS, Part, names_of
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.identity import Json, digest_of, hash_file, parse_json
from usjepa.cache.interrupt import graceful_interrupts, safe_point
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.claims import hold_claim
from usjepa.cache.storage.durable import is_temp, write_durably
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.urls import is_url, shown
from usjepa.cache.terminal.progress import ProgressBar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from usjepa.cache.reading.store import Store

logger = logging.getLogger(__name__)

INDEX, MARK = "export.json", "export.unfinished.json"
_GO_ON = "What is written stays: run the same command again to go on."


def export(store: str, output: str, format_: str, layers: Sequence[str] = (), steal: bool = False) -> dict[str, Json]:
    """Write rows of a sealed store as plain files; return what `export.json` says.

    Args:
        store: folder or URL.
        output: a folder on this machine, new or of the same export.
        format_: `parquet`, `npy` or `webdataset`.
        layers: names of layers; none: all.
        steal: take over the claim of an export known to be dead.

    Raises:
        ClaimedError: another export into the folder is alive.
        UsageError: the folder holds something else, or the store has no such layer.
        DamageError: a row is damaged; or a file is not on the disk as it was written.
        WriteError: the folder can't take a file.
    """
    if is_url(output):
        raise UsageError(f"{shown(output)}: plain files are written to a folder on this machine, not to a URL.")
    folder = Path(output)
    opened = open_store(store)
    names = list(dict.fromkeys(layers)) or list(opened.layers)
    unknown = [name for name in names if name not in opened.layers]
    if unknown:
        raise UsageError(f"{store}: no layer {unknown[0]!r}; it holds {', '.join(opened.layers)}.")
    job = _described(opened, format_, names)
    _earlier(folder, job)  # a folder of other things is left alone, without so much as a claim
    with graceful_interrupts(_GO_ON), hold_claim(LocalStorage(folder), WHOLE, steal, doing="exported") as claim:
        known = _begin(folder, job)
        files: dict[str, Json] = {}
        shards = opened.rows // opened.manifest.rows_per_shard
        with ProgressBar(len(opened), "export", unit="rows") as progress:
            for number in np.unique(shards).tolist():
                safe_point()
                rows = opened.rows[shards == number]
                claim.check()
                files |= _part(opened, folder, format_, number, rows, names, known)
                progress.update(len(rows))
        index = {**job, "files": files}
        claim.check()
        write_durably(folder / INDEX, json.dumps({**index, "digest": digest_of(index)}, indent=1).encode() + b"\n")
        (folder / MARK).unlink(missing_ok=True)
    opened.close()
    nbytes = sum(entry["bytes"] for entry in files.values())
    logger.info(f"exported: {len(opened):,} rows, {len(files):,} files, {nbytes / 1e6:,.1f} MB in {folder}")
    return index


def _described(store: Store, format_: str, names: Sequence[str]) -> dict[str, Json]:
    """Return what an export is of, and how its numbers are read."""
    described = {name: store.layers[name] for name in names}
    return {
        "format": format_,
        "store": store.manifest.content_digest(names),
        "generation": store.generation,
        "rows": len(store),
        "layers": {
            name: {
                "dtype": layer.dtype,
                "shape": list(layer.shape),
                "identity": layer.identity,
                # How its values lead to latents: docs/store-format.md
                **({"channel_scale": list(layer.channel_scale)} if layer.channel_scale else {}),
                **({"coding": layer.coding.to_json()} if layer.coding is not None else {}),
            }
            for name, layer in described.items()
        },
    }


@dataclass(frozen=True)
class _Earlier:
    """What an earlier call left in the folder."""

    files: dict[str, Json]
    """Those it had written when it ended, with their hashes."""
    trusted: bool
    """Whether other files are whole when they are there: a call of this very export wrote them and did not end."""


def _begin(folder: Path, job: dict[str, Json]) -> _Earlier:
    """Mark the folder as this export's; return what an earlier call left."""
    earlier = _earlier(folder, job)
    for path in folder.iterdir():
        if is_temp(path.name):
            path.unlink(missing_ok=True)
    # What nobody vouches for now must not be taken for this export's by the call that goes on.
    write_durably(folder / MARK, json.dumps({**job, "trusted": earlier.trusted}).encode() + b"\n")
    return earlier


def _earlier(folder: Path, job: dict[str, Json]) -> _Earlier:
    """Return what lies in the folder; raises UsageError where it is not of this export."""
    found = [path for path in (folder / INDEX, folder / MARK) if path.is_file()]
    if not found:
        if folder.exists() and not (folder.is_dir() and all(_is_passing(path) for path in folder.iterdir())):
            raise UsageError(f"{folder}: is not empty and no export. Give a new folder.")
        return _Earlier({}, trusted=True)
    told = {path.name: _or_damaged(path) for path in found}
    for earlier in told.values():
        if earlier is not None and {key: earlier.get(key) for key in job} != json.loads(json.dumps(job)):
            raise UsageError(
                f"{folder}: holds the export of another store, format or choice of layers. Give a new folder."
            )
    index, mark = told.get(INDEX, {}), told.get(MARK, {})
    if index is None or mark is None or (index and index.pop("digest", None) != digest_of(index)):
        damaged = folder / (MARK if mark is None else INDEX)
        logger.warning(f"{damaged}: damaged, so that nothing vouches for the files beside it: all are made anew.")
        return _Earlier({}, trusted=False)
    return _Earlier(index.get("files", {}), bool(mark) and mark.get("trusted", True) is True)


def _is_passing(path: Path) -> bool:
    """Return whether something in a folder is there for the length of a call alone."""
    return is_temp(path.name) or path.name == "claims"


def _or_damaged(path: Path) -> dict[str, Any] | None:
    try:
        return parse_json(path.read_bytes(), str(path))
    except DamageError:
        return None


def _part(
    store: Store,
    folder: Path,
    format_: str,
    number: int,
    rows: np.ndarray[Any, np.dtype[np.int64]],
    layers: Sequence[str],
    known: _Earlier,
) -> dict[str, Json]:
    """Write the files of a part that are missing or not what was written; return length and hash of all of them."""
    names = names_of(format_, number, layers)
    if all(_is_whole(folder / name, known) for name in names):
        return {name: known.files.get(name) or _proof(folder / name) for name in names}
    arrays = store.read(rows, layers=layers).arrays
    ordered = {name: arrays[name] for name in layers}
    spacing = None if np.isnan(store.spacing).all() else store.spacing_of(rows)
    part = Part(number, rows, [store.origin_of(int(row)) for row in rows], ordered, spacing)
    found: dict[str, Json] = {}
    for name, data in FORMATS[format_](part).items():
        write_durably(folder / name, data)
        found[name] = _proof(folder / name)
        if found[name]["xxh3_128"] != xxhash.xxh3_128_hexdigest(data):
            raise DamageError(f"{folder / name}: the disk does not give back what was written. Check it.")
    return found


def _is_whole(path: Path, known: _Earlier) -> bool:
    """Return whether a file is there, and what it was when it was written, as far as that is known."""
    proof = known.files.get(path.name)
    return path.is_file() and (known.trusted if proof is None else _proof(path) == proof)


def _proof(path: Path) -> dict[str, Json]:
    return {"bytes": os.stat(path).st_size, "xxh3_128": hash_file(path)}
