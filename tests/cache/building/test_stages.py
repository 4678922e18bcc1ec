"""The end of a build says what limited it and what to do; its progress says how busy the teacher is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.stores import layers, tables
from usjepa.cache.building.pipeline import make_shards
from usjepa.cache.building.shard_maker import Latents, ShardMaker
from usjepa.cache.building.stages import _ADVICE, Stages
from usjepa.cache.frames.rows import PixelShard
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("stage", ["decode", "teacher", "write", "read"])
def test_the_stage_that_was_always_at_work_is_named_with_what_to_do_about_it(stage: str) -> None:
    stages = Stages(lanes={"decode": 4})
    for other in _ADVICE:
        stages.add(other, (9.5 if other == stage else 2.0) * stages.lanes.get(other, 1), 1)
    assert stages.report(10.0).endswith(f"; {stage} limits this build: {_ADVICE[stage]}")


def test_four_lanes_at_work_half_of_the_time_are_half_a_share_and_limit_nothing() -> None:
    stages = Stages(lanes={"decode": 4})
    stages.add("decode", 20.0, 5)
    stages.add("teacher", 4.0, 5)
    assert stages.shares(10.0) == {"decode": 0.5, "teacher": 0.4}
    assert stages.seconds_per_row("decode") == 1.0
    assert "no stage was always at work, decode most of all" in stages.report(10.0)


def test_threads_count_into_one_sum() -> None:
    stages = Stages()
    workers = [threading.Thread(target=lambda: [stages.add("decode", 1.0, 3) for _ in range(5000)]) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert stages.seconds == {"decode": 20000.0}
    assert stages.rows == {"decode": 60000}


class Slow(ShardMaker):
    """Cuts nothing; counts how many shards lie in memory, cut and not yet written."""

    held = 0
    most = 0

    def pixels_of(self, shard: int, turn: int | None = None) -> PixelShard:
        self.held += 1
        self.most = max(self.most, self.held)
        numbers = self.writer.state.rows_of_shard(shard)
        kinds = layers()
        pixels, regions = (np.zeros((len(numbers), *kinds[name].shape), np.uint8) for name in ("pixels", "regions"))
        return PixelShard(pixels, regions, [])

    def write(self, shard: int, made: PixelShard, latents: Latents | None) -> None:
        super().write(shard, made, latents)
        self.held -= 1


def test_no_more_shards_than_stages_are_in_memory_however_many_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = StoreWriter(LocalStorage(tmp_path / "s"))
    writer.create_or_open(4)
    writer.add_segment(*tables(160), 160)
    for name in ("pixels", "regions"):
        writer.add_layer(layers()[name])
    maker = Slow(writer, {"pixels": {}, "regions": {}})
    make_shards(maker, range(40))
    assert maker.held == 0
    assert maker.most <= 4  # one cut ahead, one at the teacher, two being written
    assert "write" in maker.stages.report(1.0)
    shown = capsys.readouterr().err
    assert "160 of 160 rows" in shown
    assert "written" in shown
    assert "MB/s" in shown
    writer.seal()
