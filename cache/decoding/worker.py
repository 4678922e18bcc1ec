"""Answer decoding requests in a child process, where a crashing parser ends this process alone.

Started as `python -m usjepa.cache.decoding.worker SOCKET PIPE` by `child.py`. Requests and answers go over the socket
as JSON, pixels behind them as plain bytes; nothing is pickled. The first message describes where the sources lie, and
so does one with which this process begins on other sources. At every safe point of the work a sign of life is sent,
once a second at most. The process ends when the other side closes the pipe, also when that side was killed.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.decoding.lifeline import end_with_parent
from usjepa.cache.decoding.wire import Wire
from usjepa.cache.errors import SourceError, UsjepaError
from usjepa.cache.interrupt import at_safe_points

if TYPE_CHECKING:
    from usjepa.cache.decoding.given import Given
    from usjepa.cache.frames.rows import RowBlock
    from usjepa.cache.sources.files.reader import SourceReader


_SIGN_EVERY_S = 1.0
_SIGNS = 4
"""Signs of life that fit into `cache.decode_timeout` at least."""


class _Closed(BaseException):
    """The other side is gone, or does not want the answer any more."""


class _Decoder:
    """Answer requests about one folder of sources."""

    def __init__(self, wire: Wire, setup: dict[str, Any]) -> None:
        from usjepa.cache.decoding.given import Stream
        from usjepa.cache.frames.clips import ClipRegions
        from usjepa.cache.recipes.cache import CacheSettings
        from usjepa.cache.sources.files.reader import SourceReader

        _add_readers(setup["sys_path"], setup["readers"])
        self._wire, self._opened = wire, ""
        self._settings = CacheSettings.model_validate_json(setup["settings"])
        self._sign_every_s = min(_SIGN_EVERY_S, self._settings.decode_timeout / _SIGNS)
        self._signed = time.monotonic()
        root = Path(setup["root"]) if setup["root"] is not None else None
        self._reader: SourceReader = SourceReader(root, self._settings, setup["real"], setup["regions"])
        self._regions = ClipRegions(self._reader, self._settings.preprocess.deidentify)
        self._stream = Stream(self._reader)

    def answer(self, request: dict[str, Any]) -> None:
        """Do the requested job and send its result: facts, names of images, a patient, or the rows of a shard."""
        self._opened = ""
        jobs = {"images": self._images, "patient": self._patient, "probe": self._probe, "look": self._look}
        job = (jobs | {"cut": self._cut, "decode": self._decode})[request["job"]]
        try:
            job(request)
        except UsjepaError as error:
            self._send({"error": type(error).__name__, "message": str(error)})

    def _send(self, message: dict[str, Any], *behind: memoryview) -> None:
        self._wire.send(json.dumps(message | {"behind": len(behind)}).encode())
        for data in behind:
            self._wire.send(data)
        self._signed = time.monotonic()

    def lives(self) -> None:
        """Give a sign of life, unless one was given just now."""
        if self._wire.is_readable():  # no second request comes before the answer: the other side has closed
            raise _Closed
        if time.monotonic() - self._signed >= self._sign_every_s:
            self._send({"opens": None})

    def _opens(self, path: str) -> None:
        """Report which source is opened next, so that its name is known when this process dies of it."""
        self._opened = path
        self._send({"opens": path})

    def _before_frame(self, path: str) -> None:
        self.lives()
        if path != self._opened:
            self._opens(path)

    def _probe(self, request: dict[str, Any]) -> None:
        self._opens(request["path"])
        facts = self._reader.probe(request["path"], request["reader"])
        hashes = facts.hashes.hex() if facts.hashes is not None else None
        self._send({"facts": [facts.frames, facts.height, facts.width, facts.levels, facts.spacing, hashes]})

    def _look(self, request: dict[str, Any]) -> None:
        from usjepa.cache.frames.blank import why_blank
        from usjepa.cache.frames.regions import rough_region

        self._opens(request["path"])
        wanted = request["frames"]
        decoded = self._reader.frames(request["path"], request["reader"], wanted, request["content_hash"])
        whys = []
        for frame in decoded:
            self._before_frame(request["path"])
            whys.append(why_blank(frame, rough_region(frame)))
        self._send({"blank": whys})

    def _images(self, request: dict[str, Any]) -> None:
        from usjepa.cache.sources.files.describing import images_in

        self._opens(request["file"])
        contents = images_in(Path(request["file"]), request["reader"])
        self._send({"images": contents.images, "doubts": contents.doubts, "described": contents.described})

    def _patient(self, request: dict[str, Any]) -> None:
        from usjepa.cache.sources.files.describing import patient_in

        self._opens(request["file"])
        self._send({"patient": patient_in(Path(request["file"]), request["reader"])})

    def _cut(self, request: dict[str, Any]) -> None:
        from usjepa.cache.frames.rows import RowBlock, cut_rows

        block, skip_errors, bad = RowBlock.from_json(request["block"]), request["skip_errors"], request["bad"]
        reader = self._reader if request["given"] is None else self._given(block, request["given"])
        made = cut_rows(block, reader, self._settings, skip_errors, self._before_frame, self._regions, bad)
        answer = {"holes": made.holes, "blank": made.blank, "doubtful": made.doubtful}
        self._send(
            {**answer, "pixels": made.pixels.shape, "regions": made.regions.shape},
            made.pixels.reshape(-1).data,
            made.regions.reshape(-1).data,
        )

    def _given(self, block: RowBlock, described: dict[str, Any]) -> Given:
        """Receive frames that another process decoded, of the block's only source, and their region."""
        from usjepa.cache.decoding.given import Given

        given = Given(described, [self._wire.receive() for _ in range(described["behind"])])
        self._regions.know(block.sources[0], given.region)
        return given

    def _decode(self, request: dict[str, Any]) -> None:
        """Send some frames of a clip and its region, and what went wrong behind the last of them."""
        from usjepa.cache.decoding.given import described
        from usjepa.cache.frames.clips import SourceRef, require_size

        source, start, count = SourceRef(*request["source"]), request["start"], request["count"]
        self._opens(source.path)
        region, frames, error = None, [], ""
        try:
            region = self._regions.of(source, self._before_frame)
            for number, frame in self._stream.take(source, request["wanted"], start, count):
                self._before_frame(source.path)
                require_size(source, number, frame)
                frames.append(frame)
        except SourceError as failed:
            error = str(failed)
        message, behind = described(frames, region, error)
        self._send(message, *behind)


def _add_readers(sys_path: list[str], readers: list[str]) -> None:
    """Register the readers that the parent registered, found where the parent finds its modules."""
    from usjepa.cache.sources.registry import register

    sys.path[:] = sys_path
    for reader in readers:
        module, _, name = reader.partition(":")
        register(getattr(import_module(module), name))


def _main(handle: int, pipe: int) -> None:
    """Answer until the other side closes."""
    # Ctrl-C is for the process that leads: it decides what is still finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(pipe)
    wire = Wire(socket.socket(fileno=handle), None)
    try:
        decoder = _Decoder(wire, json.loads(wire.receive()))
        while True:
            with at_safe_points(decoder.lives):
                while "job" in (message := json.loads(wire.receive())):
                    decoder.answer(message)
            decoder = _Decoder(wire, message)
    except (EOFError, ConnectionError, _Closed):
        return


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]))
