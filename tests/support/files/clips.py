"""Small clips and files for tests, made on the spot."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import av
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def grey_steps(count: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Return [count, height, width, 3]: frame i is a flat grey of 10 * i, so that a decoded frame names itself."""
    levels = (np.arange(count) * 10).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def write_clip(
    path: Path, frames: NDArray[np.uint8], codec: str = "libx264", layout: str = "yuv420p", **options: str
) -> Path:
    """Encode RGB frames; `options` are the container's (movflags=...)."""
    with av.open(str(path), "w", options={name: value for name, value in options.items() if value}) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], layout
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def ends_well_in_a_fork(claim: Callable[[], bool]) -> bool:
    """Return whether the claim holds in a forked child, which never returns into the test run."""
    child = os.fork()
    if child == 0:
        held = False
        try:
            held = claim()
        finally:
            os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
