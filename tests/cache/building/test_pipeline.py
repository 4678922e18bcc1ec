"""The pipeline of every build: the first failure counts, a stop leaves nothing behind, devices share the shards."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.support.builds import small, tree
from tests.support.processes.commands import LIMIT_S
from tests.support.stores import layers, tables
from usjepa.cache.building.build import build
from usjepa.cache.building.pipeline import _Run, make_shards
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.building.shard_maker import ShardMaker
from usjepa.cache.building.stages import Stages
from usjepa.cache.errors import Interrupted, SourceError, TeacherError, UsageError
from usjepa.cache.frames.rows import PixelShard
from usjepa.cache.interrupt import at_safe_points
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.teacher import device
from usjepa.cache.teacher.computing import LatentComputer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any


class Pretended(ShardMaker):
    """Cuts four shards at once, of which some do what a test says."""

    on: Mapping[int, Callable[[], None]] = {}

    @property
    def lookahead(self) -> int:
        return 4

    def pixels_of(self, shard: int, turn: int | None = None) -> PixelShard:
        self.on.get(shard, lambda: None)()
        kinds, count = layers(), len(self.writer.state.rows_of_shard(shard))
        pixels, regions = (np.zeros((count, *kinds[name].shape), np.uint8) for name in ("pixels", "regions"))
        return PixelShard(pixels, regions, [])


def pretended(root: Path, shards: int, on: Mapping[int, Callable[[], None]]) -> Pretended:
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(4)
    writer.add_segment(*tables(4 * shards), 4 * shards)
    for name in ("pixels", "regions"):
        writer.add_layer(layers()[name])
    maker = Pretended(writer, {"pixels": {}, "regions": {}})
    maker.on = on
    return maker


def committed(maker: ShardMaker) -> set[int]:
    return set(maker.writer.committed([maker.writer.state.layers["pixels"]])["pixels"])


def test_of_several_shards_that_fail_the_first_in_order_is_told_and_those_before_it_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them fails first by the clock: the same sources give the same message."""
    noted, take_note = threading.Event(), _Run._take_note

    def wait() -> None:
        assert noted.wait(LIMIT_S)

    def fail(what: str) -> None:
        raise SourceError(what)

    def note_that_one_failed(self: _Run) -> None:
        take_note(self)
        if self._failed:  # from now on nothing is begun
            noted.set()

    monkeypatch.setattr(_Run, "_take_note", note_that_one_failed)

    def wait_and_fail() -> None:
        wait()
        fail("shard 1")

    on = {**dict.fromkeys(range(40), wait), 1: wait_and_fail, 3: lambda: fail("shard 3")}
    maker = pretended(tmp_path / "s", 40, on)
    with pytest.raises(SourceError, match="shard 1"):
        make_shards(maker, range(40))
    assert 0 in committed(maker)
    assert committed(maker) <= set(range(7))  # what was begun, and nothing after it


def test_a_stop_ends_the_pipeline_at_a_safe_point_and_what_was_committed_stays(tmp_path: Path) -> None:
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Interrupted("stopped")

    maker = pretended(tmp_path / "s", 40, {9: stop.set})
    with at_safe_points(check), pytest.raises(Interrupted):
        make_shards(maker, range(40))
    assert not [one for one in threading.enumerate() if one.name.startswith(("shard_", "write_"))]
    found = committed(maker)
    assert 0 < len(found) < 30
    make_shards(pretended_again(maker), [shard for shard in range(40) if shard not in found])
    assert committed(maker) == set(range(40))


def pretended_again(maker: Pretended) -> Pretended:
    maker.on = {}
    return maker


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_two_devices_share_the_shards_and_the_store_is_that_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    computed_by = []

    class Noted(LatentComputer):
        def compute(self, *args: Any) -> Any:
            computed_by.append(threading.current_thread().name)
            return super().compute(*args)

    monkeypatch.setattr("usjepa.cache.building.shard_maker.LatentComputer", Noted)
    recipe = small(f"cache.precision={precision}")
    build(str(tmp_path / "one"), recipe, BuildRequest(teacher="random"))
    assert {name.rpartition("_")[0] for name in computed_by} == {""}  # the main thread
    computed_by.clear()
    build(str(tmp_path / "two"), recipe, BuildRequest(teacher="random", devices="cpu, cpu"))
    assert {name.rpartition("_")[0] for name in computed_by} == {"teacher-0", "teacher-1"}
    assert tree(tmp_path / "two") == tree(tmp_path / "one")


def test_a_device_that_fails_ends_the_build_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(LatentComputer):
        def compute(self, *args: Any) -> Any:
            if threading.current_thread().name.startswith("teacher-1"):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().compute(*args)

    monkeypatch.setattr("usjepa.cache.building.shard_maker.LatentComputer", Full)
    with pytest.raises(TeacherError, match=r"^device cpu: CUDA out of memory\. Tried .*batch_size"):
        build(str(tmp_path / "s"), small(), BuildRequest(teacher="random", devices="cpu,cpu"))
    monkeypatch.undo()
    assert build(str(tmp_path / "s"), small(), BuildRequest(teacher="random")) is not None


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (BuildRequest(teacher="random", devices="cpu,"), "separated by commas"),
        (BuildRequest(teacher="random", devices="cpu,tpu:0"), "--device tpu:0: not usable here"),
        (BuildRequest(teacher="random", devices="cpu,cpu", device="cpu"), "give one of them"),
        (BuildRequest(teacher="random", devices="cpu,cpu", dask="local:2"), "worker i takes GPU i"),
        (BuildRequest(devices="cpu,cpu"), "give --teacher too"),
    ],
)
def test_devices_that_make_no_sense_are_refused_before_anything_is_written(
    tmp_path: Path, request_: BuildRequest, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        build(str(tmp_path / "s"), small(), request_)
    assert not (tmp_path / "s").exists()


def test_devices_of_two_kinds_are_refused_as_their_last_bits_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "choose_device", lambda name: name)
    monkeypatch.setattr(device, "soft_identity", lambda name: {"device": "H200" if name == "cuda:0" else "A100"})
    with pytest.raises(UsageError, match="cuda:0 is H200, cuda:1 is A100"):
        device.choose_devices("cuda:0,cuda:1")


def test_the_stages_of_several_processes_are_told_as_those_of_one() -> None:
    one, two = Stages(lanes={"decode": 4, "teacher": 1}), Stages(lanes={"decode": 2, "teacher": 1})
    one.add("decode", 40.0, 100)
    two.add("decode", 20.0, 50)
    two.add("teacher", 5.0, 50)
    two.add_bytes(20_000_000)
    both = Stages.together([one.told(), two.told()])
    assert both.shares(10.0) == {"decode": 1.0, "teacher": 0.25}
    assert both.rows == {"decode": 150, "teacher": 50}
    assert both.pace(10.0) == {"written": "2.0 MB/s", "teacher busy": "25 %"}
