"""The child process in which other people's files are parsed: a parser that crashes ends this process, not a build.

Started as `python -m usjepa.cache.decoding.worker FD` by `child.py`. Over the socket FD come requests and go answers,
each a line of JSON, pixels behind them as plain bytes; nothing is pickled. The first message says where the sources
lie. It ends when the other side closes, also when that was killed.
"""

from __future__ import annotations

import json
import signal
import sys
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usjepa.cache.errors import UsjepaError

if TYPE_CHECKING:
    from usjepa.cache.frames.rows import PixelMaker, PixelShard
    from usjepa.cache.sources.reader import SourceReader


class _Closed(BaseException):
    """The other side is gone or wants no answer any more."""


class Decoder:
    """Answers requests about one folder of sources."""

    def __init__(self, wire: Connection, hello: dict[str, Any]) -> None:
        from usjepa.cache.recipes.cache import CacheSettings
        from usjepa.cache.sources.reader import SourceReader

        _add_readers(hello["sys_path"], hello["readers"])
        self._wire = wire
        self._settings = CacheSettings.model_validate_json(hello["settings"])
        root = Path(hello["root"]) if hello["root"] is not None else None
        self._reader: SourceReader = SourceReader(root, self._settings, hello["real"])
        self._makers: dict[tuple[str, int], PixelMaker] = {}

    def answer(self, request: dict[str, Any]) -> None:
        """Do what is asked and send the answer: facts, names of datasets, or the rows of a shard."""
        job = {"probe": self._probe, "images": self._images, "cut": self._cut}[request["job"]]
        try:
            job(request)
        except UsjepaError as error:
            self._send({"error": type(error).__name__, "message": str(error)})

    def _send(self, message: dict[str, Any]) -> None:
        self._wire.send_bytes(json.dumps(message).encode())

    def _at(self, path: str) -> None:
        """Say which source is opened next: what the message names when this process dies of it."""
        self._send({"at": path})

    def _check(self) -> None:
        if self._wire.poll():  # nobody asks twice before the answer: it is the end
            raise _Closed

    def _probe(self, request: dict[str, Any]) -> None:
        self._at(request["path"])
        facts = self._reader.probe(request["path"], request["reader"])
        self._send({"facts": [facts.frames, facts.height, facts.width]})

    def _images(self, request: dict[str, Any]) -> None:
        from usjepa.cache.sources.reader import images_in

        self._at(request["file"])
        self._send({"images": images_in(Path(request["file"]), request["reader"])})

    def _cut(self, request: dict[str, Any]) -> None:
        maker = self._maker(request["store"], request["segment"])
        rows = range(request["start"], request["stop"])
        made: PixelShard = maker.make(rows, request["skip_errors"], self._check, request["bad"], self._at)
        self._send({"holes": made.holes, "pixels": made.pixels.shape, "regions": made.regions.shape})
        self._wire.send_bytes(made.pixels.reshape(-1).data)
        self._wire.send_bytes(made.regions.reshape(-1).data)

    def _maker(self, store: str, described: dict[str, Any]) -> PixelMaker:
        from usjepa.cache.frames.rows import PixelMaker
        from usjepa.cache.storage.location import open_storage
        from usjepa.cache.store.generations import Segment
        from usjepa.cache.store.origins import read_tables

        segment = Segment.from_json(described, store)
        key = store, segment.number
        if key not in self._makers:
            tables = read_tables(open_storage(store), segment)
            self._makers[key] = PixelMaker(*tables, segment.first_row, self._reader, self._settings)
        return self._makers[key]


def _add_readers(sys_path: list[str], readers: list[str]) -> None:
    """Register the readers that the parent registered, found where the parent finds its modules."""
    from usjepa.cache.sources.registry import register

    sys.path[:] = sys_path
    for reader in readers:
        module, _, name = reader.partition(":")
        register(getattr(import_module(module), name))


def main(handle: int) -> None:
    """Answer until the other side closes."""
    # Ctrl-C is for the process that leads: it decides what is still finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(handle) as wire:
        try:
            decoder = Decoder(wire, json.loads(wire.recv_bytes()))
            while True:
                decoder.answer(json.loads(wire.recv_bytes()))
        except (EOFError, ConnectionError, _Closed):
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
