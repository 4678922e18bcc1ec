"""Keep a store's files in a bucket (S3, GCS, Azure) through obstore.

A PUT is atomic, so publishing needs no temp name; a claim is a conditional PUT (`mode="create"`), so two builders can't
both hold it. Rows are fetched as byte ranges, near ones together. Endpoint, region and credentials come from the
environment, under the names that the vendors' own tools use (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_ALLOW_HTTP, ...).
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, NotSupportedError

from usjepa.cache.errors import DamageError, StoreError, UsageError, WriteError
from usjepa.cache.storage.clients import client_of
from usjepa.cache.storage.protocol import READ_LIMIT, Found, Guard, Listed, Piece, unguarded
from usjepa.cache.storage.urls import bucket_url
from usjepa.cache.storage.waiting import together, waited

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from usjepa.cache.storage.protocol import Buffer, Take

T = TypeVar("T")
_COALESCE_NBYTES = 1 << 20
"""Ranges nearer than this (bytes) are fetched in one request: about as much as transfers during a round trip."""
_TRIES, _SOON_S = 3, 5.0
"""Times that a request is made that fails within so many seconds, though obstore does not try it again itself."""


class _BrokenAnswerError(Exception):
    """An answer that obstore can't even refuse."""


def _answer(fetch: Callable[[str], T], path: str) -> T:
    """Return what `fetch` returns; _BrokenAnswerError where obstore panics, as it does on ranges cut short."""
    try:
        return fetch(path)
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the class can't be imported; it is no Exception
            raise
        raise _BrokenAnswerError(str(error)) from error


class ObjectStorage:
    """A prefix of a bucket. Open it anew in every process: connections do not outlive a fork."""

    def __init__(self, url: str) -> None:
        self.url = bucket_url(url)
        try:
            self._store = client_of(self.url)
        except (BaseError, ValueError) as error:
            raise UsageError(f"{self.url}: not a URL that can be opened ({_short(error)}).") from error

    @property
    def place(self) -> str:
        """The bucket and the prefix, the same for every way to write them."""
        config: dict[str, str] = dict(getattr(self._store, "config", {}))
        bucket = config.get("bucket") or config.get("container_name")
        if bucket is None:
            return self.url
        account = config.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
        kind = type(self._store).__name__
        owner = f"{account}@" if kind == "AzureStore" else ""
        return f"{kind}:/{owner}{bucket}/{getattr(self._store, 'prefix', None) or ''}".rstrip("/")

    def _checked(self, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise StoreError(f"{self.url}: the file name {name!r} leaves the store. The store is damaged or forged.")
        return name

    def _get(self, name: str, fetch: Callable[[str], T]) -> T:
        """Return what `fetch` returns, as `_got`; Interrupted when it is stuck and a stop was asked for."""
        return waited(lambda: self._got(name, fetch))

    def _got(self, name: str, fetch: Callable[[str], T]) -> T:
        """Return what `fetch` returns; raises FileNotFoundError for a missing object, StoreError for anything else."""
        try:
            return self._tried(fetch, self._checked(name))
        except FileNotFoundError:
            raise
        except (BaseError, _BrokenAnswerError) as error:
            raise StoreError(
                f"{self.url}/{name}: can't be read ({_short(error)}). "
                "Check the bucket, the endpoint, the credentials and the network."
            ) from error

    def _tried(self, fetch: Callable[[str], T], path: str) -> T:
        """Return what `fetch` returns; again where the connection broke in the middle, which obstore takes as final."""
        for _ in range(_TRIES - 1):
            began = time.monotonic()
            try:
                return _answer(fetch, path)
            except (GenericError, _BrokenAnswerError):
                if time.monotonic() - began > _SOON_S:  # obstore has tried for as long as it may
                    raise
        return _answer(fetch, path)

    def read(self, name: str, most: int = READ_LIMIT) -> bytes:
        """Return a whole object; FileNotFoundError when there is none, DamageError when it has over `most` bytes."""
        return self._get(name, lambda path: self._whole(path, most).parts[0])

    def open_file(self, name: str, most: int = READ_LIMIT) -> BinaryIO:
        """Return a whole object, as a file of this machine that has no name."""
        data = self.read(name, most)
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
        file.write(data)
        file.seek(0)
        return file

    def _whole(self, path: str, most: int = READ_LIMIT) -> Found:
        for _ in range(_TRIES):
            found = obstore.get(self._store, path)
            size = int(found.meta["size"])
            if size > most:
                raise DamageError(f"{self.url}/{path}: {size:,} bytes are not plausible: forged?")
            data = bytes(found.bytes())
            if data:
                break  # no file of a store is empty: an answer without a body is asked for again
        return Found([data], size)

    def _end(self, path: str, length: int) -> Found:
        try:
            for _ in range(_TRIES):
                found = obstore.get(self._store, path, options={"range": {"suffix": length}})
                data, size = bytes(found.bytes()), int(found.meta["size"])
                if len(data) == min(length, size):
                    break
            return Found([data], size)
        except NotSupportedError:  # Azure
            size = int(obstore.head(self._store, path)["size"])
            return Found(self._ranges(path, [(max(0, size - length), min(size, length))]), size)

    def _ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        wanted = [(offset, length) for offset, length in ranges if length]
        if not wanted:
            return [b"" for _ in ranges]
        starts, lengths = (list(column) for column in zip(*wanted, strict=True))
        parts = obstore.get_ranges(self._store, path, starts=starts, lengths=lengths, coalesce=_COALESCE_NBYTES)
        found = iter(parts)
        return [bytes(next(found)) if length else b"" for _, length in ranges]

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer where the object ends."""
        return self.read_ranges(name, [(offset, length)])[0]

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of several (offset, length) ranges of one object, near ones fetched together."""
        return self._get(name, lambda path: self._ranges(path, ranges))

    def read_many(self, pieces: Sequence[Piece], take: Take) -> None:
        """Read parts of many objects, many requests at once; near ranges of one are fetched together."""

        def fetch(piece: Piece, path: str) -> Found:
            if piece.ranges:
                return Found(self._ranges(path, piece.ranges), -1)
            return self._end(path, piece.end) if piece.end else self._whole(path)

        def read(piece: Piece) -> Found | None:
            try:
                return self._got(piece.name, partial(fetch, piece))
            except (FileNotFoundError, DamageError):
                return None
            except StoreError:
                if piece.guessed:
                    return None
                raise

        together(((_nbytes(piece), partial(read, piece)) for piece in pieces), take)

    def read_each(self, name: str, ranges: Sequence[tuple[int, int]], take: Callable[[int, bytes], object]) -> None:
        """Pass the bytes of one (offset, length) range of an object after the other to `take`, with its number."""
        for number, (offset, length) in enumerate(ranges):
            take(number, self.read_range(name, offset, length))

    def size(self, name: str) -> int | None:
        """Return an object's size in bytes, None when there is none."""
        try:
            return self._get(name, lambda path: int(obstore.head(self._store, path)["size"]))
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the objects directly under a prefix."""
        return sorted(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the objects directly under a prefix, each with its size in bytes."""
        return {name: listed.size for name, listed in waited(lambda: self._listed(folder)).items()}

    def _listed(self, folder: str) -> dict[str, Listed]:
        listed = self._got(folder, lambda path: obstore.list_with_delimiter(self._store, path or None))
        return {
            entry["path"].rpartition("/")[2]: Listed(int(entry["size"]), entry["last_modified"].timestamp())
            for entry in listed["objects"]
        }

    def listings(self, folders: Sequence[str]) -> list[dict[str, Listed]]:
        """Return the objects directly under several prefixes; the server says when each was written."""
        found: dict[int, dict[str, Listed]] = {}
        together(((0, partial(self._listed, folder)) for folder in folders), found.__setitem__)
        return [found[number] for number in range(len(folders))]

    def folders(self, folder: str) -> list[str]:
        """Return the sorted names of the prefixes directly under a prefix."""
        listed = self._get(folder, lambda path: obstore.list_with_delimiter(self._store, path or None))
        return sorted(prefix.rpartition("/")[2] for prefix in listed["common_prefixes"])

    def _put(self, name: str, data: Buffer, create: bool) -> None:
        path = self._checked(name)
        try:
            waited(lambda: obstore.put(self._store, path, bytes(data), mode="create" if create else "overwrite"))
        except AlreadyExistsError:
            raise
        except (BaseError, FileNotFoundError) as error:
            raise WriteError(
                f"{self.url}/{name}: can't write {len(data):,} bytes ({_short(error)}). Check that the bucket exists "
                "and that the credentials may write; then run the same command again."
            ) from error

    def publish(self, name: str, data: Buffer, guard: Guard = unguarded) -> None:
        """Write an object; readers see the old one or the new one, whole."""
        guard()
        self._put(name, data, create=False)

    def create(self, name: str, data: Buffer) -> bool:
        """Create an object that must not exist yet; False when it does, with other content."""
        for left in reversed(range(_TRIES)):
            try:
                self._put(name, data, create=True)
            except AlreadyExistsError:
                return self._holds(name, data)  # by an earlier try, whose answer was lost: a claim has an id of its own
            except WriteError:
                if self._holds(name, data):
                    return True
                if not left:
                    raise
            else:
                return True
        return False

    def _holds(self, name: str, data: Buffer) -> bool:
        try:
            return self.read(name) == bytes(data)
        except (FileNotFoundError, StoreError):
            return False

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens when there is none."""
        try:
            waited(lambda: self._tried(lambda path: obstore.delete(self._store, path), self._checked(name)))
        except FileNotFoundError:
            return
        except (BaseError, _BrokenAnswerError) as error:
            raise WriteError(f"{self.url}/{name}: can't be removed ({_short(error)}).") from error

    def sweep(self) -> int:
        """Return 0: a PUT leaves nothing behind when its writer dies."""
        return 0


def _nbytes(piece: Piece) -> int:
    """Return about how many bytes a piece brings; a whole one is a description."""
    return sum(length for _, length in piece.ranges) or piece.end or 1 << 12


def _short(error: BaseException) -> str:
    """Return the first line of an error; obstore appends the server's whole answer."""
    return str(error).split("\n")[0][:300]
