"""Give bytes in memory a path and a name that any decoder can open."""

from __future__ import annotations

import io
import os
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable


class MemoryFiles:
    """Files of bytes under names of their own, in a folder of links; they end with the object.

    On Linux the bytes lie in memory alone and the folder holds links to them; elsewhere they lie in a temporary folder.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="usjepa-"))
        self._handles: list[int] = []
        self.close = weakref.finalize(self, _end, self._folder, self._handles, os.getpid())

    def add(self, name: str, pieces: Iterable[bytes]) -> Path:
        """Add a file and return its path; a name is without folders."""
        path = self._folder / name
        if not hasattr(os, "memfd_create"):
            with path.open("xb") as opened:
                opened.writelines(pieces)
            return path
        handle = os.memfd_create("usjepa")
        self._handles.append(handle)
        with os.fdopen(handle, "wb", closefd=False) as opened:
            opened.writelines(pieces)
        path.symlink_to(f"/proc/self/fd/{handle}")
        return path


def openable(file: Path) -> Path | BinaryIO:
    """Return what HDF5 can open of a file: it asks for the real path, which bytes in memory have none of."""
    return (
        io.BytesIO(file.read_bytes()) if file.is_symlink() and file.exists() and not file.resolve().exists() else file
    )


def _end(folder: Path, handles: list[int], owner: int) -> None:
    for handle in handles:
        os.close(handle)
    if os.getpid() != owner:  # a fork has handles of its own, and not the folder
        return
    for link in folder.iterdir():
        link.unlink()
    folder.rmdir()
