"""Commands that look at tables of many sources do not hold them."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.stores import single_frames
from usjepa.cache.scanning.known_sources import KnownSources
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.upkeep.status import status_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SOURCES, VIEWS = 150_000, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of tables alone, whose shards are all still to be built."""
    root = tmp_path_factory.mktemp("large") / "s"
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(512)
    numbers = range(SOURCES)
    described = single_frames(
        VIEWS,
        path=[f"images/patient-{i // 3:09d}/frame-{i:09d}.png" for i in numbers],
        group=[f"patient-{i // 3:09d}" for i in numbers],
        content_hash=[f"{i:032x}" for i in numbers],
        dataset=["images"] * SOURCES,
        label=[""] * SOURCES,
        split=["train"] * SOURCES,
    )
    writer.add_segment(*described, SOURCES * VIEWS)
    writer.add_layer(Layer("pixels", "uint8", (1, 16, 16), 512, {}))
    return root


def peak_mb(call: Callable[[], object]) -> float:
    """Return the most memory that a call held, in MB."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def test_status_holds_a_batch_of_sources_and_of_rows_at_a_time(store: Path) -> None:
    assert "600,000 rows" in status_report(str(store))
    assert peak_mb(lambda: status_report(str(store))) < 30


def test_growth_holds_of_a_source_digests_and_numbers_and_no_rows(store: Path) -> None:
    storage, writer = LocalStorage(store), StoreWriter(LocalStorage(store))
    writer.attach()
    known = KnownSources(storage, writer.state.segments)
    columns = [value for value in vars(known).values() if isinstance(value, np.ndarray)]
    assert len(known) == SOURCES
    assert sum(column.nbytes for column in columns) == 53 * SOURCES
    assert peak_mb(lambda: KnownSources(storage, writer.state.segments)) < 60  # a batch of text and the columns
