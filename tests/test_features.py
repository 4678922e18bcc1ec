"""Claims about features: computed once per encoder and task, never trusted when damaged, right for each encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.labelled import DIM, patients, write_labelled
from usjepa.cache.errors import UsjepaError
from usjepa.cache.settings import EvaluateSettings
from usjepa.evaluate.baselines import Hog, Pixels, grey_of
from usjepa.evaluate.features import features_of
from usjepa.evaluate.tasks import Task, tasks_of
from usjepa.evaluate.teachers import stored_teacher

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.store import Batch


class Counting:
    """An encoder that counts how often it is asked."""

    name, pooling, given, layers = "counting", "none", "pixels", ("pixels",)

    def __init__(self, mark: str = "a", value: float = 0.0) -> None:
        self.identity: dict[str, Json] = {"kind": mark}
        self.asked = 0
        self.value = value

    def features(self, batch: Batch) -> NDArray[np.float32]:
        self.asked += len(batch.rows)
        return np.stack([batch.rows, batch.pixels.mean((1, 2, 3)) + self.value], 1).astype(np.float32)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (task,) = tasks_of(write_labelled(tmp_path / "s.zarr", patients(12, ["a", "b"]), latents=True), EvaluateSettings())
    return task


def test_features_are_computed_once_and_found_by_the_next_call(task: Task, tmp_path: Path) -> None:
    encoder, said = Counting(), list[str]()
    first = features_of(encoder, task, tmp_path / "features", 7, said.append)
    again = features_of(encoder, task, tmp_path / "features", 5, said.append)
    assert encoder.asked == len(task.rows)
    assert np.array_equal(first, again)
    assert first[:, 0].tolist() == task.rows.tolist()
    assert said == []


def test_another_encoder_other_rows_or_another_store_are_other_features(task: Task, tmp_path: Path) -> None:
    from dataclasses import replace

    (other,) = tasks_of(write_labelled(tmp_path / "o.zarr", patients(12, ["a", "b"]), seed=9), EvaluateSettings())
    for one, encoder in ((task, Counting()), (task, Counting("b")), (other, Counting())):
        features_of(encoder, one, tmp_path / "f", 8, print)
        assert encoder.asked == 24
    fewer = replace(task, rows=task.rows[:10])
    assert len(features_of(Counting(), fewer, tmp_path / "f", 8, print)) == 10
    assert len(list((tmp_path / "f").iterdir())) == 4


@pytest.mark.parametrize("place", [3, 20, 40, 120, 200, -5])
def test_a_damaged_file_is_said_to_be_damaged_and_computed_anew(task: Task, tmp_path: Path, place: int) -> None:
    folder, said = tmp_path / "features", list[str]()
    whole = features_of(Counting(), task, folder, 8, said.append)
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    encoder = Counting()
    assert np.array_equal(features_of(encoder, task, folder, 8, said.append), whole)
    assert encoder.asked == 24
    assert len(said) == 1
    assert "computing them again" in said[0]


def test_a_feature_that_is_not_finite_is_refused_with_its_row(task: Task, tmp_path: Path) -> None:
    with pytest.raises(UsjepaError, match="row 0: counting gave a feature that is not finite"):
        features_of(Counting(value=float("nan")), task, tmp_path, 8, print)
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_teacher_is_read_from_its_stored_latents_as_the_mean_of_its_tokens(task: Task, tmp_path: Path) -> None:
    found = features_of(stored_teacher(task.store, "toy"), task, tmp_path / "features", 8, print)
    latents = task.store.read(task.rows, layers=("latents/toy",)).latents
    assert found.shape == (24, DIM)
    assert np.allclose(found, latents.astype(np.float32).mean(1), atol=1e-6)


def test_pixels_are_area_averages_and_hog_has_its_documented_length(tmp_path: Path) -> None:
    files = patients(2, ["a", "b"])
    store = write_labelled(tmp_path / "big.zarr", files, size=224)
    batch = store.read(store.rows, layers=("pixels",))
    pixels = Pixels().features(batch)
    assert np.allclose(pixels[0, 0], batch.pixels[0, 0, :7, :7].mean() / 255, atol=1e-6)
    assert pixels.shape == (4, 1024)
    assert Hog().features(batch).shape == (4, 1764)


def test_colour_frames_become_grey_by_luma() -> None:
    red = np.zeros((1, 3, 2, 2), np.uint8)
    red[:, 0] = 100
    assert np.allclose(grey_of(red), 29.9)
