"""Open the storage behind a path or a URL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from usjepa.cache.storage.local import LocalStorage

if TYPE_CHECKING:
    from usjepa.cache.storage.protocol import Storage


def open_storage(location: str | Path) -> Storage:
    """Return the storage behind a path or a URL (`s3://...`, `gs://...`, `az://...`, `memory://...`)."""
    text = str(location)
    if "://" in text and not text.startswith("file://"):
        from usjepa.cache.storage.objects import ObjectStorage

        return ObjectStorage(text)
    return LocalStorage(Path(text.removeprefix("file://")))
