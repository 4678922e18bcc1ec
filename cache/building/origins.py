"""Which frame a row shows, for messages about rows of a store that is still being built."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from usjepa.cache.store.origins import read_tables
from usjepa.cache.store.precision import LatentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usjepa.cache.store.writer import StoreWriter


def origin(writer: StoreWriter, row: int) -> str:
    """Return "PATH, frame F, view V" of a row."""
    segment = writer.state.segment_of_shard(row // writer.state.rows_per_shard)
    sources, rows = read_tables(writer.storage, segment)
    place = row - segment.first_row
    return f"{sources.path[rows.source[place]]}, frame {rows.frame[place]}, view {rows.view[place]}"


@contextlib.contextmanager
def naming_frames(writer: StoreWriter) -> Iterator[None]:
    """Add the frame to what a LatentError says of a row, within a `with` block."""
    try:
        yield
    except LatentError as error:
        raise LatentError(error.row, f"{error.message} It shows {origin(writer, error.row)}.") from error
