"""Name the frame of a row in errors about latents of a store that is still being built."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from usjepa.cache.store.origins import origin_of
from usjepa.cache.store.precision import LatentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.store.writer import StoreWriter


@contextlib.contextmanager
def naming_frames(writer: StoreWriter) -> Iterator[None]:
    """Add the frame to what a LatentError says of a row, within a `with` block."""
    try:
        yield
    except LatentError as error:
        origin = origin_of(writer.storage, writer.state.segments, error.row)
        raise LatentError(error.row, f"{error.message} It shows {origin}.") from error
