"""Decode sources in a child process, so that a crashing parser costs one file, not the build.

A source whose decoder ends the child is unreadable: the error stops the build or is recorded, as the recipe says.
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
from usjepa.cache.sources.base import FileFacts
from usjepa.cache.sources.registry import registered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing
    from usjepa.cache.store.generations import Segment

_POLL_S = 0.2
_ENDS_WITHIN_S = 5.0


class _Died(Exception):
    """The child ended without an answer."""

    def __init__(self, at: str | None, how: str) -> None:
        super().__init__(how)
        self.at, self.how = at, how


class DecodingProcess:
    """One child process; it is started by the first request and again after it died. Belongs to one thread at a time.

    The child imports the readers that this process has: those of entry points, and those that were registered.
    """

    def __init__(self, root: Path | None, settings: CacheSettings, real: dict[str, str]) -> None:
        self._hello = {
            "root": None if root is None else str(root),
            "settings": settings.model_dump_json(),
            "real": real,
            "sys_path": sys.path,
            "readers": registered(),
        }
        self._wire: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = -1
        self._end: Callable[[], object] = lambda: None

    def probe(self, path: str, reader: str) -> FileFacts:
        """Decode a whole source and return its facts; SourceError when that fails or kills the child."""
        answer, _ = self._ask_once({"job": "probe", "path": path, "reader": reader}, path)
        return FileFacts(*answer["facts"])

    def images_in(self, file: Path, reader: str) -> list[str]:
        """Return the names of the images in a container's file; SourceError as `probe`."""
        answer, _ = self._ask_once({"job": "images", "file": str(file), "reader": reader}, str(file))
        return [str(name) for name in answer["images"]]

    def _ask_once(self, request: dict[str, Any], path: str) -> tuple[dict[str, Any], list[bytes]]:
        try:
            return self._ask(request, lambda: None)
        except _Died as death:
            raise SourceError(_crashed(path, death.how)) from death

    def cut(self, store: str, segment: Segment, numbers: range, skip: bool, check: Callable[[], None]) -> PixelShard:
        """Return rows of a segment, as `PixelMaker.make` does; a source that kills the child counts as unreadable."""
        bad: dict[str, str] = {}
        request = {
            "job": "cut", "store": store, "segment": segment.to_json(), "start": numbers.start, "stop": numbers.stop,
            "skip_errors": skip, "bad": bad,
        }  # fmt: skip
        while True:
            try:
                answer, (pixels, regions) = self._ask(request, check)
                break
            except _Died as death:
                if death.at is None:
                    raise StoreError(f"the process that decodes could not start ({death.how}).") from death
                reason = _crashed(death.at, death.how)
                if not skip:
                    raise SourceError(reason) from death
                bad[death.at] = reason
        # Arrays of bytes of their own: what comes off the wire can't be written to.
        return PixelShard(
            np.frombuffer(bytearray(pixels), np.uint8).reshape(answer["pixels"]),
            np.frombuffer(bytearray(regions), np.uint8).reshape(answer["regions"]),
            [(int(row), str(reason)) for row, reason in answer["holes"]],
        )

    def _ask(self, request: dict[str, Any], check: Callable[[], None]) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request and return the answer and what follows it; raise what the child raised, or _Died."""
        wire, at = self._connected(), None
        try:
            wire.send_bytes(json.dumps(request).encode())
            while True:
                while not wire.poll(_POLL_S):
                    check()
                answer = json.loads(wire.recv_bytes())
                if "at" in answer:
                    at = answer["at"]
                    continue
                if "error" in answer:
                    raise getattr(errors, answer["error"])(answer["message"])
                return answer, [wire.recv_bytes() for name in ("pixels", "regions") if name in answer]
        except (EOFError, ConnectionError) as error:
            raise _Died(at, self._how_it_ended()) from error
        except errors.Interrupted:
            self.close()  # it is still at work on what nobody wants any more
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
            self._wire.send_bytes(json.dumps(self._hello).encode())
        return self._wire

    def _how_it_ended(self) -> str:
        process = self._process
        self.close()
        code = process.returncode if process is not None else None
        if code is not None and code < 0:
            return f"died of {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def close(self) -> None:
        """End the child; it is started again when it is asked again."""
        if self._owner == os.getpid():
            self._end()
        self._wire = self._process = None


def _end(wire: Connection, process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        wire.close()
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:  # deep in a decoder: nothing that it does is wanted any more
        process.kill()
        process.wait()


def _crashed(path: str, how: str) -> str:
    return (
        f"{path}: can't be read: the process that decoded it {how}, so the file crashes its parser or asks for more "
        "memory than there is. Replace or remove the file, or leave it out with --on-error skip."
    )


@contextlib.contextmanager
def decoding(listing: Listing, settings: CacheSettings) -> Iterator[DecodingProcess]:
    """Give a child that parses a listing's sources, for the length of a `with` block."""
    process = DecodingProcess(listing.root, settings, dict(listing.real))
    try:
        yield process
    finally:
        process.close()
