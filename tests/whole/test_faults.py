"""Faults that no other file is about: killed before the seal, stopped, misled by metadata, sources that come and go."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from tests.support.builds import SMALL, pictures, small, tree
from tests.support.processes import forked
from tests.support.processes.commands import run_python, stop_python
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import NotSealedError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.durable import write_durably
from usjepa.cache.teacher.computing import compute_latents
from usjepa.cache.teacher.resolve import load_teacher
from usjepa.cache.teacher.vit import ViT
from usjepa.cache.upkeep.verify import verify, verify_sources

SETS = [part for item in SMALL for part in ("--set", item)]


def _build_and_die_before_the_manifest(root: str) -> None:
    real = os.replace

    def replace(source: object, target: object) -> None:
        if "manifests" in str(target):
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)  # type: ignore[arg-type]

    os.replace = replace  # type: ignore[assignment]
    build(root, small(), BuildRequest(teacher="random"))


@pytest.mark.slow
def test_killed_between_the_last_shard_and_the_seal_training_refuses_and_build_seals_without_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    assert forked.run(_build_and_die_before_the_manifest, str(root)) == -signal.SIGKILL
    main = "from usjepa.train.cli import main; main()"
    refused = run_python("-c", main, root, tmp_path / "run", "--pipeline", "demo", code=2)
    assert "not sealed" in refused.stderr
    assert "3/3 shards" in refused.stderr

    def never(*_: object) -> None:
        raise AssertionError("the teacher was asked")

    monkeypatch.setattr(ViT, "__call__", never)
    assert build(str(root), small(), BuildRequest(teacher="random")).generation == 1  # type: ignore[union-attr]
    assert verify(str(root)).damages == []


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_stopped_build_ends_within_seconds_with_75_no_seal_and_no_litter(tmp_path: Path, number: int) -> None:
    sets = [*SETS, "--set", "cache.phantom.patients=100", "--set", "cache.phantom.frames_per_patient=5"]
    command = ["-m", "usjepa.cache.cli", "build", tmp_path / "s", "--pipeline", "demo", *sets]
    stop_python(number, (tmp_path / "s/commits/pixels/000000.json").exists, *command)
    assert len(list((tmp_path / "s/commits/pixels").iterdir())) < 100  # of 125
    assert not (tmp_path / "s/manifest.json").exists()
    assert not list((tmp_path / "s").rglob("*.tmp"))
    with pytest.raises(NotSealedError):
        open_store(tmp_path / "s")


def test_stale_consolidated_metadata_of_a_foreign_tool_is_not_believed(tmp_path: Path) -> None:
    root = tmp_path / "s"
    build(str(root), small(), BuildRequest(teacher="random"))
    truth = open_store(root).read(range(20)).latents.tobytes()
    described = json.loads((root / "zarr.json").read_text())
    array = json.loads((root / "latents/demo/zarr.json").read_text())
    described["consolidated_metadata"] = {
        "kind": "inline", "must_understand": False, "metadata": {"latents/demo": {**array, "shape": [1, 1, 1]}}
    }  # fmt: skip
    (root / "zarr.json").write_text(json.dumps(described))
    assert open_store(root).read(range(20)).latents.tobytes() == truth
    assert [damage.file for damage in verify(str(root)).damages] == ["zarr.json"]


def test_sources_removed_reordered_or_touched_after_the_build_move_no_row(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png", "a/2.png", "a/3.png"])
    lines = ["a/1.png,d,x,g1,", "a/2.png,d,x,g2,", "a/3.png,d,y,g3,"]
    manifest = tmp_path / "in/manifest.csv"
    manifest.write_text("path,dataset,label,group,split\n" + "\n".join(lines))
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in"), teacher="random"))
    before = tree(tmp_path / "s")
    manifest.write_text("path,dataset,label,group,split\n" + "\n".join(reversed(lines)))
    os.utime(tmp_path / "in/a/1.png")
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in"), teacher="random"))
    assert tree(tmp_path / "s") == before
    manifest.write_text("path,dataset,label,group,split\n" + "\n".join(lines[:2]))
    (tmp_path / "in/a/3.png").unlink()
    build(str(tmp_path / "s"), small(), BuildRequest(source=str(tmp_path / "in"), teacher="random"))
    assert tree(tmp_path / "s") == before
    (damage,) = verify_sources(str(tmp_path / "s"), str(tmp_path / "in"), small().cache)
    assert "a/3.png" in str(damage)


def test_a_moved_source_folder_changes_nothing(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.png", "a/2.png"])
    build(str(tmp_path / "s"), small("cache.test_fraction=0"), BuildRequest(source=str(tmp_path / "in/a")))
    before = tree(tmp_path / "s")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "in/a", tmp_path / "elsewhere/a")
    build(str(tmp_path / "s"), small("cache.test_fraction=0"), BuildRequest(source=str(tmp_path / "elsewhere/a")))
    assert tree(tmp_path / "s") == before


def test_answers_depend_on_the_batch_only_within_a_tight_bound() -> None:
    teacher = load_teacher(small().cache.teacher, 32, "cpu")  # type: ignore[arg-type]
    pixels = np.random.default_rng(0).integers(0, 255, (65, 1, 32, 32), dtype=np.uint8)
    numbers = np.arange(65)
    alone = compute_latents(teacher, pixels, numbers, 1)
    for batch_size in (7, 64, 65):  # ragged last batches of 2 and 1
        together = compute_latents(teacher, pixels, numbers, batch_size)
        np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_a_temp_file_is_always_a_sibling_so_that_a_rename_never_crosses_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed: list[tuple[Path, Path]] = []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        renamed.append((Path(source), Path(target)))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    write_durably(tmp_path / "deep/er/file", b"x")
    assert all(source.parent == target.parent for source, target in renamed)
    assert renamed
