"""Claims about few-shot draws and corrupted frames: strengths grow, noise is fixed, only the scan is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from tests.support.labelled import patients, write_labelled
from tests.support.scoring import probe_input, scored
from usjepa.cache.recipes.evaluate import Corruption, EvaluateSettings
from usjepa.evaluate.encoders.baselines import Pixels
from usjepa.evaluate.encoders.features import KeptFeatures, feature_identity
from usjepa.evaluate.probes.linear import LinearProbe
from usjepa.evaluate.scores.bootstrap import Draws
from usjepa.evaluate.scoring.corruptions import MEANING, STRENGTHS, corrupt
from usjepa.evaluate.scoring.few_shot import few_shot
from usjepa.evaluate.scoring.robustness import Corrupted, Robustness, robustness, seen_corrupted
from usjepa.evaluate.tasks.find import find_tasks
from usjepa.evaluate.tasks.splits import stratified_draw

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from usjepa.evaluate.encoders.base import Encoder
    from usjepa.evaluate.tasks.task import Task

NAMES: tuple[Any, ...] = get_args(Corruption)
SETTINGS = EvaluateSettings(seeds=3, epochs=30, lr=1e-2, corruptions=("contrast", "blur"), few_shot=(0.5, 0.1))


def frame(size: int = 64, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a frame of smooth echo with an edge in it, black outside a round region."""
    y, x = np.mgrid[:size, :size]
    region = (x - size / 2) ** 2 + (y - size / 2) ** 2 < (0.45 * size) ** 2
    echo = 90 + 50 * np.sin(x / 5) * np.cos(y / 7) + 60 * (x > size / 2)
    return np.repeat(np.where(region, echo, 0)[None], channels, axis=0).astype(np.uint8), region


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_strength_changes_a_frame_more_than_the_one_before(name: Any, channels: int) -> None:
    clean, region = frame(channels=channels)
    before = clean.copy()
    made = [corrupt(clean, region, name, strength, row=5) for strength in STRENGTHS]
    assert np.array_equal(clean, before)
    assert all(one.shape == clean.shape and one.dtype == np.uint8 for one in made)
    distance = [float(np.abs(one.astype(int) - clean)[:, region].mean()) for one in made]
    assert 0 < distance[0] < distance[1] < distance[2]
    assert name in MEANING


@pytest.mark.parametrize("name", NAMES)
def test_a_corruption_is_a_pure_function_of_frame_strength_and_row(name: Any) -> None:
    clean, region = frame()
    one, again, other = (corrupt(clean, region, name, 2, row) for row in (7, 7, 8))
    assert np.array_equal(one, again)
    assert np.array_equal(one, other) == (name not in ("speckle", "shadow"))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("blur", "jpeg")])
def test_pixels_outside_the_scan_stay_as_they_are(name: Any) -> None:
    clean, region = frame()
    assert np.array_equal(corrupt(clean, region, name, 3, 0)[:, ~region], clean[:, ~region])
    nothing = np.zeros_like(region)
    assert np.array_equal(corrupt(clean, nothing, name, 3, 0), clean)


def test_contrast_goes_toward_the_regions_median_by_the_papers_alpha() -> None:
    clean, region = frame()
    made = corrupt(clean, region, "contrast", 3, 0)[0, region].astype(float)
    middle = np.median(clean[0, region])
    assert np.abs(made - (middle + 0.3 * (clean[0, region] - middle))).max() <= 0.5


def test_blur_is_the_papers_gaussian() -> None:
    from scipy.ndimage import gaussian_filter1d

    clean, region = frame()
    plain = clean[0].astype(float)
    for axis in (0, 1):  # kernel 2 floor(2 eps) + 1: cut at two standard deviations
        plain = gaussian_filter1d(plain, 2.0, axis=axis, radius=4, mode="mirror")
    assert np.abs(corrupt(clean, region, "blur", 2, 0)[0] - plain).max() <= 1.5


def test_speckle_has_the_papers_deviation_at_every_strength() -> None:
    flat, region = np.full((1, 128, 128), 60, np.uint8), np.ones((128, 128), bool)
    for strength in (1, 2):  # at 3 a third of the samples is cut at black
        ratio = corrupt(flat, region, "speckle", strength, 0) / 60 - 1
        clipped = np.clip(np.random.default_rng(0).normal(0, 0.35 * strength, 100_000), -1, 255 / 60 - 1)
        assert ratio.std() == pytest.approx(clipped.std(), rel=0.05)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    root = tmp_path_factory.mktemp("robust") / "store.zarr"
    return find_tasks(write_labelled(root, patients(24, ["cyst", "none", "stone"])), SETTINGS).tasks[0]


def test_features_of_corrupted_frames_are_kept_and_found_again(task: Task, tmp_path: Path) -> None:
    tested, asked = task.only(task.positions("test")), []

    class Counting(Pixels):
        def features(self, batch: Any) -> Any:
            asked.append(len(batch.rows))
            return super().features(batch)

    encoder = Corrupted(Counting(), "shadow")
    first = KeptFeatures(tmp_path, 8).features(encoder, tested)
    assert sum(asked) == 3 * len(tested.rows)
    again = KeptFeatures(tmp_path, 8).features(encoder, tested)
    assert sum(asked) == 3 * len(tested.rows)
    assert np.array_equal(first, again)
    # Three strengths side by side, each what the encoder gives of that frame alone.
    batch = tested.store.read(tested.rows[4:5], layers=("pixels", "regions"))
    seen = corrupt(batch.pixels[0], np.ones((32, 32), bool), "shadow", 2, int(tested.rows[4]))
    alone = Pixels().features(type(batch)(batch.rows, {"pixels": seen[None]}, None))
    assert np.array_equal(np.split(first[4], 3)[1], alone[0])


def test_no_two_corruptions_share_their_features(task: Task) -> None:
    kinds: list[Encoder] = [Pixels(), *[Corrupted(Pixels(), name) for name in NAMES]]
    told = [str(feature_identity(encoder, task)) for encoder in kinds]
    assert len(set(told)) == len(told)


def corrupted(
    task: Task, folder: Path, settings: EvaluateSettings, seen: Callable[[np.ndarray], np.ndarray]
) -> Robustness:
    """Return the scores of clean-trained probes on what `seen` makes of the clean features of the test frames."""
    given = probe_input(task, KeptFeatures(folder, 16).features(Pixels(), task), settings, folder)
    chosen = seen_corrupted(task, settings)
    clean = KeptFeatures(folder, 16).features(Pixels(), task.only(task.positions("test")[chosen]))
    found = robustness(LinearProbe().score(given), given, chosen, lambda _: seen(clean))
    assert found is not None
    return found


def test_clean_probes_meet_corrupted_frames_and_undone_corruption_changes_nothing(task: Task, tmp_path: Path) -> None:
    features = KeptFeatures(tmp_path, 16).features(Pixels(), task)
    clean = scored(task, features, SETTINGS, tmp_path).record.macro_f1
    same = corrupted(task, tmp_path, SETTINGS, lambda clean: np.concatenate([clean] * 3, axis=1))
    assert same.clean == clean
    for strengths in same.corruptions.values():
        assert [at.strength for at in strengths] == list(STRENGTHS)
        assert all(at.macro_f1 == clean for at in strengths)
    rng = np.random.default_rng(0)
    noise = corrupted(
        task, tmp_path, SETTINGS, lambda c: rng.standard_normal((len(c), 3 * c.shape[1])).astype(np.float32)
    )
    assert noise.corruptions["blur"][2].macro_f1.mean < 0.6 < clean.mean


def test_fewer_frames_may_be_seen_corrupted_and_their_clean_score_stands_beside(task: Task, tmp_path: Path) -> None:
    fewer = SETTINGS.model_copy(update={"corrupted_frames": 6})
    chosen = seen_corrupted(task, fewer)
    assert np.bincount(task.labels[task.positions("test")][chosen]).tolist() == [2, 2, 2]
    found = corrupted(task, tmp_path, fewer, lambda clean: np.concatenate([clean] * 3, axis=1))
    assert found.frames == 6
    assert found.corruptions["blur"][0].macro_f1 == found.clean


def test_every_class_keeps_a_labelled_frame_and_small_draws_lie_within_large_ones() -> None:
    labels = np.array([0] * 300 + [1] * 40 + [2] * 3)
    for draw in range(4):
        small, large = stratified_draw(labels, 0.01, draw), stratified_draw(labels, 0.5, draw)
        assert np.bincount(labels[small]).tolist() == [3, 1, 1]
        assert np.bincount(labels[large]).tolist() == [150, 20, 2]
        assert set(small) <= set(large)
    assert not np.array_equal(stratified_draw(labels, 0.5, 0), stratified_draw(labels, 0.5, 1))


def test_few_shot_says_how_many_frames_and_patients_and_rises_with_labels(task: Task, tmp_path: Path) -> None:
    given = probe_input(task, KeptFeatures(tmp_path, 16).features(Pixels(), task), SETTINGS, tmp_path)
    shots = few_shot(given)
    assert [at.share for at in shots] == [0.1, 0.5]
    for at in shots:
        assert len(at.groups) == len(at.macro_f1.seeds) == SETTINGS.seeds
        assert 3 <= at.frames < len(given.train)
    assert shots[0].macro_f1.mean <= shots[1].macro_f1.mean + 0.02


def test_scores_bear_intervals_where_there_are_draws(task: Task, tmp_path: Path) -> None:
    features = KeptFeatures(tmp_path, 16).features(Pixels(), task)
    test = task.positions("test")
    probes = scored(task, features, SETTINGS, tmp_path, Draws(task.groups[test], 300)).record.probes
    for measure in ("macro_f1", "balanced_accuracy", "auroc"):
        for probe in ("probe", "logistic"):
            found = probes[probe].measures[measure]
            assert found.interval is not None
            assert found.interval[0] <= found.mean <= found.interval[1]
    one_group = Draws(np.zeros(len(test), np.int64), 300)
    for draws in (None, one_group):
        assert scored(task, features, SETTINGS, tmp_path, draws).record.macro_f1.interval is None


def test_a_seed_has_a_spread_and_what_has_none_does_not(task: Task, tmp_path: Path) -> None:
    probes = scored(task, KeptFeatures(tmp_path, 16).features(Pixels(), task), SETTINGS, tmp_path).record.probes
    assert len(probes["probe"].measures["macro_f1"].seeds) == SETTINGS.seeds
    for name in ("logistic", "knn"):
        measure = probes[name].measures["macro_f1"]
        assert (measure.sd, measure.seeds) == (None, ())
