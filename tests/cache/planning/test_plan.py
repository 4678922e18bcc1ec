"""A plan says what a build will take, from what it measured, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.builds import SMALL, small, tree
from tests.support.processes.commands import stop_python
from usjepa.cache.building.build import build
from usjepa.cache.building.disk_space import Room
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.coding.form import Form
from usjepa.cache.errors import SourceError, UsageError, WriteError
from usjepa.cache.planning import plan as planning
from usjepa.cache.planning import trial
from usjepa.cache.planning.estimate import Measured, _need_of_store, forecast, row_nbytes
from usjepa.cache.planning.report import describe
from usjepa.cache.planning.sample import Estimate, _blocks_of, _estimate_sum
from usjepa.cache.planning.target import TargetRates
from usjepa.cache.planning.trial import Trial, _steady_row
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.sources.base import Entry

if TYPE_CHECKING:
    from pathlib import Path

SETS = [part for item in SMALL for part in ("--set", item)]


def pictures(root: Path, count: int) -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        (root / f"set{i % 2}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"set{i % 2}" / f"{i:03d}.png"), rng.integers(0, 255, (40, 48), dtype=np.uint8))
    return root


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> tuple[planning.BuildPlan, Path]:
    target = tmp_path_factory.mktemp("target")
    return planning.plan(None, small(), "random", str(target / "s"), seconds=2), target


def test_a_plan_counts_the_rows_bytes_and_inodes_of_the_build(
    planned: tuple[planning.BuildPlan, Path], tmp_path: Path
) -> None:
    build(str(tmp_path / "s"), small(), BuildRequest(teacher="random"))
    wanted = planned[0].wanted
    files = list((tmp_path / "s").rglob("*"))
    taken = sum(p.lstat().st_blocks * 512 for p in files if p.is_file())
    assert wanted.rows == 20
    assert taken <= wanted.nbytes <= 1.25 * taken
    assert len(files) <= wanted.files <= len(files) + 10


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_plan_counts_the_layers_of_several_blocks(tmp_path: Path, precision: str) -> None:
    wanted = ("cache.teacher.depth=4", "cache.teacher.block=null", "cache.teacher.blocks=[4, 1, 2]")
    recipe = small(*wanted, f"cache.precision={precision}")
    build(str(tmp_path / "s"), recipe, BuildRequest(teacher="random"))
    (tmp_path / "target").mkdir()
    found = planning.plan(None, recipe, "random", str(tmp_path / "target"), seconds=2)
    files = list((tmp_path / "s").rglob("*"))
    taken = sum(p.lstat().st_blocks * 512 for p in files if p.is_file())
    assert found.measured.latents == ((4, 192),) * 3
    assert taken <= found.wanted.nbytes <= 1.25 * taken
    assert len(files) <= found.wanted.files <= len(files) + 15


def test_each_block_more_costs_its_latents_and_no_pixels() -> None:
    recipe = load_recipe("us-jepa").cache  # 224 pixels, rows of fp16
    one, three = (row_nbytes(recipe, Form("fp16"), ((196, 768),) * count) for count in (1, 3))
    assert three - one == 2 * 196 * 768 * 2
    for form, nbytes in ((Form("int8"), 768 + 4), (Form("int4"), 384 + 4), (Form("int4", 600), 300 + 4)):
        one, three = (row_nbytes(recipe, form, ((196, 768),) * count) for count in (1, 3))
        assert three - one == 2 * 196 * nbytes


def test_a_plan_leaves_the_target_as_it_was(planned: tuple[planning.BuildPlan, Path]) -> None:
    assert list(planned[1].iterdir()) == []


def test_a_plan_measures_every_stage(planned: tuple[planning.BuildPlan, Path]) -> None:
    measured = planned[0].measured
    trial = measured.trial
    assert min(trial.row, trial.decode, trial.teacher, trial.teacher_at_work, trial.write) > 0
    assert trial.row >= max(trial.teacher, trial.write) * 0.3
    assert measured.rates.write > 0
    assert measured.rates.read > 0
    assert measured.rates.written >= 2 * planned[0].wanted.nbytes / planned[0].wanted.rows


def test_a_plan_covers_every_precision_and_several_numbers_of_views(planned: tuple[planning.BuildPlan, Path]) -> None:
    by = {(one.precision, one.views): one for one in planned[0].others}
    assert set(by) == {(p, k) for p in ("fp32", "fp16", "int8", "int4") for k in (1, 2, 4, 8)}
    assert by["fp32", 2] == planned[0].wanted
    assert by["fp16", 2].nbytes < by["fp32", 2].nbytes
    assert by["fp16", 4].seconds > by["fp16", 2].seconds


def test_a_plan_of_int4_on_axes_says_what_they_keep_of_a_few_rows(tmp_path: Path) -> None:
    recipe = small("cache.precision=int4", "cache.axes=48")
    found = planning.plan("phantom", recipe, "random", str(tmp_path), seconds=1)
    (told,) = found.measured.trial.codings
    assert (told.layer, told.channels, told.axes, told.rows) == ("latents/demo", 192, 48, 20)
    assert 0.2 < told.kept < 1
    assert told.error >= (1 - told.kept) ** 0.5 * 0.99
    text = describe(found)
    assert f"latents/demo: 48 of 192 axes keep {100 * told.kept:.1f} % of the variance, relative error" in text
    assert "int4 on 48 axes" in text
    by = {(one.precision, one.axes): one for one in found.others if one.views == 2}
    assert len(by) == 8, "with and without axes"
    assert found.wanted == by["int4", 48]


def test_a_plan_fails_cleanly_when_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_text("no picture")
    with pytest.raises(SourceError, match=r"none of 1 sampled sources can be read, first: a\.png"):
        planning.plan(str(tmp_path / "in"), small(), None, str(tmp_path / "out"), seconds=1)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_plan_of_images_without_a_teacher_speaks_of_pixels_alone(tmp_path: Path) -> None:
    source = pictures(tmp_path / "in", 30)
    before = tree(source)
    command = ["plan", str(source), "--pipeline", "demo", *SETS, "--target", str(tmp_path), "--seconds", "1"]
    answered = CliRunner().invoke(main, [*command, "--json"])
    assert answered.exit_code == 0, answered.stderr
    found = json.loads(answered.stdout)
    assert found["wanted"]["rows"] == 60
    assert found["wanted"]["pays_from_epoch"] is None
    assert found["others"] == []
    assert tree(source) == before
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    told = CliRunner().invoke(main, command)
    assert "pixels and regions only" in told.stdout
    assert "30 frames, counted" in told.stdout


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    command = ["-m", "usjepa.cache.cli", "plan", "--pipeline", "demo", "--teacher", "random", "--target", tmp_path]
    stopped = stop_python(signal.SIGINT, lambda: list(tmp_path.glob(".usjepa-plan-*/rates")), *command, "--seconds", 60)
    assert "run the same command again" in stopped.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (None, ".", "needs a SOURCE"),
        ("phantom", "s3://bucket/s", "measures folders"),
        ("phantom", "file", "no folder"),
    ],
)
def test_what_can_not_be_planned_is_refused(tmp_path: Path, source: str | None, target: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    place = target if "://" in target else str(tmp_path / target)
    with pytest.raises(UsageError, match=message):
        planning.plan(source, small("cache.source=null"), None, place)


def test_a_nearly_full_target_is_not_filled_by_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "room_at", lambda _: Room(100 << 20, None))
    with pytest.raises(WriteError, match="104,857,600 bytes are free"):
        planning.plan("phantom", small(), None, str(tmp_path))
    assert os.listdir(tmp_path) == []


# -- arithmetic --------------------------------------------------------------------------------------------------------


def measured(**changes: Any) -> Measured:
    """Frames of 0.01 s decode and 0.1 s teacher, a target of 100 MB/s."""
    made = Measured(
        100, 100, Estimate(1000, 0), {"a": 800, "b": 200}, Estimate(10, 0), 5.0,
        Trial(0.11, 0.01, 0.1, 0.105, 0.001, 1.0, 500), TargetRates(1e8, 1e8, 1 << 30), ((196, 768),),
        Room(10**12, 10**6),
    )  # fmt: skip
    return replace(made, **changes)


def test_a_build_takes_loading_scan_filling_and_its_rows() -> None:
    found = forecast(measured(), small().cache, Form("fp16"), 2, 10**6)
    assert found.rows == 2000
    assert found.seconds == pytest.approx(5 + 10 + 1 + 2000 * 0.11)
    assert found.slowest == "teacher"


def test_the_rate_of_a_trial_is_that_of_shards_made_while_others_were_decoded() -> None:
    ends = [(5.0, 10), (6.0, 10), (7.0, 10), (8.0, 10), (8.3, 10)]
    assert _steady_row(ends, 1) == pytest.approx(0.1)
    assert _steady_row(ends[:-1], 0) == pytest.approx(0.1), "stopped by time: the next shard was under way"
    assert _steady_row(ends[-2:], 2) == pytest.approx(0.03), "two shards tell all there is to tell"


def test_a_slow_target_limits_a_build_that_outlasts_its_cache() -> None:
    slow = measured(rates=TargetRates(1e6, 1e8, 1 << 30))
    found = forecast(slow, small().cache, Form("fp16"), 2, 10**6)
    assert found.slowest == "write"
    assert found.seconds == pytest.approx(16 + found.nbytes / 1e6, rel=0.01)


def test_caching_pays_from_the_epoch_whose_teacher_calls_outweigh_build_and_reads() -> None:
    one = forecast(measured(), small().cache, Form("fp16"), 1, 10**6)
    read = 196 * 768 * 2 / 1e8
    assert one.pays_from_epoch is not None
    for epoch, pays in ((one.pays_from_epoch - 1, False), (one.pays_from_epoch, True)):
        assert (one.seconds + epoch * 1000 * read < epoch * 1000 * 0.1) == pays
    four = forecast(measured(), small().cache, Form("fp16"), 4, 10**6)
    assert four.pays_from_epoch is not None
    assert four.pays_from_epoch == 5 > one.pays_from_epoch == 2
    capped = forecast(measured(), small().cache, Form("fp16"), 1, 100)
    assert capped.pays_from_epoch is not None
    assert capped.pays_from_epoch == 7, "an epoch draws 200 of 1,000 frames"


def test_caching_never_pays_where_reading_is_slower_than_the_teacher() -> None:
    slow = measured(rates=TargetRates(1e8, 1e6, 1 << 30))
    assert forecast(slow, small().cache, Form("fp32"), 1, 10**6).pays_from_epoch is None


def test_a_store_that_does_not_fit_is_said() -> None:
    assert forecast(measured(), small().cache, Form("fp16"), 1, 10).fits
    assert not forecast(measured(room=Room(10**8, None)), small().cache, Form("fp16"), 1, 10).fits
    assert not forecast(measured(room=Room(10**12, 100)), small().cache, Form("fp16"), 1, 10).fits


def test_the_need_of_a_store_grows_with_rows_and_shards() -> None:
    settings = small().cache
    one, two = (_need_of_store(settings, Form("fp16"), [(4, 192)], rows) for rows in (8, 16))
    assert two.files - one.files == 6, "a shard and a record in each of three layers"
    assert _need_of_store(settings, Form("int8"), [(4, 192)], 8).files - one.files == 6, (
        "and a layer of scales with its files"
    )


def test_a_sum_over_everything_is_exact() -> None:
    assert _estimate_sum(np.array([1.0, 2.0, 4.0]), np.array([5.0, 6.0, 7.0])) == Estimate(7.0, 0.0)


def test_clips_are_estimated_by_their_bytes_and_images_by_their_number() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.lognormal(0, 1, 2000)
    clips = np.round(50 * sizes * rng.normal(1, 0.05, 2000))
    found = _estimate_sum(clips[:60], np.ones(2000), sizes)
    assert found.value == pytest.approx(clips.sum(), rel=0.05)
    assert _estimate_sum(np.ones(60), np.ones(2000), sizes) == Estimate(2000.0, 0.0)


def entries(*groups: str) -> list[Entry]:
    return [Entry(f"{i}.png", "d", group, "", "", "image") for i, group in enumerate(groups)]


def test_a_sample_is_drawn_in_whole_groups_of_neighbours() -> None:
    few = entries("a", "a", "a", "b", "c", "c")
    assert _blocks_of(few) == [range(3), range(3, 4), range(4, 6)]
    images = _blocks_of(entries(*map(str, range(5000))))
    assert {len(block) for block in images[:-1]} == {16}
    huge = _blocks_of(entries(*["a"] * 5000))
    assert max(map(len, huge)) == 64, "a group that would be the whole sample is cut"
    for blocks, count in ((images, 5000), (huge, 5000)):
        assert [i for block in blocks for i in block] == list(range(count))


def test_the_stated_error_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.gamma(2, 10, 500), np.ones(500)
    found = []
    for _ in range(400):
        order = rng.permutation(500)
        found.append(_estimate_sum(values[order[:50]], counts, np.zeros(500)))
    spread = np.std([one.value for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.15)
    assert np.mean([one.value for one in found]) == pytest.approx(values.sum(), rel=0.02)


def test_a_trial_without_time_makes_three_shards_and_one_when_they_take_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("usjepa.cache.planning.trial.time.perf_counter", lambda: now[0])
    watch = trial._Watch(10.0)
    for now[0] in (0.0, 11.0, 12.0):
        assert not watch.has_enough()
        watch.written(8)
    assert watch.has_enough()
    slow = trial._Watch(10.0)
    now[0] = 100.0
    assert not slow.has_enough()
    slow.written(8)
    assert slow.has_enough()
