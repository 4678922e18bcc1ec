"""Decode sources in a child process, so that a crash costs one file.

A source whose decoder ends the child is unreadable: the error stops the build or is recorded, by `cache.on_error`. So
is one whose decoder gives no sign of life for `cache.decode_timeout` seconds; its child is killed. Decoding in other
processes also leaves the interpreter to the thread that feeds the teacher.
"""

from __future__ import annotations

import json
import os
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from usjepa.cache import errors
from usjepa.cache.decoding.lifeline import Child
from usjepa.cache.decoding.spare import put_back, taken
from usjepa.cache.decoding.wire import Wire
from usjepa.cache.errors import SourceError, StoreError
from usjepa.cache.frames.rows import PixelShard
from usjepa.cache.interrupt import safe_point
from usjepa.cache.sources.base import Contents, Described, FileFacts, Spacing
from usjepa.cache.sources.registry import registered
from usjepa.cache.terminal.streams import shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from usjepa.cache.frames.clips import SourceRef
    from usjepa.cache.frames.rows import RowBlock
    from usjepa.cache.recipes.cache import CacheSettings
    from usjepa.cache.sources.base import Listing

_POLL_S = 0.2
"""Seconds between two calls of `check` while the child is at work."""
_STARTS_WITHIN_S = 300.0
"""Seconds that a child has at least to import what it needs."""


class _ChildDied(Exception):
    """The child ended, or had to be ended, without an answer."""

    def __init__(self, opened: str | None, how: str) -> None:
        super().__init__(how)
        self.opened, self.how = opened, how


class Decoded(NamedTuple):
    """Frames of a source that a child has decoded, as they are handed on."""

    numbers: Sequence[int]
    """Which ones."""
    error: str
    """Why there are fewer than were asked for; empty where there are not."""
    message: dict[str, Any]
    behind: Sequence[bytearray]


class DecodingProcess:
    """A child process that decodes the sources of a listing; a context manager. Belongs to one thread at a time.

    The child is started by the first request, and again by the next one after it died. It has the readers that this
    process has: those of entry points, and those that were registered.
    """

    def __init__(self, listing: Listing, settings: CacheSettings, check: Callable[[], None] = safe_point) -> None:
        """Describe the child; `check` is called while it is at work, and may raise Interrupted to end it."""
        self._check, self._timeout_s = check, settings.decode_timeout
        self._setup = {
            "root": None if listing.root is None else str(listing.root),
            "settings": settings.model_dump_json(),
            "real": listing.real if isinstance(listing.real, dict) else dict(listing.real),  # one for all children
            "regions": listing.regions,
            "sys_path": sys.path,
            "readers": registered(),
        }
        self._wire: Wire | None = None
        self._child: Child | None = None
        self._owner = -1
        self._busy = False
        """Whether the child works on a request, whose answer has not been taken to its end."""
        self._quiet_s = 0.0
        """Seconds since the child last gave a sign of life, not counting those for which this process was stopped."""

    def __enter__(self) -> DecodingProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def probe(self, path: str, reader: str) -> FileFacts:
        """Decode a whole source and return its facts; SourceError when that fails or kills the child."""
        answer, _ = self._request_once({"job": "probe", "path": path, "reader": reader}, path)
        frames, height, width, levels, spacing, hashes = answer["facts"]
        known = Spacing(*spacing) if spacing else None
        return FileFacts(frames, height, width, levels, known, None if hashes is None else bytes.fromhex(hashes))

    def patient_of(self, file: Path, reader: str) -> str:
        """Return what a file says of its patient (see `Reader.patient`); SourceError as `probe`."""
        answer, _ = self._request_once({"job": "patient", "file": str(file), "reader": reader}, str(file))
        return str(answer["patient"])

    def why_blank(self, path: str, reader: str, frames: Sequence[int], content_hash: str) -> list[str]:
        """Return of each of these frames why it shows no echo, "" where it may; SourceError as `probe`."""
        request = {"job": "look", "path": path, "reader": reader, "frames": frames, "content_hash": content_hash}
        answer, _ = self._request_once(request, path)
        return [str(why) for why in answer["blank"]]

    def images_in(self, file: Path, reader: str) -> Contents:
        """Return what a container's file holds; SourceError as `probe`."""
        answer, _ = self._request_once({"job": "images", "file": str(file), "reader": reader}, str(file))
        described = {name: Described(*known) for name, known in answer["described"].items()}
        return Contents(list(answer["images"]), dict(answer["doubts"]), described)

    def decode(self, source: SourceRef, wanted: Sequence[int], start: int, count: int) -> Decoded:
        """Return `count` of the wanted frames of a source, from the `start`-th, all with the region that they share.

        What is asked for next goes on where this ended. SourceError where the child died.
        """
        request = {"job": "decode", "source": source, "wanted": wanted, "start": start, "count": count}
        answer, behind = self._request_once(request, source.path)
        numbers = list(wanted[start : start + len(answer["frames"])])
        return Decoded(numbers, str(answer["failed"]), answer | {"numbers": numbers}, behind)

    def cut(
        self,
        block: RowBlock,
        skip_errors: bool,
        given: Decoded | None = None,
        known_bad: Mapping[str, str] = MappingProxyType({}),
    ) -> PixelShard:
        """Return rows, as `cut_rows` does; a source that kills the child counts as unreadable.

        Args:
            block: what to cut.
            skip_errors: as for `cut_rows`.
            given: frames that were decoded elsewhere, of the block's only source; None: the child decodes.
            known_bad: as `bad` of `cut_rows`.
        """
        bad = dict(known_bad)
        request = {"job": "cut", "block": block.to_json(), "skip_errors": skip_errors, "bad": bad}
        request["given"] = None if given is None else given.message
        while True:
            try:
                answer, (pixels, regions) = self._request(request, () if given is None else given.behind)
                break
            except _ChildDied as death:
                if death.opened is None:
                    raise StoreError(f"the decoding process could not start ({death.how}).") from death
                reason = _crashed(death.opened, death.how)
                if not skip_errors:
                    raise SourceError(reason) from death
                bad[death.opened] = reason
        return PixelShard(
            np.frombuffer(pixels, np.uint8).reshape(answer["pixels"]),
            np.frombuffer(regions, np.uint8).reshape(answer["regions"]),
            [(int(row), str(reason)) for row, reason in answer["holes"]],
            [(int(row), str(what)) for row, what in answer["blank"]],
            [(int(row), str(what)) for row, what in answer["doubtful"]],
        )

    def close(self) -> None:
        """End the child, or let an idle one go on to whoever decodes next; the next request has it or a new one."""
        if self._child is not None and self._owner == os.getpid():
            if self._busy:
                self._child.end()
            else:
                put_back(self._child)
        self._wire = self._child = None

    def _request_once(self, request: dict[str, Any], path: str) -> tuple[dict[str, Any], list[bytearray]]:
        try:
            return self._request(request)
        except _ChildDied as death:
            raise SourceError(_crashed(path, death.how)) from death

    def _request(
        self, request: dict[str, Any], behind: Sequence[bytearray] = ()
    ) -> tuple[dict[str, Any], list[bytearray]]:
        """Send a request and return the answer and the bytes behind it; raise what the child raised, or _ChildDied."""
        opened: str | None = None
        self._quiet_s, self._busy = 0.0, True

        def idle() -> None:
            self._check()
            self._quiet_s += _POLL_S
            if self._quiet_s > (max(self._timeout_s, _STARTS_WITHIN_S) if opened is None else self._timeout_s):
                self.close()
                raise _ChildDied(opened, f"gave no sign of life for {self._quiet_s:.0f} s and was ended")

        try:
            wire = self._connected(idle)
            wire.send(json.dumps(request).encode(), idle)
            for data in behind:
                wire.send(memoryview(data), idle)
            while True:
                answer = json.loads(wire.receive(idle))
                self._quiet_s = 0.0
                if "opens" in answer:
                    opened = answer["opens"] or opened
                    continue
                if "error" in answer:
                    self._busy = False
                    raise getattr(errors, answer["error"])(answer["message"])
                behind_it = [wire.receive(idle) for _ in range(answer["behind"])]
                self._busy = False
                return answer, behind_it
        except (EOFError, ConnectionError) as error:
            raise _ChildDied(opened, self._how_it_ended()) from error
        except errors.Interrupted:
            self.close()  # it still works on an answer that nobody wants any more
            raise

    def _connected(self, idle: Callable[[], None]) -> Wire:
        if self._owner != os.getpid():  # a forked copy starts a child of its own
            self._wire = self._child = None
            self._owner = os.getpid()
        if self._wire is None:
            self._child = taken() or Child("usjepa.cache.decoding.worker")
            self._wire = Wire(self._child.socket, _POLL_S)
            self._wire.send(json.dumps(self._setup).encode(), idle)
        return self._wire

    def _how_it_ended(self) -> str:
        how = "" if self._child is None else self._child.how_it_ended()
        self.close()
        return how


def _crashed(path: str, how: str) -> str:
    return (
        f"{shown_name(path)}: can't be read: the process that decoded it {how}, so the file crashes its parser or "
        "needs more memory or time than there is. Replace or remove the file, or leave it out with --on-error skip."
    )
