"""Features, computed once per (encoder, task): a safetensors file each, found again by what went into it.

The file's name is the hash of the encoder's identity, the task store's content and the rows, so that a finished
file never needs asking whether it still fits. The file carries the hash of its own numbers: one that was damaged
is computed anew, and said so.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from usjepa.cache.errors import UsjepaError
from usjepa.cache.identity import Json, canonical, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.evaluate.encoders import Encoder
    from usjepa.evaluate.tasks import Task

FEATURES_VERSION = 1
"""Raised when the same encoder and frames would give other numbers."""


def features_of(
    encoder: Encoder,
    task: Task,
    folder: Path,
    batch_size: int,
    say: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> NDArray[np.float32]:
    """Return float32 [n, F] for a task's frames: from an earlier call's file, or computed and kept for the next.

    Args:
        encoder: what is asked.
        task: whose frames.
        folder: where features are kept.
        batch_size: frames at once.
        say: told of kept features that can't be used.
        check: called before every batch; may raise to stop.

    Raises:
        UsjepaError: the encoder gave a number that is not finite; the row is named.
    """
    from usjepa.cache.storage import write_durably

    identity = feature_identity(encoder, task)
    path = folder / f"{digest_of(identity)}.safetensors"
    found = _stored(path, identity, len(task.rows), say)
    if found is not None:
        return found
    features = _computed(encoder, task, batch_size, check)
    write_durably(path, _packed(features, identity))
    return features


def feature_identity(encoder: Encoder, task: Task) -> dict[str, Json]:
    """Return everything that may change the features of a task."""
    rows = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(task.rows, dtype="<i8").tobytes())
    return {"version": FEATURES_VERSION, "encoder": encoder.identity, "store": task.store.digest, "rows": rows}


def _computed(encoder: Encoder, task: Task, batch_size: int, check: Callable[[], None]) -> NDArray[np.float32]:
    from usjepa.cache.progress import Progress

    parts = []
    with Progress(len(task.rows), f"{task.name}: {encoder.name}", unit="frames") as progress:
        for start in range(0, len(task.rows), batch_size):
            check()
            rows = task.rows[start : start + batch_size]
            features = encoder.features(task.store.read(rows, layers=encoder.layers))
            finite = np.isfinite(features).all(axis=1)
            if not finite.all():
                row = int(rows[~finite][0])
                raise UsjepaError(
                    f"{task.store.location}: row {row}: {encoder.name} gave a feature that is not finite. "
                    "Check the encoder's weights; a run whose loss diverged must be trained again."
                )
            parts.append(np.asarray(features, dtype=np.float32))
            progress.update(len(rows))
    return np.concatenate(parts)


def _packed(features: NDArray[np.float32], identity: dict[str, Json]) -> bytes:
    from safetensors.numpy import save

    # One entry: safetensors writes several in an order that differs from process to process.
    meta = canonical({"identity": identity, "xxh3_128": _hash(features)}).decode()
    data: bytes = save({"features": features}, metadata={"usjepa": meta})
    return data


def _stored(
    path: Path, identity: dict[str, Json], count: int, say: Callable[[str], None]
) -> NDArray[np.float32] | None:
    """Return a kept file's features, or None where there is none or it is damaged."""
    from safetensors import SafetensorError

    if not path.exists():
        return None
    try:
        features, meta = _unpacked(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        say(f"{path}: features of an earlier call can't be read ({error}): computing them again.")
        return None
    wanted = {"identity": identity, "xxh3_128": _hash(features)}
    if features.shape[0] != count or canonical(meta) != canonical(wanted):
        say(f"{path}: features of an earlier call are damaged: computing them again.")
        return None
    return features


def _unpacked(path: Path) -> tuple[NDArray[np.float32], dict[str, Any]]:
    from safetensors.numpy import load

    data = path.read_bytes()
    features: NDArray[np.float32] = load(data)["features"]
    # The header's length stands in the first 8 bytes; safetensors' own loader drops the metadata.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return features, json.loads(header["__metadata__"]["usjepa"])


def _hash(features: NDArray[np.float32]) -> str:
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(features).tobytes() + repr(features.shape).encode())
