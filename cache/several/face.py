"""Define what one store and several have in common: the `Readable` protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.reading.store import Store
    from usjepa.cache.store.layers import Layer
    from usjepa.cache.store.origins.table import Table


class Readable(Protocol):
    """A `Store`, or `Stores`: what a training reads."""

    def __len__(self) -> int: ...

    @property
    def location(self) -> str:
        """Where it lies, for messages."""
        ...

    @property
    def parts(self) -> tuple[Store, ...]:
        """The stores that it is made of, in order."""
        ...

    def place_of(self, row: int) -> tuple[Store, int]:
        """Return the store that a row lies in, and its number there."""
        ...

    @property
    def digest(self) -> str:
        """xxh3-128 (hex) of all that it holds."""
        ...

    def content_digest(self, layers: Iterable[str] = ()) -> str:
        """Return the xxh3-128 (hex) of which rows exist, what they show, and what they hold in `layers`."""
        ...

    @property
    def layers(self) -> dict[str, Layer]:
        """Layer name -> what a row of it is."""
        ...

    @property
    def latents(self) -> list[str]:
        """Names of the teachers whose latents can be read, sorted."""
        ...

    @property
    def identity(self) -> dict[str, dict[str, Json]]:
        """Layer name -> hard identity."""
        ...

    @property
    def channels(self) -> int:
        """C of the pixels."""
        ...

    @property
    def size(self) -> int:
        """S, edge of the square pixels."""
        ...

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows that exist, ascending, int64 [R']."""
        ...

    def row_numbers(self, positions: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return `rows[positions]`, [n], without an array of all rows."""
        ...

    @property
    def table(self) -> Table:
        """Where each row comes from."""
        ...

    def read(
        self,
        rows: Sequence[int] | NDArray[np.integer[Any]],
        layers: Sequence[str] | None = None,
        teacher: str | None = None,
        out: Mapping[str, NDArray[Any]] | None = None,
    ) -> Batch:
        """Read rows, in the order asked for; see `Store.read`."""
        ...

    def close(self) -> None:
        """Close files and threads."""
        ...
