"""Claims about segmentation: masks lie where their frames do, heads learn what tokens say, Dice is Dice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.evaluations import FAST, call, export_run
from tests.support.files.published import write_busbra, write_image, write_mask, write_ultrabench
from tests.support.labelled import patients, write_labelled
from tests.support.recipes import small_recipe
from usjepa.cache.errors import SourceError, UsageError
from usjepa.cache.recipes.evaluate import EvaluateSettings
from usjepa.evaluate.checking.hygiene import classes_of_masks
from usjepa.evaluate.encoders.baselines import Pixels
from usjepa.evaluate.encoders.features import KeptFeatures
from usjepa.evaluate.encoders.tokens import TokenSource
from usjepa.evaluate.probes.fitting import Fitting
from usjepa.evaluate.probes.segmentation import Head, Patches, class_shares, frame_dice, train_head
from usjepa.evaluate.scores.bootstrap import Draws
from usjepa.evaluate.scoring.segmentation import (
    SegmentationScores,
    _by_group,
    _interval,
    _thinned,
    floor_of,
    score_segmentation,
)
from usjepa.evaluate.tasks.segmentation import Segmentation, open_segmentations

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from usjepa.cache.identity import Json
    from usjepa.cache.reading.batch import Batch

SMALL = small_recipe(
    evaluate=EvaluateSettings(seeds=2, epochs=60, encode_batch_size=8, batch_size=4, lr=0.05),
)


def write_camus(folder: Path, count: int = 24) -> None:
    splits = {"train": range(12), "validation": range(12, 16), "test": range(16, count)}
    write_ultrabench(folder, [0] * count, splits, {"patient": [i // 2 for i in range(count)]}, {"mask": (1, 2, 3)})


def opened(place: object, out: Path) -> Segmentation:
    (task,) = open_segmentations([str(place)], out, SMALL)
    return task


@pytest.mark.parametrize("old", [pytest.param(True, id="three files"), pytest.param(False, id="two files")])
@pytest.mark.parametrize(
    ("name", "key", "values", "classes"),
    [
        ("aul_liver", "liver_mask", (1,), ("liver",)),
        ("aul_mass", "mass_mask", (1,), ("mass",)),
        ("camus", "mask", (1, 2, 3), ("left ventricle", "myocardium", "left atrium")),
        ("mmotu", "tumor_mask_binary", (255,), ("tumour",)),
        ("open_kidney", "capsule_mask", (1,), ("capsule",)),
        ("psfhs", "psfh_mask", (1, 2), ("pubic symphysis", "fetal head")),
        ("stanford_thyroid", "tumor_mask", (1,), ("nodule",)),
    ],
)
def test_every_task_of_the_benchmark_has_its_mask_and_classes(
    tmp_path: Path, name: str, key: str, values: tuple[int, ...], classes: tuple[str, ...], old: bool
) -> None:
    splits: dict[str, Sequence[int]] = {"train": range(7), "validation": [7]} if old else {"train_val": range(8)}
    splits["test"] = range(8, 12)
    masks = {key: values} | ({"regions_mask": (1, 2, 3)} if name == "open_kidney" else {})
    write_ultrabench(tmp_path / f"{name}_v1.0.1", [None] * 12, splits, {"patient": list(range(12))}, masks)
    task = opened(tmp_path / f"{name}_v1.0.1", tmp_path / "out")
    assert (task.name, task.classes) == (f"{name}: {key}", ("background", *classes))
    assert task.values == (0, *values)
    assert [len(task.positions(part)) for part in ("train", "validation", "test")] == [7, 1, 4]


def test_busbra_masks_of_0_and_255_are_binary(tmp_path: Path) -> None:
    write_busbra(tmp_path / "BUSBRA", [(i, "benign") for i in range(8)])
    task = opened(tmp_path / "BUSBRA", tmp_path / "out")
    assert (task.values, task.classes) == ((0, 255), ("background", "tumour"))
    assert set(np.unique(task.read_masks(np.arange(4)))) == {0, 1}


def test_masks_are_stretched_like_their_frames_and_stay_theirs(tmp_path: Path) -> None:
    write_camus(tmp_path / "camus_v1")
    task = opened(tmp_path / "camus_v1", tmp_path / "out")
    masks = task.read_masks(np.arange(len(task.rows)))
    assert masks.shape == (24, 32, 32)
    sources = task.store.table.sources
    for position in (0, 7, 23):
        row = int(np.searchsorted(task.store.rows, task.rows[position]))
        path = sources[int(task.store.table.source[row])].path
        assert task.masks[position].name == path.split("/")[-1]
        with Image.open(task.masks[position]) as image:
            whole = np.asarray(image)
        share, stored = (np.array([(m == value).mean() for value in range(4)]) for m in (whole, masks[position]))
        assert np.allclose(share, stored, atol=0.03)


def test_masks_lie_where_their_frames_do_to_a_fraction_of_a_stored_pixel(tmp_path: Path) -> None:
    write_camus(tmp_path / "camus_v1")
    rows, columns = np.mgrid[:448, :448]
    disc = ((rows - 200) ** 2 + (columns - 250) ** 2 < 120**2).astype(np.uint8)
    Image.fromarray(disc).save(tmp_path / "camus_v1" / "masks" / "mask" / "0.png")
    task = opened(tmp_path / "camus_v1", tmp_path / "out")
    assert task.masks[0].name == "0.png"
    (stored,) = task.read_masks(np.arange(1))
    scale = 448 / 32
    centre = [(float(where.mean()) + 0.5) * scale for where in np.nonzero(stored)]
    assert abs(centre[0] - 200.5) < 0.2 * scale
    assert abs(centre[1] - 250.5) < 0.2 * scale
    shares = disc.reshape(32, 14, 32, 14).mean(axis=(1, 3))
    assert frame_dice((shares >= 0.5).astype(np.uint8)[None], stored[None], 2)[0, 0] > 0.98


def test_the_floor_is_one_mask_for_all_and_knows_the_training_masks_alone(tmp_path: Path) -> None:
    write_camus(tmp_path / "camus_v1")
    task = opened(tmp_path / "camus_v1", tmp_path / "out")
    found, train = floor_of(task), task.read_masks(task.positions("train"))
    assert found.training_frames == 12
    guess = np.array([[np.bincount(train[:, y, x], minlength=4).argmax() for x in range(32)] for y in range(32)])
    truth = task.read_masks(task.positions("test"))
    dice = frame_dice(truth, np.broadcast_to(guess.astype(np.uint8), truth.shape), 4)
    means = [float(np.nanmean(column)) for column in dice.T]
    assert found.mean == pytest.approx(np.mean(means))
    assert list(found.classes.values()) == pytest.approx(means)
    assert found.interval is not None
    assert found.interval[0] <= found.mean <= found.interval[1]


def test_frames_without_a_mask_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "aul_liver_v1"
    write_ultrabench(folder, [0] * 12, {"train_val": range(8), "test": range(8, 12)}, masks={"liver_mask": (1,)})
    items = json.loads((folder / "test.json").read_text())
    items[0]["liver_mask"] = None
    (folder / "test.json").write_text(json.dumps(items))
    task = opened(folder, tmp_path / "out")
    assert len(task.positions("test")) == 3
    assert "1 frames have no mask and are left out." in task.notes


def test_what_has_no_masks_or_none_that_are_classes_is_refused(tmp_path: Path) -> None:
    write_ultrabench(tmp_path / "gbcu_v1", [0] * 6, {"train_val": range(4), "test": range(4, 6)})
    with pytest.raises(UsageError, match="no task with masks there"):
        opened(tmp_path / "gbcu_v1", tmp_path / "out")
    write_camus(tmp_path / "camus_v1")
    noise = np.random.default_rng(0).integers(0, 255, (48, 48)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "camus_v1" / "masks" / "mask" / "3.png")
    with pytest.raises(SourceError, match="different values, where classes 0, 1"):
        opened(tmp_path / "camus_v1", tmp_path / "out")
    (tmp_path / "camus_v1" / "masks" / "mask" / "3.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"3\.png: can't be read as a mask"):
        opened(tmp_path / "camus_v1", tmp_path / "out")


def test_dice_is_twice_the_overlap_over_both_areas() -> None:
    truth, said = np.zeros((4, 2, 4), np.uint8), np.zeros((4, 2, 4), np.uint8)
    truth[0, 0], said[0, :, :2] = 1, 1  # 4 and 4 pixels, 2 in common
    truth[1, 0, 0] = 1  # only there
    said[2, 0, 0] = 1  # only said
    assert np.array_equal(frame_dice(truth, said, 2)[:, 0], [0.5, 0.0, 0.0, np.nan], equal_nan=True)


def test_shares_of_patches_are_those_of_their_pixels() -> None:
    mask = np.zeros((1, 4, 4), np.uint8)
    mask[0, :2, :2] = 2
    mask[0, 2, 0] = 1
    shares = class_shares(mask, (2, 2), 3)
    assert shares[0, 0, 0].tolist() == [0, 0, 1]
    assert shares[0, 1, 0].tolist() == [0.75, 0.25, 0]


def test_the_loss_on_shares_is_that_of_all_pixels() -> None:
    from usjepa.evaluate.probes.segmentation import _loss

    rng = np.random.default_rng(0)
    masks = rng.integers(0, 3, (2, 8, 8)).astype(np.uint8)
    logits = torch.from_numpy(rng.standard_normal((2, 2, 2, 3)).astype(np.float32))
    by_pixel = logits.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    plain = torch.nn.functional.cross_entropy(by_pixel.permute(0, 3, 1, 2), torch.from_numpy(masks).long())
    shares = torch.from_numpy(class_shares(masks, (2, 2), 3)).flatten(1, 2)
    assert torch.allclose(_loss(logits.flatten(1, 2), shares), plain, atol=1e-6)


def test_a_head_learns_what_the_tokens_say() -> None:
    rng = np.random.default_rng(0)
    masks = np.kron(rng.integers(0, 3, (24, 4, 4)), np.ones((8, 8))).astype(np.uint8)
    shares = class_shares(masks, (4, 4), 3)
    tokens = (shares @ rng.standard_normal((3, 10)) + 0.05 * rng.standard_normal((24, 4, 4, 10))).astype(np.float32)
    settings = EvaluateSettings(lr=0.05, batch_size=4, epochs=30)
    train, held = (Patches(tokens[some], shares[some]) for some in (slice(12), slice(12, 16)))
    head = train_head(train, held, Fitting(settings, 0))
    small = head.predict(tokens[16:], 4)
    assert np.array_equal(small, masks[16:, ::8, ::8])
    again = train_head(train, held, Fitting(settings, 0))
    assert torch.equal(head.weight, again.weight)
    noise = rng.standard_normal(tokens.shape).astype(np.float32)
    stopped = train_head(Patches(noise[:12], shares[:12]), Patches(noise[12:16], shares[12:16]), Fitting(settings, 0))
    assert stopped.epochs < 30


def test_a_head_enlarges_logits_not_classes() -> None:
    tokens = np.array([[[[-1.0], [1.0]], [[-1.0], [1.0]]]], np.float32)
    head = Head(torch.tensor([[0.0, 1.0]]), torch.tensor([0.0, -0.4]), 1)
    # Class 1 where the enlarged token exceeds 0.4: bilinear between patch centres 2 and 6 of 8 pixels.
    assert head.predict(tokens, 8)[0, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


@dataclass
class MaskTokens:
    """An encoder whose tokens are the very masks: what a perfect one would give."""

    task: Segmentation
    name: str = "masks"
    pooling: str = "none"
    given: str = "masks"
    layers: tuple[str, ...] = ("pixels",)
    identity: dict[str, Json] = field(default_factory=lambda: {"kind": "masks"})
    asked: int = 0

    def features(self, batch: Batch) -> NDArray[np.float32]:
        return self.tokens(batch).mean(axis=(1, 2))

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        self.asked += len(batch.rows)
        positions = np.searchsorted(self.task.rows, batch.rows)
        return class_shares(self.task.read_masks(positions), (16, 16), len(self.task.classes))


def test_tokens_that_know_the_masks_score_high_and_pixels_of_noise_low(tmp_path: Path) -> None:
    write_camus(tmp_path / "camus_v1")
    task = opened(tmp_path / "camus_v1", tmp_path / "out")
    encoder, kept = MaskTokens(task), KeptFeatures(tmp_path / "f", 8)
    found = score_segmentation("masks", task, TokenSource(encoder, kept), SMALL.evaluate)
    assert found.dice.mean > 0.85
    assert found.dice.interval is not None
    assert found.dice.interval[0] <= found.dice.mean <= found.dice.interval[1]
    assert set(found.classes) == {"left ventricle", "myocardium", "left atrium"}
    assert encoder.asked == 24
    again = score_segmentation("masks", task, TokenSource(encoder, kept), SMALL.evaluate)
    assert encoder.asked == 24 + 1  # kept tokens are used; one frame says how they lie
    assert again == found
    assert score_segmentation("pixels", task, TokenSource(Pixels(), kept), SMALL.evaluate).dice.mean < 0.85


def test_without_validation_frames_every_epoch_of_a_head_is_run(tmp_path: Path) -> None:
    write_camus(tmp_path / "camus_v1")
    task = opened(tmp_path / "camus_v1", tmp_path / "out")
    task.splits[task.positions("validation")] = "train"
    settings = SMALL.evaluate.model_copy(update={"epochs": 3, "patience": 1})
    found = score_segmentation("masks", task, TokenSource(MaskTokens(task), KeptFeatures(tmp_path, 8)), settings)
    assert found.epochs == (3, 3)


def test_the_interval_draws_groups_not_frames() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10), 20)
    level = rng.random(10)[groups]
    held = np.ones((200, 1), dtype=bool)
    by_group = _interval(level[None, :, None], held, groups)
    by_frame = _interval(level[None, :, None], held, np.arange(200))
    assert by_group is not None
    assert by_frame is not None
    assert by_group[1] - by_group[0] > 3 * (by_frame[1] - by_frame[0])


def test_a_class_that_no_test_mask_holds_counts_in_no_mean_and_what_a_split_lacks_is_told(tmp_path: Path) -> None:
    write_camus(tmp_path / "camus_v1")
    for i in range(24):
        path = tmp_path / "camus_v1" / "masks" / "mask" / f"{i}.png"
        mask = np.array(Image.open(path))
        mask[mask == (3 if i >= 16 else 1)] = 0  # 3 is in no test mask, 1 in test masks alone
        Image.fromarray(mask).save(path)
    task = opened(tmp_path / "camus_v1", tmp_path / "out")
    assert task.tested.tolist() == [1, 2]
    found = score_segmentation("m", task, TokenSource(MaskTokens(task), KeptFeatures(tmp_path, 8)), SMALL.evaluate)
    for scores, means in ((found, [one.mean for one in found.classes.values()]), (floor_of(task), None)):
        assert list(scores.classes) == ["left ventricle", "myocardium"]
        means = means or list(scores.classes.values())  # type: ignore[arg-type]
        mean = scores.dice.mean if isinstance(scores, SegmentationScores) else scores.mean
        assert mean == pytest.approx(np.mean(means))
    assert len(found.by_group) == 2
    assert found.drawn(Draws(np.arange(4), 200)).mean() == pytest.approx(found.dice.mean, abs=0.02)
    assert classes_of_masks(task) == [
        "No example of left ventricle in train.",
        "No example of left ventricle in validation.",
        "No example of left atrium in test. No mean Dice counts it.",
    ]


def test_a_draw_without_a_class_leaves_it_out_of_its_mean() -> None:
    dice = np.array([[[0.8, 0.8], [0.8, np.nan], [0.8, np.nan], [0.8, 0.0]]])  # the last one is only predicted
    held = np.array([[True, True], [True, False], [True, False], [True, False]])
    sums = _by_group(dice, held, np.arange(4))
    found = SegmentationScores.model_construct(by_group=sums).drawn(Draws(np.arange(4), 400))
    assert found.max() == pytest.approx(0.8)
    assert found.min() >= 0.5
    assert np.isclose(found, 0.8).mean() > 0.4
    assert _interval(dice[:, :3], held[:3], np.arange(3)) == pytest.approx((0.8, 0.8))


def test_test_masks_that_are_all_background_are_refused(tmp_path: Path) -> None:
    write_camus(tmp_path / "camus_v1")
    for i in range(16, 24):
        path = tmp_path / "camus_v1" / "masks" / "mask" / f"{i}.png"
        Image.fromarray(np.zeros_like(Image.open(path))).save(path)
    with pytest.raises(UsageError, match="camus: every mask of test is all background"):
        opened(tmp_path / "camus_v1", tmp_path / "out")


def test_thinning_takes_frames_evenly_over_the_split() -> None:
    assert _thinned(np.arange(10), 20).tolist() == list(range(10))
    assert _thinned(np.arange(10), 5).tolist() == [0, 2, 4, 6, 8]


def test_one_test_patient_has_no_interval_anywhere_and_no_validation_is_told(tmp_path: Path) -> None:
    write_labelled(tmp_path / "store.zarr", patients(2, ["cyst", "none"]), size=32)
    export_run(tmp_path / "run", tmp_path / "store.zarr")
    lines = ["path,group,split,mask"]
    for i in range(12):
        write_image(tmp_path / "set" / f"a{i}.png", i)
        write_mask(tmp_path / "set" / "outlines" / f"m{i}.png", (1,), i)
        lines.append(f"a{i}.png,p{i // 6},,outlines/m{i}.png")
    (tmp_path / "set" / "manifest.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    few = ("--set", "evaluate.baselines=[pixels]")
    result = call(tmp_path / "run", "--segment", tmp_path / "set" / "manifest.csv", "-o", out, *FAST, *few)
    assert result.exit_code == 0, result.output
    scores = json.loads((out / "scores.json").read_text())
    (task,) = scores["segmentation"]["tasks"]
    ends = [
        (one["low"], one["high"]) for one in (task["floor"], *[s["dice"] for s in scores["segmentation"]["scores"]])
    ]
    assert ends == [(None, None)] * 3
    assert "No frame is left for validation. Every head runs all its epochs." in task["notes"]
    assert [note for note in task["notes"] if "test split has 1 group" in note and "there are none" in note]
    page = (out / "index.html").read_text()
    assert "Few patients: the test split has 1 group" in page
    assert "None" not in page.split("Segmentation: ")[1].split("How Dice")[0]
    assert not [line for line in (out / "scores.csv").read_text().splitlines() if ",low," in line or ",high," in line]


def test_segmentation_stands_in_report_and_scores(tmp_path: Path) -> None:
    write_labelled(tmp_path / "store.zarr", patients(16, ["cyst", "none"]), size=32)
    export_run(tmp_path / "run", tmp_path / "store.zarr")
    write_camus(tmp_path / "camus_v1")
    images = tmp_path / "camus_v1" / "images"
    (images / "23.png").write_bytes((images / "2.png").read_bytes())
    given = (tmp_path / "run", "--task", tmp_path / "store.zarr")
    rest = ("--segment", tmp_path / "camus_v1", "-o", tmp_path / "out", *FAST)
    result = call(*given, *rest, "--set", "evaluate.baselines=[pixels,hog]")
    assert result.exit_code == 0, result.output
    assert "Dice, %: camus: mask: Raw pixels:" in result.stdout
    assert "Dice, %: camus: mask: Mean mask, no image seen:" in result.stdout
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [s["encoder"] for s in scores["segmentation"]["scores"]] == ["student", "pixels"]
    (told,) = scores["segmentation"]["tasks"]
    leak = "Leak: 1 of 8 test frames also lie in training or validation"
    assert told["leakage"]["exact"] == 1
    assert any(note.startswith(leak) for note in told["notes"])
    assert leak in (tmp_path / "out" / "index.html").read_text()
    assert "camus: mask" in scores["encoders"]["student"]["identities"]
    lines = [line.split(",") for line in (tmp_path / "out" / "scores.csv").read_text().splitlines()]
    mean = [line for line in lines if line[:4] == ["camus: mask", "student", "segmentation", "dice"] and not line[7]]
    assert [line[8] for line in mean] == ["mean", "sd", "low", "high", "seed", "seed"]
    assert float(mean[0][10]) == scores["segmentation"]["scores"][0]["dice"]["mean"]
    floor = [line for line in lines if line[:2] == ["camus: mask", "mean mask"]]
    assert [line[8] for line in floor] == ["mean", "low", "high", "mean", "mean", "mean"]
    assert float(floor[0][10]) == told["floor"]["mean"]
    assert "Mean mask" in (tmp_path / "out" / "index.html").read_text()
    notes = " ".join(told["notes"])
    assert "Few validation patients: 2 groups. When a head stops is chosen on them, by chance." in notes
    assert "Few patients: the test split has 4 groups" in notes
    assert "tab:usjepa-segmentation" in (tmp_path / "out" / "table.tex").read_text()
    assert any("Edges (HOG) is left out: it gives no patch tokens" in note for note in scores["notes"])
    assert "Segmentation: camus: mask" in (tmp_path / "out" / "index.html").read_text()
    assert "Dice, points" in (tmp_path / "out" / "index.html").read_text()
    (tested,) = [one for one in scores["differences"] if one["measure"] == "dice"]
    first, second = (one["dice"]["mean"] for one in scores["segmentation"]["scores"])
    assert (tested["task"], tested["difference"]) == ("camus: mask", first - second)
    assert tested["interval"][0] <= tested["difference"] <= tested["interval"][1]
    assert "nothing is done again" in call(*given, *rest, "--set", "evaluate.baselines=[pixels,hog]").stderr
    assert call(*given, "--segment", tmp_path / "store.zarr", "-o", tmp_path / "out").exit_code == 2
