"""Claims about few-shot draws and corrupted frames: strengths grow, noise is fixed, only the scan is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest

from tests.support.labelled import patients, write_labelled
from usjepa.cache.recipes.evaluate import Corruption, EvaluateSettings
from usjepa.evaluate.encoders.baselines import Pixels
from usjepa.evaluate.encoders.features import feature_identity, features_of
from usjepa.evaluate.scores.bootstrap import Draws
from usjepa.evaluate.scoring.corruptions import MEANING, STRENGTHS, corrupt
from usjepa.evaluate.scoring.few_shot import few_shot, subset
from usjepa.evaluate.scoring.linear import score_features
from usjepa.evaluate.scoring.robustness import Corrupted, only_tested, robustness, seen_corrupted
from usjepa.evaluate.tasks.find import find_tasks

if TYPE_CHECKING:
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
    tested, asked = only_tested(task, seen_corrupted(task, SETTINGS)), []

    class Counting(Pixels):
        def features(self, batch: Any) -> Any:
            asked.append(len(batch.rows))
            return super().features(batch)

    encoder = Corrupted(Counting(), "shadow")
    first = features_of(encoder, tested, tmp_path, 8)
    assert sum(asked) == 3 * len(tested.rows)
    again = features_of(encoder, tested, tmp_path, 8)
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


def test_clean_probes_meet_corrupted_frames_and_undone_corruption_changes_nothing(task: Task, tmp_path: Path) -> None:
    features = features_of(Pixels(), task, tmp_path, 16)
    scored = score_features(features, task, SETTINGS)
    clean = features_of(Pixels(), only_tested(task, seen_corrupted(task, SETTINGS)), tmp_path, 16)
    every = seen_corrupted(task, SETTINGS)
    same = robustness(scored.probe, scored.data, every, SETTINGS, lambda _: np.concatenate([clean] * 3, axis=1))
    assert same["clean"] == {k: scored.told["probe"]["macro_f1"][k] for k in ("mean", "sd", "seeds")}
    for strengths in same["corruptions"].values():
        assert [at["strength"] for at in strengths] == list(STRENGTHS)
        for at in strengths:
            assert at["macro_f1"] == scored.told["probe"]["macro_f1"]
    noise = np.random.default_rng(0).standard_normal((len(clean), 3 * clean.shape[1])).astype(np.float32)
    lost = robustness(scored.probe, scored.data, every, SETTINGS, lambda _: noise)["corruptions"]
    assert lost["blur"][2]["macro_f1"]["mean"] < 0.6 < scored.told["probe"]["macro_f1"]["mean"]


def test_fewer_frames_may_be_seen_corrupted_and_their_clean_score_stands_beside(task: Task, tmp_path: Path) -> None:
    fewer = SETTINGS.model_copy(update={"corrupted_frames": 6})
    chosen = seen_corrupted(task, fewer)
    test = task.positions("test")
    assert np.bincount(task.labels[test][chosen]).tolist() == [2, 2, 2]
    features = features_of(Pixels(), task, tmp_path, 16)
    scored = score_features(features, task, SETTINGS)
    clean = features[test][chosen]
    told = robustness(scored.probe, scored.data, chosen, fewer, lambda _: np.concatenate([clean] * 3, axis=1))
    assert told["frames"] == 6
    assert told["corruptions"]["blur"][0]["macro_f1"] == told["clean"]


def test_every_class_keeps_a_labelled_frame_and_small_draws_lie_within_large_ones() -> None:
    labels = np.array([0] * 300 + [1] * 40 + [2] * 3)
    for draw in range(4):
        small, large = subset(labels, 0.01, draw), subset(labels, 0.5, draw)
        assert np.bincount(labels[small]).tolist() == [3, 1, 1]
        assert np.bincount(labels[large]).tolist() == [150, 20, 2]
        assert set(small) <= set(large)
    assert not np.array_equal(subset(labels, 0.5, 0), subset(labels, 0.5, 1))


def test_few_shot_says_how_many_frames_and_patients_and_rises_with_labels(task: Task, tmp_path: Path) -> None:
    features = features_of(Pixels(), task, tmp_path, 16)
    scored = score_features(features, task, SETTINGS)
    told = few_shot(scored.data, task.groups[task.positions("train")], SETTINGS)
    assert [at["share"] for at in told] == [0.1, 0.5]
    for at in told:
        assert len(at["groups"]) == len(at["macro_f1"]["seeds"]) == SETTINGS.seeds
        assert 3 <= at["frames"] < len(scored.data.train_labels)
    assert told[0]["macro_f1"]["mean"] <= told[1]["macro_f1"]["mean"] + 0.02


def test_scores_bear_intervals_where_there_are_draws(task: Task, tmp_path: Path) -> None:
    features = features_of(Pixels(), task, tmp_path, 16)
    test = task.positions("test")
    told = score_features(features, task, SETTINGS, Draws(task.groups[test], 300)).told
    for measure in ("macro_f1", "balanced_accuracy", "auroc"):
        low, high = told["probe"][measure]["interval"]
        assert low <= told["probe"][measure]["mean"] <= high
        low, high = told["logistic"]["interval"][measure]
        assert low <= told["logistic"][measure] <= high
    assert "interval" not in score_features(features, task, SETTINGS).told["probe"]["macro_f1"]
    alone = score_features(features, task, SETTINGS, Draws(np.zeros(len(test), np.int64), 300)).told
    assert "interval" not in alone["probe"]["macro_f1"]
