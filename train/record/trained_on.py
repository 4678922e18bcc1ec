"""Name the sources that a training learnt from by their content.

A later test then knows its frames again. `trained_on.bin` holds the xxh3-128 of each source file of the training and
the validation part, 16 bytes each, sorted. It tells nothing else: no name, no path, no frame. `chosen_on.bin`, beside
the encoder of the best probe, likewise names the files that helped to choose it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from usjepa.cache.errors import DamageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TRAINED_ON, CHOSEN_ON = "trained_on.bin", "chosen_on.bin"
_BYTES = 16


def hashes_text(hashes: Iterable[str]) -> bytes:
    """Return the file's bytes for content hashes, 32 hex digits each; sources without one are left out."""
    return b"".join(sorted({bytes.fromhex(one) for one in hashes if len(one) == 2 * _BYTES}))


def read_hashes(folder: Path, name: str = TRAINED_ON) -> frozenset[str] | None:
    """Return the content hashes of the sources in a file; None where there is none.

    Raises:
        DamageError: the file is cut.
    """
    try:
        content = (folder / name).read_bytes()
    except FileNotFoundError:
        return None
    if len(content) % _BYTES:
        raise DamageError(f"{folder / name}: {len(content)} bytes are no whole number of hashes: it was cut.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, _BYTES)
    return frozenset(row.tobytes().hex() for row in rows)
