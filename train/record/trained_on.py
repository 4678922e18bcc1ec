"""Name the sources that a training learnt from by their content.

A later test then knows its frames again. `trained_on.bin` holds the xxh3-128 of each source file of the training and
the validation part, 16 bytes each, sorted. It tells nothing else: no name, no path, no frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import DamageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TRAINED_ON = "trained_on.bin"
_BYTES = 16


def hashes_text(hashes: Iterable[str]) -> bytes:
    """Return the file's bytes for content hashes, 32 hex digits each; sources without one are left out."""
    return b"".join(sorted({bytes.fromhex(one) for one in hashes if len(one) == 2 * _BYTES}))


def read_hashes(folder: Path) -> frozenset[str] | None:
    """Return the content hashes of a run's sources; None where its version wrote none.

    Raises:
        DamageError: the file is cut.
    """
    try:
        content = (folder / TRAINED_ON).read_bytes()
    except FileNotFoundError:
        return None
    if len(content) % _BYTES:
        raise DamageError(f"{folder / TRAINED_ON}: {len(content)} bytes are no whole number of hashes: it was cut.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, _BYTES)
    return frozenset(row.tobytes().hex() for row in rows)
