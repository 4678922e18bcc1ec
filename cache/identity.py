"""Describe what was computed as JSON, and compare such descriptions field by field.

Two things are the same when their identities are, whatever their names, paths or times. A hard field changes numbers: a
difference is refused and shown. A soft field (versions, device) is recorded and shown, and a difference is accepted.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash

from usjepa.cache.errors import DamageError
from usjepa.cache.interrupt import safe_point
from usjepa.cache.plain_files import open_plain

if TYPE_CHECKING:
    from io import RawIOBase
    from pathlib import Path

_PIECE = 8 << 20
"""Bytes of a file that are read and hashed at a time, so that memory does not grow with the file."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)

Json = Any
"""A tree of dict, list, str, int, float, bool and None: its fields are whatever a layer, teacher or run defines."""


def canonical(value: Json) -> bytes:
    """Return the canonical JSON of a value as bytes: sorted keys, no spaces, ASCII. Raises ValueError on NaN."""
    return _CANONICAL.encode(value).encode()


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in a file that usjepa wrote; raises DamageError, naming `where`, when it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or a number of too many digits
        raise DamageError(f"{where}: not readable as JSON ({error}): cut or damaged.") from error
    if not isinstance(value, dict):
        raise DamageError(f"{where}: not a JSON object: damaged.")
    return value


def digest_of(value: Json) -> str:
    """Return the xxh3-128 of a value's canonical JSON, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(canonical(value))


def hash_file(path: Path) -> str:
    """Return the xxh3-128 of a plain file's bytes, 32 hex digits.

    Raises:
        OSError: it can't be read, or is a pipe, a device or the like.
        Interrupted: a stop was asked for.
    """
    with open_plain(path) as file:
        return hash_of(file)


def hash_of(file: RawIOBase | BinaryIO) -> str:
    """Return the xxh3-128 of an open file from where it stands, which is left at its end; errors as `hash_file`."""
    hasher = xxhash.xxh3_128()
    while piece := file.read(_PIECE):
        hasher.update(piece)
        safe_point()
    return hasher.hexdigest()


def differences(stored: Json, wanted: Json, path: str = "") -> list[tuple[str, Json, Json]]:
    """Return (dotted field, stored, wanted) for every leaf that differs; a missing one is None."""
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        found = []
        for key in sorted({*stored, *wanted}):
            found += differences(stored.get(key), wanted.get(key), f"{path}.{key}" if path else str(key))
        return found
    if isinstance(stored, Sequence) and isinstance(wanted, Sequence) and not isinstance(stored, str):
        stored, wanted = list(stored), list(wanted)
    return [] if stored == wanted else [(path, stored, wanted)]


def explain(found: list[tuple[str, Json, Json]]) -> str:
    """Return the differences as lines `field: stored | wanted`."""
    return "\n".join(f"  {field}: {json.dumps(stored)} | {json.dumps(wanted)}" for field, stored, wanted in found)


def soft_versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of the named installed packages and of the processor family."""
    found = {"machine": platform.machine()}
    for package in packages:
        found[package] = importlib.metadata.version(package)
    return found
