"""Of a clip, only frames that differ enough become rows: known before anything is cut, counted, told, repeatable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.builds import pictures, small, tree
from tests.support.files.clips import write_clip
from tests.support.files.dicoms import header, save
from tests.support.processes import forked
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.decoding.child import DecodingProcess
from usjepa.cache.errors import Interrupted, RecipeError
from usjepa.cache.perceptual import BITS, HASH_NBYTES, frame_hash
from usjepa.cache.planning.sample import draw_sample
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.cache import CacheSettings
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.scanning.changes import chosen_frames, taken_frames
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.row_table import row_table
from usjepa.cache.scanning.scan import list_source, scan_all, scan_report
from usjepa.cache.sources.files.reader import SourceReader
from usjepa.cache.sources.formats.video import Decoder
from usjepa.cache.upkeep.repair import repair
from usjepa.cache.upkeep.status import status_report

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.sources.base import FileFacts
    from usjepa.cache.store.tables import SourceTable

BIT = 32
"""The threshold of most tests: noise lies far below it, another scene far above."""
RECIPE = small("cache.preprocess.text=keep", "cache.views.count=1", f"cache.min_change={BIT}")
ALL = small("cache.preprocess.text=keep", "cache.views.count=1")
ORDER, FIRSTS = "AAABBBCAAC", [0, 3, 6, 7, 9]
"""Which scene each frame of a clip shows, and the frames that differ from the last one kept."""


def scene(name: str, noise: int = 0) -> NDArray[np.uint8]:
    """Return [64, 96]: soft blobs that `name` alone places, with a little noise that `noise` draws."""
    low = np.random.default_rng(ord(name)).uniform(0, 255, (8, 12))
    smooth = cv2.resize(low, (96, 64), interpolation=cv2.INTER_CUBIC)
    grain = np.random.default_rng(1000 + noise).normal(0, 1, (64, 96))
    return (smooth + grain).clip(0, 255).astype(np.uint8)


def clip(order: str = ORDER) -> NDArray[np.uint8]:
    return np.stack([scene(name, number) for number, name in enumerate(order)])


def written(root: Path) -> Path:
    """Write a clip of ten frames in three scenes, and three stills of which two are the same."""
    (root / "clip").mkdir(parents=True)
    np.save(root / "clip/a.npy", clip())
    pictures(root, ["still/1.png", "still/2.png"])
    shutil.copy(root / "still/1.png", root / "still/3.png")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "in")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two stores of it, that are only read: `thin`, and `all` with every frame."""
    root = tmp_path_factory.mktemp("changes")
    written(root / "in")
    build(str(root / "thin"), RECIPE, BuildRequest(source=str(root / "in")))
    build(str(root / "all"), ALL, BuildRequest(source=str(root / "in")))
    return root


def taken(store: Path) -> dict[str, list[int]]:
    """Return path -> frames that have rows."""
    table = open_store(store).table
    found: dict[str, list[int]] = {}
    for source, frame in zip(table.source.tolist(), table.frame.tolist(), strict=True):
        found.setdefault(table.sources[source].path, []).append(frame)
    return found


def _bits(codes: list[int]) -> bytes:
    return b"".join(code.to_bytes(HASH_NBYTES) for code in codes)


few_bits = st.lists(st.integers(0, 255), min_size=2, max_size=40)


@given(few_bits, st.integers(0, 9), st.none() | st.integers(1, 12))
def test_each_frame_kept_differs_enough_from_the_one_before_and_none_is_lost(
    codes: list[int], bits: int, most: int | None
) -> None:
    settings = CacheSettings(min_change=bits, max_frames_per_source=most)
    kept, passed_over = taken_frames(len(codes), _bits(codes), settings)
    assert kept[0] == 0
    assert (np.diff(kept) > 0).all()
    for before, after in zip(kept.tolist(), kept[1:].tolist(), strict=False):
        assert bin(codes[before] ^ codes[after]).count("1") >= bits
    if most is None:
        assert len(kept) + passed_over == len(codes)
        last = 0
        for number in range(len(codes)):  # whatever is not kept is too like the last one that is
            last = number if number in kept else last
            assert number in kept or bin(codes[last] ^ codes[number]).count("1") < bits
    else:
        assert len(kept) <= most
    if not bits:
        assert kept.tolist() == chosen_frames(len(codes), most).tolist()
        assert passed_over == 0


def test_most_frames_are_chosen_among_those_that_differ() -> None:
    codes = [0] * 90 + [(1 << number) - 1 for number in range(1, 11)]  # a long still, then ten frames all different
    kept, passed_over = taken_frames(100, _bits(codes), CacheSettings(min_change=1, max_frames_per_source=4))
    assert kept.tolist() == [0, 92, 96, 99]
    assert passed_over == 89
    # A movement that repeats: every second frame shows the same, and is no second row of it.
    kept, passed_over = taken_frames(9, _bits([0, 255] * 4 + [0]), CacheSettings(min_change=8, max_frames_per_source=5))
    assert kept.tolist() == [0]
    assert passed_over == 4


def test_a_clip_whose_frames_are_all_the_same_keeps_its_first_and_a_still_is_always_taken() -> None:
    settings = CacheSettings(min_change=BITS)
    kept, passed_over = taken_frames(5, _bits([7] * 5), settings)
    assert (kept.tolist(), passed_over) == ([0], 4)
    kept, passed_over = taken_frames(1, None, settings)
    assert (kept.tolist(), passed_over) == ([0], 0)


def test_the_hash_is_that_of_its_definition() -> None:
    """Block means, the DCT written out, 16 x 16 coefficients behind the first of each, against their median."""
    frame = cv2.resize(clip("A")[0], (192, 128), interpolation=cv2.INTER_CUBIC)
    means = frame.reshape(64, 2, 64, 3).mean(axis=(1, 3))
    k, n = np.mgrid[:64, :64]
    cosines = np.cos(np.pi * (2 * n + 1) * k / 128)
    low = (cosines @ means @ cosines.T)[1:17, 1:17]
    wanted = (low > np.median(low)).reshape(-1)
    found = np.unpackbits(np.frombuffer(frame_hash(frame), np.uint8)).astype(bool)
    assert np.count_nonzero(found != wanted) <= 2  # float32 may round one next to the median
    assert frame_hash(np.repeat(frame[..., None], 3, axis=2)) == frame_hash(frame)


def apart(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return (int.from_bytes(frame_hash(a)) ^ int.from_bytes(frame_hash(b))).bit_count()


def test_noise_is_near_another_scene_is_far_and_blank_frames_are_one() -> None:
    assert apart(scene("A"), scene("A")) == 0
    assert apart(scene("A", 1), scene("A", 2)) < BIT // 2
    assert apart(scene("A"), scene("B")) > 2 * BIT
    black, white = np.zeros((64, 96), np.uint8), np.full((64, 96), 255, np.uint8)
    assert apart(black, white) == 0
    assert apart(black, scene("A")) > 2 * BIT


KINDS = ("npy", "mp4", "gif", "tif", "dcm", "deep.dcm", "avi")


def write(path: Path, kind: str) -> Path:
    frames = clip()
    if kind == "npy":
        np.save(path, frames)
    elif kind in ("mp4", "avi"):
        codec, layout = ("libx264", "yuv420p") if kind == "mp4" else ("ffv1", "gray16le")
        write_clip(path, np.repeat(frames[..., None], 3, axis=3), codec, layout)
    elif kind == "gif":
        pages = [Image.fromarray(frame) for frame in frames]
        pages[0].save(path, save_all=True, append_images=pages[1:], duration=40)
    elif kind == "tif":
        tifffile.imwrite(path, frames, photometric="minisblack")
    else:
        samples = frames if kind == "dcm" else frames.astype(np.uint16) * 16
        save(path, header(samples), samples.tobytes())
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_of_any_format_is_hashed_as_its_frames_are_read(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"a.{kind}", kind)
    reader = {"npy": "npy", "tif": "images", "dcm": "dicom", "deep.dcm": "dicom"}.get(kind, "video")
    plain, hashing = (SourceReader(tmp_path, one.cache) for one in (ALL, RECIPE))
    facts, found = plain.probe(path.name, reader), hashing.probe(path.name, reader)
    assert found == facts
    assert facts.hashes is None
    frames = list(plain.frames(path.name, reader, range(facts.frames), plain.content_hash(path.name, reader)))
    assert found.hashes == b"".join(map(frame_hash, frames))
    if kind != "gif":  # whose encoder joins frames that are the same
        assert taken_frames(facts.frames, found.hashes, RECIPE.cache).frames.tolist() == FIRSTS


@pytest.mark.parametrize("kind", ["mp4", "dcm"])
def test_a_clip_is_decoded_once_for_its_count_and_its_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from usjepa.cache.sources.formats.dicom import reader as dicoms

    path, count = write(tmp_path / f"a.{kind}", kind), 0
    advance, decoded = Decoder.advance, dicoms._decoded

    def counted_advance(self: Decoder) -> bool:
        nonlocal count
        count += 1
        return advance(self)

    def counted_decoded(*args: object) -> object:
        nonlocal count
        count += 1
        return decoded(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "advance", counted_advance)
    monkeypatch.setattr(dicoms, "_decoded", counted_decoded)
    SourceReader(tmp_path, RECIPE.cache).probe(path.name, "video" if kind == "mp4" else "dicom")
    assert count <= len(ORDER) + 2  # its end, and the first frame once more, of which levels are counted


TOLD = "passed over: 5 of 10 frames of 1 clip, for they differ too little from the last one kept (cache.min_change)"


def test_a_scan_and_the_status_tell_how_many_frames_were_passed_over(built: Path) -> None:
    report = scan_report(str(built / "in"), RECIPE).splitlines()
    assert TOLD in report
    assert report[0].endswith("4 sources, 13 decoded frames, 8 rows")
    assert TOLD in status_report(str(built / "thin")).splitlines()
    assert "passed over" not in status_report(str(built / "all"))


def test_rows_are_those_that_a_build_of_all_frames_has_of_frames_that_differ(built: Path) -> None:
    stills = {f"still/{number}.png": [0] for number in (1, 2, 3)}
    assert taken(built / "thin") == {"clip/a.npy": FIRSTS, **stills}
    whole, thin = open_store(built / "all"), open_store(built / "thin")
    there = np.flatnonzero((whole.table.source > 0) | np.isin(whole.table.frame, FIRSTS))
    assert len(whole) == 13
    np.testing.assert_array_equal(thin.read(thin.rows).pixels, whole.read(whole.rows[there]).pixels)


def test_every_view_of_a_frame_that_is_taken_is_a_row(folder: Path) -> None:
    settings = RECIPE.cache.model_copy(update={"views": RECIPE.cache.views.model_copy(update={"count": 3})})
    scanned = scan_all(list_source(str(folder), settings), settings, None, "stop")
    rows = row_table(scanned.table, settings, scanned.hashes)
    assert rows.frame[rows.source == 0].tolist() == [frame for frame in FIRSTS for _ in range(3)]
    assert rows.view[:6].tolist() == [0, 1, 2, 0, 1, 2]


def test_a_plan_counts_the_frames_that_a_build_takes(folder: Path) -> None:
    listing = list_source(str(folder), RECIPE.cache)
    assert draw_sample(listing, RECIPE.cache, 10**6, 60).frames.value == 8
    assert draw_sample(listing, ALL.cache, 10**6, 60).frames.value == 13


def test_several_children_find_what_one_finds(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(34):
        np.save(tmp_path / f"in/{number:02d}.npy", clip(np.random.default_rng(number).choice(list("ABC"), 4).tolist()))
    found = []
    for processes in (1, 2):
        settings = RECIPE.cache.model_copy(update={"decode_processes": processes})
        scanned = scan_all(list_source(str(tmp_path / "in"), settings), settings, None, "stop")
        found.append((scanned.table, scanned.hashes, row_table(scanned.table, settings, scanned.hashes)))
    assert found[0] == found[1]
    assert 34 < len(found[0][2]) < 34 * 4


def stopping(monkeypatch: pytest.MonkeyPatch, at: str) -> list[str]:
    """Have scans stop at a file; return the names of those that are decoded."""
    names, real = [], DecodingProcess.probe

    def probe(self: DecodingProcess, path: str, reader: str) -> FileFacts:
        if path == at:
            raise Interrupted("stopped")
        names.append(path)
        return real(self, path, reader)

    monkeypatch.setattr(DecodingProcess, "probe", probe)
    return names


def test_a_build_that_was_stopped_in_its_scan_ends_in_the_same_bytes_and_tells_all(
    tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    folder = built / "in"
    with monkeypatch.context() as patch:
        stopping(patch, "still/1.png")
        with pytest.raises(Interrupted):
            build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(folder)))
    again = stopping(monkeypatch, "")
    build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(folder)))
    assert "clip/a.npy" not in again
    assert tree(tmp_path / "s") == tree(built / "thin")
    assert f"segment 1: {TOLD}" in said


def test_a_clip_that_was_counted_without_hashes_is_decoded_for_them_and_a_still_is_not(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, path = list_source(str(folder), ALL.cache), tmp_path / "journal"
    scan_all(listing, ALL.cache, ScanJournal(path), "stop")
    names = stopping(monkeypatch, "")
    found = scan_all(listing, RECIPE.cache, ScanJournal(path), "stop")
    assert names == ["clip/a.npy"]
    assert found.table.passed_over.tolist() == [5, 0, 0, 0]


def test_a_line_of_a_journal_with_hashes_of_other_frames_costs_one_more_decode(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, path = list_source(str(folder), RECIPE.cache), tmp_path / "journal"
    first = scan_all(listing, RECIPE.cache, ScanJournal(path), "stop")
    path.write_text(path.read_text().replace(next(iter(first.hashes.values())).hex(), "00" * HASH_NBYTES))
    names = stopping(monkeypatch, "")
    again = scan_all(listing, RECIPE.cache, ScanJournal(path), "stop")
    assert names == ["clip/a.npy"]
    assert again.table == first.table


def test_a_store_that_grows_compares_the_frames_of_new_clips_alone(
    tmp_path: Path, built: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(built / "all", tmp_path / "s")
    before = open_store(tmp_path / "s")
    np.save(folder / "clip/b.npy", clip("DDEEF"))
    shutil.copy(folder / "clip/a.npy", folder / "clip/c.npy")
    names = stopping(monkeypatch, "")
    build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(folder)))
    assert names == ["clip/b.npy", "clip/c.npy"]  # the second: its counts are known, which frames differ is not
    found = taken(tmp_path / "s")
    assert found["clip/a.npy"] == list(range(10))  # rows that are built stay
    assert (found["clip/b.npy"], found["clip/c.npy"]) == ([0, 2, 4], FIRSTS)
    now = open_store(tmp_path / "s")
    np.testing.assert_array_equal(now.read(before.rows).pixels, before.read(before.rows).pixels)
    _lose_and_mend(tmp_path / "s", folder, "000002")


def _lose_and_mend(store: Path, folder: Path, segment: str) -> None:
    tables = [store / f"segments/{segment}/{name}.parquet" for name in ("sources", "rows")]
    held = [path.read_bytes() for path in tables]
    for path in tables:
        path.unlink()
    assert repair(str(store), RECIPE, str(folder)).left == []
    assert [path.read_bytes() for path in tables] == held


def test_without_it_scans_find_and_write_what_they_always_did(folder: Path) -> None:
    listing = list_source(str(folder), ALL.cache)
    scanned = scan_all(listing, ALL.cache, None, "stop")
    assert scanned.hashes == {}
    assert "passed_over" not in scanned.table.columns()
    thinned: SourceTable = replace(scanned.table, passed_over=np.array([5, 0, 0, 0], np.int32))
    assert "passed_over" in thinned.columns()
    assert row_table(scanned.table, ALL.cache).frame.tolist() == [*range(10), 0, 0, 0]


@pytest.mark.parametrize("value", ["-1", "257", "1.5", "true"])
def test_a_threshold_that_is_no_number_of_bits_is_refused(value: str) -> None:
    with pytest.raises(RecipeError, match=r"cache\.min_change"):
        load_recipe("demo", [f"cache.min_change={value}"])


def _build_and_die(store: str, source: str, step: int) -> None:
    forked.die_at_durable_step(step)
    build(store, RECIPE, BuildRequest(source=source))


def test_a_build_that_was_killed_ends_in_the_same_bytes(tmp_path: Path, built: Path) -> None:
    assert forked.run(_build_and_die, str(tmp_path / "s"), str(built / "in"), 9) == -9
    build(str(tmp_path / "s"), RECIPE, BuildRequest(source=str(built / "in"), steal=True))
    assert tree(tmp_path / "s") == tree(built / "thin")
