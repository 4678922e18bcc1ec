"""Batches: in the order asked for, the same whatever the thread does, faults raised where they belong."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.support.runs import MASKS, latents_of, maker, requests
from usjepa.cache.errors import HoleError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.train import TrainSettings
from usjepa.train.data.batches import BatchMaker, BatchRequest
from usjepa.train.objective.targets import Targets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.reading.store import Store
    from usjepa.train.data.batches import TrainBatch


@pytest.fixture
def store(phantom_store: Path) -> Iterator[Store]:
    with closing(open_store(phantom_store)) as opened:
        yield opened


def tensors(batch: TrainBatch) -> list[torch.Tensor]:
    return [batch.pixels_BCSS, latents_of(batch), *batch.masks.tensors()]


def test_batches_read_ahead_are_those_made_one_by_one_in_the_order_asked_for(store: Store) -> None:
    alone = [maker(store).make(request) for request in requests()]
    ahead = [batch for batch, _ in maker(store).stream(requests())]
    assert [batch.step for batch in ahead] == list(range(6))
    for one, other in zip(alone, ahead, strict=True):
        assert one.fingerprint == other.fingerprint
        assert np.array_equal(one.rows_B, other.rows_B)
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_a_fault_in_the_thread_is_raised_at_its_own_batch_and_the_thread_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(store).read

    def read(self: Store, rows: NDArray[Any], **kwargs: Any) -> Batch:
        if rows[0] == self.rows[3]:
            raise HoleError("row 3 holds no data")
        return real(self, rows, **kwargs)

    monkeypatch.setattr(type(store), "read", read)
    seen: list[int] = []
    with pytest.raises(HoleError, match="row 3"):
        _note(maker(store).stream(requests()), seen)
    assert seen == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("usjepa-batches")]


def _note(stream: Iterable[tuple[TrainBatch, float]], seen: list[int]) -> None:
    for batch, _ in stream:
        seen.append(batch.step)


def test_leaving_early_ends_the_thread(store: Store) -> None:
    with closing(maker(store).stream(requests(100))) as stream:
        next(stream)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("usjepa-batches")]


def test_a_stream_shortens_the_turns_of_the_interpreter_and_puts_them_back(store: Store) -> None:
    before = sys.getswitchinterval()
    with closing(maker(store).stream(requests(100))) as stream:
        next(stream)
        assert sys.getswitchinterval() == pytest.approx(0.0001)
    assert sys.getswitchinterval() == before


def test_unusable_images_leave_no_trace_in_the_batch(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from usjepa.cache.reading.batch import Batch

    def regions(batch: Batch) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = batch.arrays["regions"].copy()
        found[batch.rows % 2 == 0] = 0
        return found

    monkeypatch.setattr(Batch, "regions", property(regions))
    by_region = maker(store, MASKS.model_copy(update={"regions": True}))
    mixed = by_region.make(BatchRequest(7, np.arange(20)))
    rows = store.rows[:20]
    assert mixed.unusable_rows.tolist() == rows[rows % 2 == 0].tolist()
    alone = by_region.make(BatchRequest(7, np.flatnonzero(rows % 2)))
    assert mixed.fingerprint == alone.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(tensors(mixed), tensors(alone), strict=True))


def test_an_online_teacher_is_asked_on_the_very_pixels_of_the_batch(store: Store) -> None:
    asked = []

    def teacher(pixels: torch.Tensor) -> torch.Tensor:
        asked.append(pixels)
        return torch.zeros(len(pixels), 16, 8)

    (batch, _), *_ = maker(store, online=teacher).stream(requests(1))
    assert torch.equal(asked[0], batch.pixels_BCSS)
    assert latents_of(batch).shape == (5, 16, 8)


def test_a_batch_keeps_its_numbers_when_later_ones_are_read_into_the_same_memory(store: Store) -> None:
    made = maker(store)
    first = made.make(BatchRequest(0, np.arange(5)))
    before = [tensor.clone() for tensor in tensors(first)]
    addresses = {made._store.read(store.rows[:3], layers=["pixels"]).pixels.ctypes.data}
    for start in range(5, 20, 5):
        addresses.add(made.make(BatchRequest(0, np.arange(start, start + 5))).pixels_BCSS.data_ptr())
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), before, strict=True))
    assert first.pixels_BCSS.data_ptr() not in addresses


def test_every_batch_is_read_into_memory_of_a_ring_that_does_not_grow(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    real = type(store).read

    def read(self: Store, rows: NDArray[Any], **kwargs: Any) -> Batch:
        batch = real(self, rows, **kwargs)
        seen.add(batch.pixels.ctypes.data)
        return batch

    monkeypatch.setattr(type(store), "read", read)
    assert len([batch for batch, _ in maker(store).stream(requests(30))]) == 30
    assert len(seen) <= 2


def test_a_layer_that_the_store_lacks_is_refused_by_name(store: Store) -> None:
    with pytest.raises(UsageError, match="no layer latents/urfm"):
        BatchMaker(store, Targets("urfm", {}, (4, 4), 8), TrainSettings(masks=MASKS), torch.device("cpu"))
