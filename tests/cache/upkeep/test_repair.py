"""A damaged store is mended with the bytes it had, or says what can't be; good rows are never touched."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from tests.support.builds import SMALL, pictures, small, tree
from tests.support.files.damage import INJURIES, flip
from tests.support.processes import forked
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.errors import DamageError, IdentityError, NotSealedError
from usjepa.cache.reading.store import open_store
from usjepa.cache.scanning.growth import grow
from usjepa.cache.scanning.journal import ScanJournal
from usjepa.cache.scanning.scan import list_source
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.upkeep.repair import RepairReport, repair
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

LATENTS, PIXELS, REGIONS = "latents/demo/c.1.0.0", "pixels/c.1.0.0.0", "regions/c.1.0"


@pytest.fixture
def store(tmp_path: Path, small_store: Path) -> Path:
    shutil.copytree(small_store, tmp_path / "s")
    return tmp_path / "s"


def mend(store: Path, *more: str) -> RepairReport:
    return repair(str(store), small(*more), teacher="random")


def same_but_manifests(a: Path, b: Path) -> bool:
    def body(root: Path) -> dict[str, bytes]:
        return {name: data for name, data in tree(root).items() if not name.startswith("manifest")}

    return body(a) == body(b)


@pytest.mark.parametrize("shard", [LATENTS, PIXELS, REGIONS])
@pytest.mark.parametrize("injury", INJURIES)
def test_a_damaged_shard_is_mended_with_the_bytes_it_had(
    store: Path, small_store: Path, shard: str, injury: str
) -> None:
    INJURIES[injury](store / shard)
    assert verify(str(store)).damages
    report = mend(store)
    assert not report.left
    assert verify(str(store)).damages == []
    assert same_but_manifests(store, small_store)
    assert open_store(store).generation == 2


def test_only_damaged_rows_are_made_again_and_the_manifest_says_which(store: Path) -> None:
    flip(store / PIXELS, 700)
    mend(store)
    (record,) = open_store(store).manifest.repaired
    assert record == {"layer": "pixels", "shard": 1, "rows": [8], "exact": True}


def test_the_generation_of_before_still_reads_after_an_exact_repair(store: Path, small_store: Path) -> None:
    flip(store / LATENTS, 700)
    mend(store)
    old, new = open_store(store, generation=1), open_store(store)
    assert old.digest == open_store(small_store).digest != new.digest
    assert old.read(old.rows).latents.tobytes() == new.read(new.rows).latents.tobytes()


def test_a_store_damaged_everywhere_at_once_is_mended(store: Path, small_store: Path) -> None:
    for name in (LATENTS, PIXELS, REGIONS):
        (store / name).unlink()
    for name in ("manifest.json", "zarr.json", "pixels/zarr.json", "latents/zarr.json", "latents/demo/zarr.json"):
        (store / name).unlink()
    (store / "segments/000001/segment.json").write_bytes(b"{")
    (store / "segments/000001/rows.parquet").unlink()
    flip(store / "segments/000001/sources.parquet", 40)
    flip(store / "commits/pixels/000000.json", 3)
    (store / "commits/latents/demo/000002.json").unlink()
    report = mend(store)
    assert report.left == []
    assert verify(str(store)).damages == []
    assert same_but_manifests(store, small_store)


def test_a_whole_store_is_left_as_it_is(store: Path, small_store: Path) -> None:
    report = mend(store)
    assert (report.found, report.mended, report.left) == ([], [], [])
    assert tree(store) == tree(small_store)


@pytest.mark.parametrize("form", [("cache.precision=int8",), ("cache.precision=int4", "cache.axes=100")], ids=str)
def test_latents_are_mended_with_their_scales(tmp_path: Path, form: tuple[str, ...]) -> None:
    recipe = small(*form)
    build(str(tmp_path / "whole"), recipe, BuildRequest(teacher="random"))
    for injured in ("latents/demo/c.0.0.0", "scales/demo/c.2.0"):
        shutil.copytree(tmp_path / "whole", tmp_path / injured.replace("/", "-"))
        flip(tmp_path / injured.replace("/", "-") / injured, 5)
        repair(str(tmp_path / injured.replace("/", "-")), recipe, teacher="random")
        assert same_but_manifests(tmp_path / injured.replace("/", "-"), tmp_path / "whole")


def test_without_the_teacher_pixels_are_mended_and_latents_named_as_left(store: Path) -> None:
    flip(store / PIXELS, 700)
    flip(store / LATENTS, 700)
    report = repair(str(store), small())
    assert [line.split(":")[0] for line in report.mended] == ["pixels, shard 1"]
    (left,) = report.left
    assert "latents/demo, shard 1" in left
    assert "give --teacher" in left
    assert {damage.layer for damage in verify(str(store)).damages} == {"latents/demo"}


def test_another_teacher_or_recipe_is_refused_and_nothing_is_changed(store: Path) -> None:
    flip(store / LATENTS, 700)
    before = tree(store)
    with pytest.raises(IdentityError, match=r"teacher\.weights"):
        mend(store, "cache.teacher.seed=4")
    with pytest.raises(IdentityError, match=r"views\.count|seed"):
        mend(store, "cache.seed=4")
    assert tree(store) == before


def test_a_store_that_was_never_sealed_is_not_repaired_but_built(tmp_path: Path) -> None:
    build(str(tmp_path / "s"), small(), BuildRequest(part="1/2"))
    with pytest.raises(NotSealedError, match="Finish its build"):
        mend(tmp_path / "s")


def test_pixels_whose_source_is_gone_or_another_are_left_and_named(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png", "a/2.png"])
    root = str(tmp_path / "s")
    build(root, small(), BuildRequest(source=str(tmp_path / "in")))
    flip(tmp_path / "s/pixels/c.0.0.0.0", 100)
    image = (tmp_path / "in/a/1.png").read_bytes()
    cv2.imwrite(str(tmp_path / "in/a/1.png"), np.zeros((40, 48), np.uint8))
    report = repair(root, small(), source=str(tmp_path / "in"))
    assert "content changed" in report.left[0]
    (tmp_path / "in/a/1.png").write_bytes(image)
    assert repair(root, small(), source=str(tmp_path / "in")).left == []
    assert verify(root).damages == []


def test_latents_beside_a_hole_are_mended_with_the_bytes_they_had(tmp_path: Path) -> None:
    folder, root, recipe = tmp_path / "in", tmp_path / "s", small("cache.views.count=1")
    pictures(folder, [f"{i}.png" for i in range(6)])
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(recipe.cache.rows_per_shard)
    grow(writer, list_source(str(folder), recipe.cache), recipe.cache, ScanJournal(None), "stop")
    (folder / "2.png").write_bytes(b"torn since it was scanned")
    build(str(root), recipe, BuildRequest(source=str(folder), teacher="random", on_error="skip"))
    assert [row for row, _ in open_store(root).manifest.holes] == [2]
    before = tree(root)
    flip(root / "latents/demo/c.0.0.0", 700)
    report = repair(str(root), recipe, source=str(folder), teacher="random")
    assert (len(report.mended), report.left) == (1, [])
    assert tree(root)["latents/demo/c.0.0.0"] == before["latents/demo/c.0.0.0"]


def test_latents_of_other_library_versions_are_mended_within_tolerance_and_recorded(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usjepa.cache.teacher.vit import ViT

    flip(store / LATENTS, 700)
    real = ViT.__call__

    def slightly_other(self: ViT, pixels: object) -> object:
        return real(self, pixels) * 1.0005  # type: ignore[arg-type]

    monkeypatch.setattr(ViT, "__call__", slightly_other)
    same_versions = mend(store)
    assert "although library versions and device match" in same_versions.left[0]
    monkeypatch.setattr(ViT, "soft", {"torch": "9.9", "device": "cpu"})
    report = mend(store)
    assert report.left == []
    (record,) = open_store(store).manifest.repaired
    assert record["exact"] is False
    assert 0 < record["relative_error"] < 5e-3
    assert verify(str(store)).damages == []
    assert open_store(store).manifest.soft["latents/demo"][1][1]["torch"] == "9.9"


def test_latents_beyond_tolerance_are_left(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from usjepa.cache.teacher.vit import ViT

    flip(store / LATENTS, 700)
    real = ViT.__call__
    monkeypatch.setattr(ViT, "__call__", lambda self, pixels: real(self, pixels) * 1.1)
    monkeypatch.setattr(ViT, "soft", {"torch": "9.9"})
    (left,) = mend(store).left
    assert "tolerance" in left
    with pytest.raises(DamageError):
        open_store(store).read([8])


def _repair_and_die(root: str, step: int) -> None:
    forked.die_at_durable_step(step)
    repair(root, small(), teacher="random")


@pytest.mark.parametrize("step", [9, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 14, 19, 24))])
def test_a_repair_that_is_killed_is_run_again(store: Path, small_store: Path, step: int) -> None:
    for name in (LATENTS, PIXELS):
        flip(store / name, 700)
    assert forked.run(_repair_and_die, str(store), step) in (0, -9)
    mend(store)
    assert verify(str(store)).damages == []
    assert same_but_manifests(store, small_store)


def cli(*args: str) -> Result:
    from click.testing import CliRunner

    return CliRunner().invoke(main, args)


def test_the_command_says_what_it_mended_and_ends_with_0_or_3(store: Path) -> None:
    sets = [part for item in SMALL for part in ("--set", item)]
    flip(store / LATENTS, 700)
    flip(store / PIXELS, 700)
    found = cli("verify", str(store))
    assert found.exit_code == 3
    assert "--repair" in found.output
    assert cli("verify", str(store), "--repair").exit_code == 2
    assert cli("verify", str(store), "--repair", "--quick").exit_code == 2
    half = cli("verify", str(store), "--repair", "--pipeline", "demo", *sets)
    assert half.exit_code == 3
    assert "2 damages found, 1 mended, 1 left" in half.output
    rest = cli("verify", str(store), "--repair", "--pipeline", "demo", *sets, "--teacher", "random")
    assert rest.exit_code == 0, rest.output
    assert cli("verify", str(store)).exit_code == 0


def test_edited_sources_are_found_by_verify_sources_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    import os

    pictures(tmp_path / "in", ["a/1.png", "a/2.png"])
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in")))
    path = tmp_path / "in/a/2.png"
    sets = [part for item in SMALL for part in ("--set", item)]
    command = (
        "verify",
        str(tmp_path / "s"),
        "--sources",
        "--source",
        str(tmp_path / "in"),
        "--pipeline",
        "demo",
        *sets,
    )
    assert cli(*command).exit_code == 0
    before = path.stat()
    flip(path, -1)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = cli(*command)
    assert changed.exit_code == 3
    assert "a/2.png: its content is not what was built" in changed.output
    path.unlink()
    assert "a/2.png" in cli(*command).output


def test_the_manifest_keeps_its_history_through_later_seals(store: Path) -> None:
    flip(store / PIXELS, 700)
    mend(store)
    build(str(store), small("cache.teacher.name=second", "cache.teacher.seed=5"), BuildRequest(teacher="random"))
    manifest = json.loads((store / "manifest.json").read_bytes())
    assert manifest["generation"] == 3
    assert manifest["repaired"][0]["layer"] == "pixels"


def test_a_repair_keeps_what_the_build_told_of_rows(tmp_path: Path) -> None:
    folder, root, recipe = tmp_path / "in", tmp_path / "s", small("cache.views.count=1")
    pictures(folder, ["0.png", "1.png"])  # noise to the edges: taken whole, and told so
    build(str(root), recipe, BuildRequest(source=str(folder)))
    before = tree(root)
    assert b"taken whole" in before["commits/pixels/000000.json"]
    assert repair(str(root), recipe, source=str(folder)).mended == []
    flip(root / "pixels/c.0.0.0.0", 700)
    assert repair(str(root), recipe, source=str(folder)).left == []
    assert tree(root)["commits/pixels/000000.json"] == before["commits/pixels/000000.json"]
