"""A clip whose rows lie in several shards is decoded by one child, and cut by all, with the same bytes."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from tests.support.builds import small, tree
from tests.support.files.told_clips import NOTES, ToldClipReader
from tests.support.processes.commands import LIMIT_S
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.decoding import handing_on
from usjepa.cache.decoding.child import Decoded
from usjepa.cache.decoding.cutters import Cutters
from usjepa.cache.decoding.handing_on import HandingOn
from usjepa.cache.decoding.turns import Turns
from usjepa.cache.errors import SourceError
from usjepa.cache.frames.clips import SourceRef
from usjepa.cache.frames.rows import PixelShard, RowBlock, RowSpec
from usjepa.cache.frames.views import View
from usjepa.cache.reading.store import open_store
from usjepa.cache.sources import registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from usjepa.cache.decoding.child import DecodingProcess


SETS = ("cache.preprocess.deidentify=false", "cache.max_frames_per_source=null")


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file in which decoded frames are noted: process, clip, number."""
    monkeypatch.setattr(registry, "_registered", [])
    registry.register(ToldClipReader)
    (tmp_path / "notes").touch()
    monkeypatch.setenv(NOTES, str(tmp_path / "notes"))
    yield tmp_path / "notes"
    monkeypatch.undo()
    registry.readers.cache_clear()
    registry._by_ending.cache_clear()


def clip(folder: Path, name: str, frames: int, **told: Any) -> None:
    (folder / "x").mkdir(parents=True, exist_ok=True)
    (folder / "x" / f"{name}.told").write_text(json.dumps({"frames": frames, **told}))


def built(store: Path, source: Path, processes: int, *sets: str, on_error: str = "stop") -> dict[str, bytes]:
    recipe = small(f"cache.decode_processes={processes}", *SETS, *sets)
    build(str(store), recipe, BuildRequest(source=str(source), on_error=cast("Any", on_error)))
    return tree(store)


def decoded(notes: Path) -> dict[str, Counter[str]]:
    """Return clip -> process -> how many frames it decoded, leaving out the first, at which the scan looked."""
    found: dict[str, Counter[str]] = {}
    seen: set[str] = set()
    for line in notes.read_text().splitlines():
        process, name, _ = line.split()
        if name in seen:
            found.setdefault(name, Counter())[process] += 1
        seen.add(name)
    return {name: Counter({p: n for p, n in counts.items() if n > 1}) for name, counts in found.items()}


def test_of_several_children_one_decodes_a_clip_of_3000_frames_once_for_its_region_and_once_for_its_rows(
    tmp_path: Path, notes: Path
) -> None:
    clip(tmp_path / "in", "long", 3000)
    sets = ("cache.rows_per_shard=128", "cache.views.count=1")
    several = built(tmp_path / "several", tmp_path / "in", 3, *sets)
    (by_process,) = decoded(notes).values()
    assert list(by_process.values()) == [2 * 3000]
    assert len(open_store(tmp_path / "several")) == 3000
    assert several == built(tmp_path / "one", tmp_path / "in", 1, *sets)


def test_clips_that_end_within_a_shard_and_those_that_do_not_are_each_decoded_by_one_child(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handing_on, "_BATCH_NBYTES", 3 * 24 * 24 * 3)  # three frames
    for name, frames in (("a", 3), ("b", 30), ("c", 1), ("d", 5), ("e", 2), ("f", 14), ("g", 9)):
        clip(tmp_path / "in", name, frames, blank=[0, 11])
    told = built(tmp_path / "several", tmp_path / "in", 3, "cache.on_blank=skip")
    counts = decoded(notes)
    assert {name: sum(counts[name].values()) for name in ("b", "f", "g")} == {"b": 60, "f": 28, "g": 18}
    assert all(len(by_process) <= 1 for by_process in counts.values())
    assert told == built(tmp_path / "one", tmp_path / "in", 1, "cache.on_blank=skip")
    assert open_store(tmp_path / "several").manifest.holes


@pytest.mark.parametrize("fault", [pytest.param(one, marks=pytest.mark.slow) for one in ("breaks", "dies")])
def test_a_clip_that_fails_in_one_shard_is_left_out_there_as_one_child_leaves_it_out(
    tmp_path: Path, fault: str
) -> None:
    clip(tmp_path / "in", "a", 3)
    clip(tmp_path / "in", "b", 30, **{fault: 13, "blank": [9, 10]})
    several = built(tmp_path / "several", tmp_path / "in", 2, on_error="skip")
    assert several == built(tmp_path / "one", tmp_path / "in", 1, on_error="skip")
    holes = open_store(tmp_path / "several").manifest.holes
    assert len(holes) == 8
    assert all(("SIGSEGV" if fault == "dies" else "a slice is missing") in why for _, why in holes)
    with pytest.raises(SourceError, match=r"x/b\.told: can't be read"):
        built(tmp_path / "stopped", tmp_path / "in", 2)


def _block(first: int, frames: range) -> RowBlock:
    view = View(0, 0, 8, 8, False, False)
    return RowBlock(first, [SourceRef("x", "told", "", 8, 8, 1000)], [RowSpec(0, number, view) for number in frames])


class _Slow:
    """Stands for children: decodes at once, cuts slowly, and nothing before so many batches are held."""

    def __init__(self, begins_at: int = 1) -> None:
        self.lock, self.held, self.most = threading.Lock(), 0, 0
        self.begins_at, self.begins = begins_at, threading.Event()
        self.asked: list[int] = []

    def decode(self, source: SourceRef, wanted: list[int], start: int, count: int) -> Decoded:
        del source
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
            if self.held >= self.begins_at:
                self.begins.set()
        self.asked += wanted[start : start + count]
        return Decoded(wanted[start : start + count], "", {}, [])

    def cut(self, block: RowBlock, skip: bool, given: Decoded | None, bad: Mapping[str, str]) -> PixelShard:
        assert given is not None
        assert not skip
        assert not bad
        assert self.begins.wait(LIMIT_S)
        time.sleep(0.01)
        with self.lock:
            self.held -= 1
        numbers = np.array([row.frame for row in block.rows], np.uint8)
        assert numbers.tolist() == list(given.numbers)
        return PixelShard(numbers, numbers, [])

    def close(self) -> None:
        pass


def _over(slow: _Slow, children: int) -> tuple[HandingOn, Turns]:
    turns = Turns(lambda: None)
    return HandingOn(cast("DecodingProcess", slow), slow.cut, children, turns, lambda: None), turns


def test_at_most_one_batch_more_than_there_are_children_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_on, "_BATCH_NBYTES", 2 * 3 * 8 * 8)
    slow = _Slow(begins_at=3)
    over, turns = _over(slow, 2)
    made = over.cut(_block(0, range(40)), (False, True), False, turns.draw())
    assert made.pixels.tolist() == slow.asked == list(range(40))
    assert slow.most == 3


def test_blocks_are_let_in_as_their_turns_were_drawn_whichever_thread_comes_first() -> None:
    slow = _Slow()
    over, turns = _over(slow, 2)
    blocks = [(_block(8 * i, range(8 * i, 8 * i + 8)), (i > 0, True), False, turns.draw()) for i in range(4)]
    unwanted = turns.draw()
    threads = [threading.Thread(target=over.cut, args=block) for block in blocks]
    for i in (3, 1, 2, 0):
        assert slow.asked == []
        threads[i].start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(LIMIT_S)
    assert slow.asked == list(range(32))
    after = threading.Thread(target=over.cut, args=(_block(32, range(32, 40)), (True, True), False, turns.draw()))
    after.start()
    time.sleep(0.05)
    assert after.is_alive()
    turns.give_up(unwanted)
    after.join(LIMIT_S)
    assert slow.asked == list(range(40))


def test_a_clip_is_decoded_once_however_long_a_thread_sleeps_before_it_cuts(
    tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip(tmp_path / "in", "long", 60)
    asked, lock, before = count(), threading.Lock(), Cutters._clips_beyond

    def late(self: Cutters, *rows: Any) -> tuple[bool, bool]:
        with lock:
            one = next(asked)
        time.sleep(0.6 if one % 4 == 0 else 0)
        return before(self, *rows)

    monkeypatch.setattr(Cutters, "_clips_beyond", late)
    built(tmp_path / "several", tmp_path / "in", 3, "cache.rows_per_shard=4", "cache.views.count=1")
    assert next(asked) == 15
    (by_process,) = decoded(notes).values()
    assert list(by_process.values()) == [2 * 60]
