"""Decode sources in a child process, so that a crash costs one file.

A source whose decoder ends the child is unreadable: the error stops the build or is recorded, by `cache.on_error`.
Decoding in other processes also leaves the interpreter to the thread that feeds the teacher.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import weakref
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from usjepa.cache import errors
from usjepa.cache.errors import SourceError, StoreError
from usjepa.cache.frames.rows import PixelShard
from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import FileFacts
from usjepa.cache.sources.registry import registered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from usjepa.cache.frames.rows import RowBlock
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing

_POLL_S = 0.2
"""Seconds between two calls of `check` while the child is at work."""
_ENDS_WITHIN_S = 5.0
"""Seconds that a child has to end by itself once its socket is closed."""


class _ChildDied(Exception):
    """The child ended without an answer."""

    def __init__(self, opened: str | None, how: str) -> None:
        super().__init__(how)
        self.opened, self.how = opened, how


class DecodingProcess:
    """A child process that decodes the sources of a listing; a context manager. Belongs to one thread at a time.

    The child is started by the first request, and again by the next one after it died. It has the readers that this
    process has: those of entry points, and those that were registered.
    """

    def __init__(self, listing: Listing, settings: CacheSettings, check: Callable[[], None] = safe_point) -> None:
        """Describe the child; `check` is called while it is at work, and may raise Interrupted to end it."""
        self._check = check
        self._setup = {
            "root": None if listing.root is None else str(listing.root),
            "settings": settings.model_dump_json(),
            "real": dict(listing.real),
            "sys_path": sys.path,
            "readers": registered(),
        }
        self._wire: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = -1
        self._end: Callable[[], object] = lambda: None

    def __enter__(self) -> DecodingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def probe(self, path: str, reader: str) -> FileFacts:
        """Decode a whole source and return its facts; SourceError when that fails or kills the child."""
        answer, _ = self._request_once({"job": "probe", "path": path, "reader": reader}, path)
        return FileFacts(*answer["facts"])

    def images_in(self, file: Path, reader: str) -> list[str]:
        """Return the names of the images in a container's file; SourceError as `probe`."""
        answer, _ = self._request_once({"job": "images", "file": str(file), "reader": reader}, str(file))
        return [str(name) for name in answer["images"]]

    def cut(self, block: RowBlock, skip_errors: bool) -> PixelShard:
        """Return rows, as `cut_rows` does; a source that kills the child counts as unreadable."""
        bad: dict[str, str] = {}
        request = {"job": "cut", "block": block.to_json(), "skip_errors": skip_errors, "bad": bad}
        while True:
            try:
                answer, (pixels, regions) = self._request(request)
                break
            except _ChildDied as death:
                if death.opened is None:
                    raise StoreError(f"the decoding process could not start ({death.how}).") from death
                reason = _crashed(death.opened, death.how)
                if not skip_errors:
                    raise SourceError(reason) from death
                bad[death.opened] = reason
        # Arrays of bytes of their own: what comes off the wire can't be written to.
        return PixelShard(
            np.frombuffer(bytearray(pixels), np.uint8).reshape(answer["pixels"]),
            np.frombuffer(bytearray(regions), np.uint8).reshape(answer["regions"]),
            [(int(row), str(reason)) for row, reason in answer["holes"]],
        )

    def close(self) -> None:
        """End the child; the next request starts it again."""
        if self._owner == os.getpid():
            self._end()
        self._wire = self._process = None

    def _request_once(self, request: dict[str, Any], path: str) -> tuple[dict[str, Any], list[bytes]]:
        try:
            return self._request(request)
        except _ChildDied as death:
            raise SourceError(_crashed(path, death.how)) from death

    def _request(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and return the answer and the bytes behind it; raise what the child raised, or _ChildDied."""
        wire, opened = self._connected(), None
        try:
            wire.send_bytes(json.dumps(request).encode())
            while True:
                while not wire.poll(_POLL_S):
                    self._check()
                answer = json.loads(wire.recv_bytes())
                if "opens" in answer:
                    opened = answer["opens"]
                    continue
                if "error" in answer:
                    raise getattr(errors, answer["error"])(answer["message"])
                return answer, [wire.recv_bytes() for name in ("pixels", "regions") if name in answer]
        except (EOFError, ConnectionError) as error:
            raise _ChildDied(opened, self._how_it_ended()) from error
        except errors.Interrupted:
            self.close()  # it still works on an answer that nobody wants any more
            raise

    def _connected(self) -> Connection:
        if self._owner != os.getpid():  # a forked copy starts a child of its own
            self._wire = self._process = None
            self._owner = os.getpid()
        if self._wire is None:
            mine, theirs = socket.socketpair()
            command = [sys.executable, "-m", "usjepa.cache.decoding.worker", str(theirs.fileno())]
            # A session of its own: Ctrl-C reaches the leading process alone.
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
            theirs.close()
            self._wire = Connection(mine.detach())
            self._end = weakref.finalize(self, _end, self._wire, self._process)
            self._wire.send_bytes(json.dumps(self._setup).encode())
        return self._wire

    def _how_it_ended(self) -> str:
        process = self._process
        self.close()
        code = process.returncode if process is not None else None
        if code is not None and code < 0:
            return f"died of {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def _end(wire: Connection, process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        wire.close()
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:  # deep in a decoder: its result is not wanted any more
        process.kill()
        process.wait()


def _crashed(path: str, how: str) -> str:
    return (
        f"{path}: can't be read: the process that decoded it {how}, so the file crashes its parser or needs more "
        "memory than there is. Replace or remove the file, or leave it out with --on-error skip."
    )
