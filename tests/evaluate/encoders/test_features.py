"""Claims about features: computed once per encoder and task, never trusted when damaged, right for each encoder."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.labelled import DIM, patients, write_labelled
from tests.support.processes import forked
from usjepa.cache.errors import Interrupted, UsjepaError
from usjepa.cache.frames.prepare import grey_of
from usjepa.cache.interrupt import graceful_interrupts
from usjepa.cache.reading.store import Store, open_store
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.encoders.baselines import Hog, Pixels
from usjepa.evaluate.encoders.features import KeptFeatures, feature_identity
from usjepa.evaluate.encoders.teachers import _stored_teacher
from usjepa.evaluate.tasks.find import find_tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch
    from usjepa.cache.store.generations import Manifest
    from usjepa.evaluate.tasks.task import Task


ROOT = Path(__file__).parents[3]


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
    (task,) = find_tasks(
        write_labelled(tmp_path / "s.zarr", patients(12, ["a", "b"]), latents=True), EvaluateSettings()
    ).tasks
    return task


def test_features_are_computed_once_and_found_by_the_next_call(task: Task, tmp_path: Path, said: list[str]) -> None:
    encoder = Counting()
    said.clear()
    first = KeptFeatures(tmp_path / "features", 7).features(encoder, task)
    again = KeptFeatures(tmp_path / "features", 5).features(encoder, task)
    assert encoder.asked == len(task.rows)
    assert np.array_equal(first, again)
    assert first[:, 0].tolist() == task.rows.tolist()
    assert said == []


def test_another_encoder_other_rows_or_another_store_are_other_features(task: Task, tmp_path: Path) -> None:
    (other,) = find_tasks(
        write_labelled(tmp_path / "o.zarr", patients(12, ["a", "b"]), seed=9), EvaluateSettings()
    ).tasks
    for one, encoder in ((task, Counting()), (task, Counting("b")), (other, Counting())):
        KeptFeatures(tmp_path / "f", 8).features(encoder, one)
        assert encoder.asked == 24
    fewer = replace(task, rows=task.rows[:10])
    assert len(KeptFeatures(tmp_path / "f", 8).features(Counting(), fewer)) == 10
    assert len(list((tmp_path / "f").iterdir())) == 4


def audited(manifest: Manifest) -> Manifest:
    entry = {"layer": "latents/toy", "rows": 8, "relative_error": 0.0, "passed": True}
    return replace(manifest, audits=(*manifest.audits, entry))


def repaired(manifest: Manifest) -> Manifest:
    entry = {"layer": "pixels", "shard": 0, "rows": [3], "exact": True}
    return replace(manifest, repaired=(*manifest.repaired, entry))


def with_another_teacher(manifest: Manifest) -> Manifest:
    name, toy = "latents/other", "latents/toy"
    return replace(
        manifest,
        layers={**manifest.layers, name: replace(manifest.layers[toy], name=name)},
        tables={**manifest.tables, name: manifest.tables[toy]},
        soft={**manifest.soft, name: manifest.soft[toy]},
    )


def with_other_pixels(manifest: Manifest) -> Manifest:
    return replace(manifest, tables={**manifest.tables, "pixels": ("0" * 32, *manifest.tables["pixels"][1:])})


@pytest.mark.parametrize(
    ("change", "same"),
    [(audited, True), (repaired, True), (with_another_teacher, True), (with_other_pixels, False)],
)
def test_features_are_kept_for_as_long_as_what_the_encoder_sees_is_the_same(
    task: Task, change: Callable[[Manifest], Manifest], same: bool
) -> None:
    store = task.store
    (part,) = store.parts
    later = replace(task, store=Store(part.location, change(part.manifest), part.threads))
    assert later.store.digest != store.digest
    assert (feature_identity(Counting(), task) == feature_identity(Counting(), later)) == same


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_damage_anywhere_never_changes_a_feature_and_is_said_where_it_is_met(
    task: Task, tmp_path: Path, said: list[str]
) -> None:
    whole = KeptFeatures(tmp_path / "whole", 4).features(Counting(), task)
    met = set()
    for number, original in enumerate(files_of(tmp_path / "whole")):
        folder = tmp_path / str(number)
        said.clear()
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / original.relative_to(tmp_path / "whole")
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 0x10
        path.write_bytes(data)
        encoder = Counting()
        assert np.array_equal(KeptFeatures(folder, 4).features(encoder, task), whole), path
        # A shard whose commit record is damaged counts as not computed yet, like one that a kill prevented.
        assert bool(said) == (encoder.asked > 0) or "commits" in path.parts, path
        met |= {path.name} if said else set()
    assert {"c.0.0.0", "c.1.0.0"} <= met


def test_features_in_anothers_place_are_computed_again(task: Task, tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "features"
    whole = KeptFeatures(folder, 2).features(Counting(), task)
    first, second, _ = sorted(folder.glob("*/latents/features/c.*"))
    assert first.stat().st_size == second.stat().st_size
    shutil.copyfile(second, first)
    encoder = Counting()
    assert np.array_equal(KeptFeatures(folder, 2).features(encoder, task), whole)
    assert encoder.asked == 8  # the shard that is not the one its record names counts as not computed


def _stopped_after(frames: int, task: Task, folder: Path) -> None:
    """Compute features, four frames at a time, until Ctrl-C arrives with `frames` done."""

    class Stopping(Counting):
        def features(self, batch: Batch) -> NDArray[np.float32]:
            found = super().features(batch)
            if self.asked == frames:
                signal.raise_signal(signal.SIGINT)
            return found

    with graceful_interrupts(), pytest.raises(Interrupted):
        KeptFeatures(folder, 4).features(Stopping(), task)


def test_a_stopped_call_goes_on_where_it_was(task: Task, tmp_path: Path, said: list[str]) -> None:
    _stopped_after(20, task, tmp_path / "features")
    encoder = Counting()
    resumed = KeptFeatures(tmp_path / "features", 4).features(encoder, task)
    assert encoder.asked == 24 - 16  # one shard of four batches was finished
    assert np.array_equal(resumed, KeptFeatures(tmp_path / "features", 4).features(Counting("b"), task))


def test_what_a_killed_call_left_damaged_is_begun_anew(task: Task, tmp_path: Path, said: list[str]) -> None:
    _stopped_after(20, task, tmp_path / "features")
    assert any("commits" in path.parts for path in files_of(tmp_path / "features"))
    (segment,) = tmp_path.glob("features/*/segments/000001/segment.json")
    segment.write_bytes(b"{")
    said.clear()
    encoder = Counting()
    assert len(KeptFeatures(tmp_path / "features", 4).features(encoder, task)) == encoder.asked == 24
    assert "computing them again" in said[0]


def _die_at_row(number: int, store: str, folder: Path) -> None:
    class Dying(Counting):
        def features(self, batch: Batch) -> NDArray[np.float32]:
            if self.asked == number - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().features(batch)

    (task,) = find_tasks(open_store(store), EvaluateSettings()).tasks
    KeptFeatures(folder, 1).features(Dying(), task)


def test_sigkill_at_any_time_costs_the_shard_in_hand_and_nothing_else(task: Task, tmp_path: Path) -> None:
    folder = tmp_path / "features"
    for number in (6, 10):  # of four rows a shard: in the second, then in the fourth
        assert forked.run(_die_at_row, number, task.store.location, folder) == -signal.SIGKILL
    kept = len(list(folder.glob("*/commits/latents/features/*.json")))
    assert kept == 3
    encoder = Counting()
    resumed = KeptFeatures(folder, 1).features(encoder, task)
    assert encoder.asked == 24 - 4 * kept
    assert np.array_equal(resumed, KeptFeatures(tmp_path / "undisturbed", 1).features(Counting(), task))
    assert [path.read_bytes() for path in sorted(folder.glob("*/latents/features/c.*"))] == [
        path.read_bytes() for path in sorted((tmp_path / "undisturbed").glob("*/latents/features/c.*"))
    ]


def test_a_feature_that_is_not_finite_is_refused_with_its_row(task: Task, tmp_path: Path) -> None:
    with pytest.raises(UsjepaError, match="row 0: counting gave a feature that is not finite"):
        KeptFeatures(tmp_path, 8).features(Counting(value=float("nan")), task)
    assert not list(tmp_path.glob("*/commits/latents/features/*"))


def test_the_teacher_is_read_from_its_stored_latents_as_the_mean_of_its_tokens(task: Task, tmp_path: Path) -> None:
    found = KeptFeatures(tmp_path / "features", 8).features(_stored_teacher(task.store, "toy"), task)
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
