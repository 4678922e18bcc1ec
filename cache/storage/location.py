"""Open the storage behind a path or a URL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from usjepa.cache.errors import FormatError
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.urls import is_file_url, is_url, path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.storage.protocol import Storage

T = TypeVar("T")

_BEGINNINGS_OF_ARCHIVES = (b"PK", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z")


def open_storage(location: str | Path) -> Storage:
    """Return the storage behind a path or a URL (`s3://...`, `gs://...`, `az://...`, `memory://...`, `file:///...`).

    Raises:
        UsageError: a file URL names another machine, or a URL could name another place than it says.
        FormatError: a file lies where the folder should be.
    """
    text = str(location)
    if is_file_url(text):
        return LocalStorage(_folder(path_of(text)))
    if is_url(text):
        from usjepa.cache.storage.objects import ObjectStorage

        return ObjectStorage(text)
    return LocalStorage(_folder(Path(text)))


def at_once(storage: Storage, calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return what a few calls return that ask a storage, made at once where it is a bucket.

    Raises:
        Exception: what the first of them in order raised.
    """
    if isinstance(storage, LocalStorage):
        return [call() for call in calls]
    with ThreadPoolExecutor(max(1, len(calls)), "usjepa-storage") as pool:
        return list(pool.map(lambda call: call(), calls))


def _folder(path: Path) -> Path:
    """Return the path of a folder, which need not exist yet."""
    if path.is_dir() or not path.exists():
        return path
    raise FormatError(f"{path}: a file, and a store is a folder. {_what_it_is(path)}")


def _what_it_is(path: Path) -> str:
    if path.is_file():
        with path.open("rb") as file:
            if file.read(6).startswith(_BEGINNINGS_OF_ARCHIVES):
                return "It is an archive: unpack it, and give the folder that comes out."
    return "Check the path."
