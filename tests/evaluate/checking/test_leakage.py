"""Claims about leakage and hygiene: copies are found whatever was done to them, other frames are not, all is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tests.support.labelled import File, patients, pixels_of, write_labelled
from usjepa.cache.perceptual import BITS, NEAR_BITS
from usjepa.cache.recipes.cache import PhantomSettings
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.cache.sources.phantom.source import Phantom
from usjepa.evaluate.checking.hygiene import facts_of, torn
from usjepa.evaluate.checking.leakage import Contents, contents_of
from usjepa.evaluate.checking.near_duplicates import _FAR, frame_bits, nearest
from usjepa.evaluate.tasks.find import find_tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.evaluate.tasks.task import Task

SETTINGS = EvaluateSettings()


@pytest.fixture(scope="module")
def scans() -> NDArray[np.uint8]:
    """Simulated frames of 24 patients, [24, 1, 224, 224]."""
    phantom = Phantom(PhantomSettings(patients=24, frames_per_patient=1))
    frames = [phantom.frame(patient.path, 0) for patient in phantom.patients()]
    return np.stack([cv2.resize(f if f.ndim == 2 else f[..., 0], (224, 224))[None] for f in frames]).astype(np.uint8)


def each(frames: NDArray[np.uint8], change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(change(frame[0]), np.uint8)[None] for frame in frames])


def as_jpeg(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 0), np.uint8)


def halved(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(cv2.resize(frame, (112, 112), interpolation=cv2.INTER_AREA), (224, 224)), np.uint8)


def brighter(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.clip(frame.astype(np.float32) * 1.1, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [as_jpeg, halved, brighter])
def test_a_copy_is_near_its_frame_and_other_patients_are_not(
    scans: NDArray[np.uint8], change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    distance, which = nearest(frame_bits(each(scans, change)), frame_bits(scans))
    assert distance.max() <= NEAR_BITS
    assert which.tolist() == list(range(len(scans)))
    others = [nearest(frame_bits(scans[i : i + 1]), np.delete(frame_bits(scans), i, axis=0))[0][0] for i in range(24)]
    assert min(others) > NEAR_BITS


def test_distances_are_hamming_distances_across_blocks() -> None:
    rng = np.random.default_rng(0)
    one, other = (np.where(rng.random((n, BITS)) < 0.5, -1.0, 1.0).astype(np.float32) for n in (1500, 70))
    distance, which = nearest(one, other)
    plain = (one[:, None] != other[None]).sum(axis=2)
    assert np.array_equal(distance, plain.min(axis=1))
    assert np.array_equal(which, plain.argmin(axis=1))


def test_blank_frames_are_near_to_nothing() -> None:
    blank = frame_bits(np.full((2, 1, 32, 32), 7, np.uint8))
    assert nearest(blank, blank)[0].tolist() == [_FAR, _FAR]
    assert nearest(blank, blank[:0])[0].tolist() == [_FAR, _FAR]


def task_with(tmp_path: Path, files: list[File], copies: dict[int, int]) -> Task:
    """Return a task some of whose frames are the same pixels as others: copy -> original."""
    pixels = pixels_of(files, 64)
    for copy, original in copies.items():
        pixels[copy] = pixels[original]
    return find_tasks(write_labelled(tmp_path / "s.zarr", files, size=64, pixels=pixels), SETTINGS).tasks[0]


def test_frames_found_on_both_sides_are_counted_with_their_groups_and_labels(tmp_path: Path) -> None:
    files = [File("ab"[i % 2], f"p{i}", "test" if i >= 30 else "train") for i in range(40)]
    # Frame 30 repeats frame 2 (label a both), 31 repeats 4 (b and a), 32 and 33 are alike within test.
    task = task_with(tmp_path, files, {30: 2, 31: 4, 33: 32})
    facts = facts_of(task)
    assert (facts.leakage.exact, facts.leakage.near_other_group) == (2, 2)
    assert {(30, 2), (31, 4)} <= set(facts.leakage.rows)
    assert facts.hygiene.torn_exact == 4
    told = facts.sentences()
    assert told[0].startswith("Leak: 2 of 10 test frames also lie in training or validation")
    assert any("4 identical frames have different labels" in sentence for sentence in told)


def test_blank_frames_are_told_and_are_neither_leak_nor_contradiction(tmp_path: Path) -> None:
    files = [File("ab"[i % 2], f"p{i}", "test" if i >= 30 else "train") for i in range(40)]
    pixels = pixels_of(files, 64)
    pixels[[2, 5, 31]] = 7  # one colour
    pixels[[4, 33]] = np.array([0, 200], np.uint8)[np.arange(64) // 32]  # two levels
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files, size=64, pixels=pixels), SETTINGS).tasks
    facts = facts_of(task)
    assert not facts.leakage.found
    assert (facts.hygiene.torn_exact, facts.hygiene.torn_near) == (0, 0)
    (told,) = [sentence for sentence in facts.sentences() if "blank" in sentence]
    assert told.startswith(
        "5 of 40 frames are blank: one colour, few grey levels or hardly any scan (3 in train, 2 in test)"
    )


def test_few_validation_patients_are_told_and_enough_of_them_are_not(tmp_path: Path) -> None:
    def told(groups: int) -> list[str]:
        files = [File("ab"[i % 2], f"p{i}", "train") for i in range(20)]
        files += [File("ab"[i % 2], f"v{i % groups}", "val") for i in range(20)]
        files += [File("ab"[i % 2], f"t{i}", "test") for i in range(20)]
        (task,) = find_tasks(write_labelled(tmp_path / f"{groups}.zarr", files, size=64), SETTINGS).tasks
        return [sentence for sentence in facts_of(task).sentences() if "Few validation patients" in sentence]

    (few,) = told(2)
    assert few.startswith("Few validation patients: 2 groups.")
    assert told(5) == []


def test_near_duplicates_are_told_apart_from_exact_ones(scans: NDArray[np.uint8], tmp_path: Path) -> None:
    pixels = np.concatenate([scans, each(scans[:3], as_jpeg), scans[3:4]])
    files = [File("ab"[i % 2], f"p{i}", "test" if i >= 24 else "train") for i in range(28)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files, size=224, pixels=pixels), SETTINGS).tasks
    leakage = facts_of(task).leakage
    assert (leakage.exact, leakage.near, leakage.test_frames) == (1, 3, 4)
    assert leakage.rows[0] == (27, 3)
    assert leakage.found


def test_a_group_on_both_sides_of_a_given_split_is_counted(tmp_path: Path) -> None:
    files = [File("ab"[i % 2], f"p{i // 4}", "test" if i >= 34 else "train") for i in range(48)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files, size=64), SETTINGS).tasks
    leakage = facts_of(task).leakage
    assert (leakage.groups, leakage.test_groups, leakage.group_frames) == (1, 4, 2)


def test_a_dealt_split_of_distinct_frames_leaks_nothing(tmp_path: Path) -> None:
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", patients(20, ["a", "b"]), size=64), SETTINGS).tasks
    leakage = facts_of(task).leakage
    assert not leakage.found
    assert leakage.sentences() == []


def test_a_split_of_one_class_and_what_a_constant_scores_are_told(tmp_path: Path) -> None:
    files = [File("ab"[i % 2], f"p{i}", "train") for i in range(20)]
    files += [File("a", f"v{i}", "val") for i in range(4)] + [File("aaab"[i % 4], f"t{i}", "test") for i in range(8)]
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", files), SETTINGS).tasks
    hygiene = facts_of(task).hygiene
    assert hygiene.one_class == ("validation",)
    assert [(count.name, count.split) for count in hygiene.missing] == [("b", "validation")]
    assert hygiene.constant_accuracy == 0.75
    # F1 of class a: precision 6/8, recall 1; of class b 0.
    assert hygiene.constant_macro_f1 == pytest.approx((2 * 0.75 / 1.75) / 2)
    assert "All frames of validation are of one class." in hygiene.sentences()


def test_random_frames_have_no_twins_among_thousands() -> None:
    rng = np.random.default_rng(0)
    count = 3000
    bits = np.where(rng.random((count, BITS)) < 0.5, -1.0, 1.0).astype(np.float32)
    contents = Contents(np.array([f"{i:032x}" for i in range(count)], dtype=object), bits, np.zeros(count, bool))
    assert (contents.twins(np.arange(800), np.arange(800, count))[0] > NEAR_BITS).all()
    assert torn(contents, rng.integers(0, 9, count)) == (0, 0)


def test_contents_are_read_in_pieces_in_the_tasks_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = find_tasks(write_labelled(tmp_path / "s.zarr", patients(12, ["a", "b"]), size=64), SETTINGS).tasks
    whole = contents_of(task)
    monkeypatch.setattr("usjepa.evaluate.checking.leakage._READ_AT_ONCE", 5)
    pieces = contents_of(task)
    assert (whole.pixels == pieces.pixels).all()
    assert np.array_equal(whole.bits, pieces.bits)
