"""Reader of clips: mp4, avi, mov, mpeg, gif, decoded through FFmpeg's libraries.

Frames are numbered as they come out of the decoder, from 0, in the order they are shown. Nothing seeks: headers lie
about counts and times, and a seek lands where an index says. So that a build that walks through a clip in pieces
decodes it once, the decoder of the last file stays open at the frame it has reached.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import av
import numpy as np

from usjepa.cache.sources.base import FileFacts, over_black, reading, require_ascending, unreadable
from usjepa.cache.sources.wholeness import cut_short

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from av.video.frame import VideoFrame
    from numpy.typing import NDArray

_KIND = "a video"


class VideoReader:
    """Reads clips through PyAV; keeps the decoder of the last file open."""

    name = "video"
    version = 1

    def __init__(self) -> None:
        self._cursor: _Cursor | None = None

    def probe(self, path: Path) -> FileFacts:
        """Decode every frame and return the facts; SourceError when the clip is cut short, damaged, or changes size."""
        with reading(path, _KIND):
            reason = cut_short(path)
        if reason is not None:
            raise unreadable(path, _KIND, reason)
        cursor = _Cursor(path)
        try:
            while cursor.advance():
                pass
        finally:
            cursor.close()
        if cursor.shape is None:
            raise unreadable(path, _KIND, "it holds no frame that can be decoded")
        return FileFacts(cursor.number + 1, *cursor.shape)

    def frames(self, path: Path, wanted: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        """Yield the wanted frames: [H, W] where the clip is stored in grey, [H, W, 3] otherwise."""
        require_ascending(path, wanted)
        for number in wanted:
            cursor = self._cursor_at(path, number)
            while cursor.number < number:
                if not cursor.advance():
                    raise unreadable(path, _KIND, f"it ends before frame {number} (it has {cursor.number + 1})")
            yield cursor.image()

    def _cursor_at(self, path: Path, number: int) -> _Cursor:
        """Return a decoder of this file, in this process, that has not gone past the frame."""
        cursor = self._cursor
        if cursor is None or cursor.path != path or cursor.number > number or cursor.pid != os.getpid():
            if cursor is not None:
                cursor.close()
            self._cursor = cursor = _Cursor(path)
        return cursor


class _Cursor:
    """One open clip and the frame its decoder has reached; `number` is -1 before the first."""

    def __init__(self, path: Path) -> None:
        self.path, self.pid = path, os.getpid()
        self.number = -1
        self.shape: tuple[int, int] | None = None
        self._frame: VideoFrame | None = None
        self._image: NDArray[np.uint8] | None = None
        with reading(path, _KIND):
            self._container = av.open(str(path))
            try:
                self._frames = self._decode()
            except BaseException:
                self._container.close()
                raise

    def advance(self) -> bool:
        """Decode the next frame; False at the end of the clip."""
        with reading(self.path, _KIND):
            frame = next(self._frames, None)
        if frame is None:
            return False
        shape = (frame.height, frame.width)
        if self.shape is not None and shape != self.shape:
            raise unreadable(
                self.path, _KIND, f"frame {self.number + 1} is {_told(shape)} pixels, the first {_told(self.shape)}"
            )
        self.shape, self._frame, self._image = shape, frame, None
        self.number += 1
        return True

    def image(self) -> NDArray[np.uint8]:
        """Return the frame that was decoded last; only frames that are asked for are converted to colours."""
        if self._image is None:
            if self._frame is None:
                raise ValueError("no frame was decoded yet")
            with reading(self.path, _KIND):
                self._image = _pixels(self._frame)
        return self._image

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()

    def _decode(self) -> Iterator[VideoFrame]:
        """Return an iterator over decoded frames; SourceError at the first that the decoder had to make up."""
        if not self._container.streams.video:
            raise unreadable(self.path, _KIND, "it holds no video stream")
        stream = self._container.streams.video[0]
        # No threads of FFmpeg's own: they would not live on in a forked worker, and readers run side by side anyway.
        stream.thread_type = "NONE"
        return self._checked(stream)

    def _checked(self, stream: av.VideoStream) -> Iterator[VideoFrame]:
        for packet in self._container.demux(stream):
            for frame in packet.decode():
                if frame.is_corrupt or packet.is_corrupt:
                    raise unreadable(self.path, _KIND, f"frame {self.number + 1} is damaged or cut short")
                yield frame
            if packet.is_corrupt:
                raise unreadable(self.path, _KIND, f"it is damaged or cut short after frame {self.number}")


def _pixels(frame: VideoFrame) -> NDArray[np.uint8]:
    """Return a decoded frame as grey or RGB, with one thread: a fork has none of the scaler's either."""
    layout = frame.format.name
    if layout.startswith("gray"):
        return np.asarray(frame.to_ndarray(format="gray", threads=1), dtype=np.uint8)
    if any(component.is_alpha for component in frame.format.components):
        return over_black(np.asarray(frame.to_ndarray(format="rgba", threads=1), dtype=np.uint8))
    return np.asarray(frame.to_ndarray(format="rgb24", threads=1), dtype=np.uint8)


def _told(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
