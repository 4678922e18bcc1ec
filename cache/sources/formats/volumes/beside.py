"""Find the file of samples that a header names, nowhere but beside the header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usjepa.cache.plain_files import require_plain

if TYPE_CHECKING:
    from pathlib import Path


def companion(file: Path, name: str) -> Path:
    """Return the file of that name beside a header.

    Raises:
        ValueError: the name leads elsewhere, or nothing is called so.
        OSError: it is no plain file.
    """
    if not name or name in (".", "..") or any(sign in name for sign in "/\\\0") or name.lower() == file.name.lower():
        raise ValueError(f"its samples are said to lie in {name!r}; only a file beside it is read")
    found = file.parent / name
    if not found.exists():
        raise ValueError(f"its samples should lie beside it in {name!r}, which is not there")
    require_plain(found)
    return found
