"""Read pairs of images for `train.objective: contrast`.

Shape suffixes: B pairs, C channels, S edge of stored pixels; a 2 counts anchor and partner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import xxhash

from usjepa.cache.errors import UsageError
from usjepa.cache.places.runs import Runs
from usjepa.train.data.fingerprint import wrapped
from usjepa.train.data.partners import Partners, codes_of
from usjepa.train.data.read_ahead import read_ahead

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from usjepa.cache.recipes.train import TrainSettings
    from usjepa.cache.several.face import Readable
    from usjepa.train.data.batches import BatchRequest
    from usjepa.train.data.split import Split

    Ints = NDArray[np.int64]

_AHEAD = 2
"""Fewest batches prepared while one is computed on."""
_AT_ONCE = 1 << 18
"""Rows that are looked at together."""


@dataclass(frozen=True)
class PairBatch:
    """The pairs of one batch; every row of a request is usable."""

    step: int
    rows_B: Ints
    """int64, row numbers of the anchors, on the host."""
    partners_B: Ints
    """int64, those of their partners."""
    codes_B: Ints
    """int64, on the host: pairs of one number are of one clip or group and don't repel each other."""
    fingerprint: int
    """Of the rows of all pairs; parts of a batch add up to the whole's."""
    pixels_2BCSS: torch.Tensor
    """uint8, on the device: all anchors, then all partners."""
    unusable_rows: Ints
    """None ever: a pair needs no room for masks."""

    def __len__(self) -> int:
        return len(self.rows_B)


class PairMaker:
    """Makes batches of pairs of a store's rows.

    Attributes:
        note: why the held-out part gives no validation loss; "" where it gives one, or nothing is held out.
    """

    def __init__(self, store: Readable, split: Split, settings: TrainSettings, device: torch.device) -> None:
        """Order the rows of both parts; UsageError where the store has no pixels or nothing to tell apart.

        Args:
            store: to read from.
            split: its parts; pairs lie within one of them.
            settings: the `train:` section; `contrast`, seed and accumulation count here.
            device: of the batches.
        """
        if "pixels" not in store.layers:
            raise UsageError(f"{store.location}: no layer pixels, which this recipe trains with.")
        self._store, self._settings, self._device = store, settings, device
        wanted = settings.contrast
        code_S = codes_of(store.table, wanted.positives)
        self._training = Partners(store.table, split.train, wanted, code_S)
        self._held = Partners(store.table, split.validation, wanted, code_S)
        spared = "group" if "group" in (wanted.positives, wanted.spared) else "clip"
        self._code_S = code_S if spared == wanted.positives else codes_of(store.table, spared)
        if self._is_of_one(split.train):
            raise UsageError(_nothing_apart(store, split.train, spared))
        self.note = _no_loss(spared) if self._is_of_one(split.validation) else ""
        self._ahead = max(_AHEAD, settings.accumulate)

    def stream(self, requests: Iterable[BatchRequest]) -> Generator[tuple[PairBatch, float]]:
        """Yield the requested batches in order, each with the seconds waited for it; see `read_ahead`."""
        yield from read_ahead(requests, self._read, self._received, self._ahead)

    def make(self, request: BatchRequest) -> PairBatch:
        """Return one batch, made in the calling thread."""
        return self._received(self._read(request))

    def tells_apart(self, positions_B: Ints) -> bool:
        """Return whether the rows of a whole batch are of two clips (or groups) at least."""
        code_B = self._codes(positions_B)
        return bool((code_B != code_B[:1]).any())

    def held_out(self, positions_n: Ints, size: int) -> Iterator[Ints]:
        """Yield the rows of validation batches of at most `size`, each of all clips (or groups) as evenly as can be.

        A batch of one alone has nothing to tell apart, and is left out; of two or more, some batch always has two.
        """
        ordered_n = positions_n[np.argsort(self._codes(positions_n), kind="stable")]
        count = -(-len(ordered_n) // size)
        yield from filter(self.tells_apart, (ordered_n[first::count] for first in range(count)))

    def _codes(self, positions_B: Ints) -> Ints:
        return self._code_S[self._store.table.stretches.at(positions_B)[0]].astype(np.int64)

    def _is_of_one(self, part: Ints | Runs) -> bool:
        """Return whether all rows, of which there are some, are of one clip (or group); the first few mostly tell."""
        first = self._codes(part[:1])
        starts = range(0, len(part), _AT_ONCE)
        return len(part) > 0 and all((self._codes(part[at : at + _AT_ONCE]) == first).all() for at in starts)

    def _read(self, request: BatchRequest) -> PairBatch:
        positions_B = np.asarray(request.positions_R, dtype=np.int64)
        rows_B = self._store.row_numbers(positions_B)
        part = self._training if request.step >= 0 else self._held  # no training step has a negative number
        partner_positions_B = part.of(positions_B, rows_B, self._settings.seed, request.step)
        partners_B = self._store.row_numbers(partner_positions_B)
        both = np.concatenate([rows_B, partners_B])
        pixels = self._store.read(both, layers=("pixels",)).pixels
        return PairBatch(
            step=request.step,
            rows_B=rows_B,
            partners_B=partners_B,
            codes_B=self._codes(positions_B),
            fingerprint=_fingerprint(rows_B, partners_B),
            pixels_2BCSS=torch.from_numpy(pixels),
            unusable_rows=rows_B[:0],
        )

    def _received(self, batch: PairBatch) -> PairBatch:
        """Send the pixels to the device, in the computing thread: they are the least of a step's work."""
        moved = batch.pixels_2BCSS.to(self._device)
        return PairBatch(**{**batch.__dict__, "pixels_2BCSS": moved})


def _no_loss(spared: str) -> str:
    return (
        f"All held-out frames are of one {spared}, so train.objective=contrast has nothing to tell apart there: no "
        "validation loss, and the last encoder is exported. A larger train.validation_fraction may hold out more."
    )


def _nothing_apart(store: Readable, part: Ints | Runs, spared: str) -> str:
    """Return a message that says of what all training rows are, and what to do."""
    sources = store.table.stretches.sources_of(Runs.like(part))
    one = store.table.sources[int(sources[0])]
    named = one.group if spared == "group" and one.group else one.path
    narrower = "set train.contrast.positives=clip and train.contrast.spared=clip, " if len(sources) > 1 else ""
    return (
        f"{store.location}: all training rows are of one {spared}, {named!r}: train.objective=contrast has nothing "
        f"to tell apart. Add {spared}s, {narrower}hold out fewer (train.validation_fraction), or train with "
        "train.objective=pixels."
    )


def _fingerprint(rows_B: Ints, partners_B: Ints) -> int:
    """Return the sum over pairs of the xxh3-64 of both row numbers, as a signed 64-bit integer."""
    pairs = np.stack([rows_B, partners_B], axis=1).astype("<i8")
    return wrapped(sum(xxhash.xxh3_64_intdigest(pair.tobytes()) for pair in pairs))
