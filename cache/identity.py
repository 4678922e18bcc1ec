"""Identity: what was computed, so that two things compare by content and never by name, path or time.

Hard fields change numbers: a difference refuses, and is shown field by field. Soft fields (versions, device)
are recorded and shown, never in the way. Both are plain JSON trees.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import xxhash

from usjepa.cache.errors import DamageError

Json = Any
"""A tree of dict, list, str, int, float, bool and None."""


def canonical(value: Json) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object of the store's own; raises DamageError when it is not one."""
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise DamageError(f"{where}: not readable as JSON ({error}): cut or damaged.") from error
    if not isinstance(value, dict):
        raise DamageError(f"{where}: not a JSON object: damaged.")
    return value


def digest_of(value: Json) -> str:
    """Return the xxh3-128 of a value's canonical JSON, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(canonical(value))


def differences(stored: Json, wanted: Json, path: str = "") -> list[tuple[str, Json, Json]]:
    """Return (dotted field, stored, wanted) for every leaf that differs; a missing one shows as None."""
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
