"""gc deletes what no kept generation names, never what an unfinished run needs, and never harms the newest."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from tests.support.builds import tree
from tests.support.processes import forked
from tests.support.processes.flaky_s3 import s3_behind_proxy
from tests.support.runs import EVERY_STEP, recipe
from tests.support.stores import write_store
from usjepa.cache.cli import main
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.errors import ClaimedError, DamageError, NotSealedError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.storage.pins import pin, pins, unpin
from usjepa.cache.storage.protocol import READ_LIMIT
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.thinning.collect import collect
from usjepa.cache.upkeep.verify import verify
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

AUDIT = {"rows": 4, "relative_error": 0.0, "passed": True}


def generations(root: Path, more: int, layer: str = "latents/toy") -> None:
    """Add generations that differ in an audit alone."""
    writer = StoreWriter(LocalStorage(root))
    writer.attach()
    for _ in range(more):
        newest = writer.state.newest
        assert newest is not None
        writer.publish_generation(
            replace(newest, generation=newest.generation + 1, audits=(*newest.audits, {**AUDIT, "layer": layer}))
        )


def begin_layer(root: Path, name: str = "latents/later", shards: Sequence[int] = (0,)) -> None:
    """Begin another teacher's layer and do not seal it."""
    writer = StoreWriter(LocalStorage(root))
    writer.attach()
    layer = writer.add_layer(Layer(name, "float16", (4, 8), 4, {"weights": "1" * 32}))
    toy = open_store(root)
    for shard in shards:
        rows = toy.read(writer.state.rows_of_shard(shard), layers=["latents/toy"]).arrays["latents/toy"]
        writer.write_shard(layer, shard, rows, [], {"torch": "x"})


def drop_layer(root: Path, name: str) -> None:
    """Seal a generation without a layer."""
    writer = StoreWriter(LocalStorage(root))
    writer.attach()
    newest = writer.state.newest
    assert newest is not None
    layers = {key: layer for key, layer in newest.layers.items() if key != name}
    writer.publish_generation(replace(newest, generation=newest.generation + 1, layers=layers))


def numbers(root: Path) -> list[int]:
    return [int(path.stem) for path in sorted((root / "manifests").iterdir())]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "s")
    generations(tmp_path / "s", 3)
    return tmp_path / "s"


@pytest.mark.parametrize(("keep", "left"), [(1, [4]), (2, [3, 4]), (4, [1, 2, 3, 4]), (9, [1, 2, 3, 4])])
def test_the_newest_generations_stay(store: Path, keep: int, left: list[int]) -> None:
    before = tree(store)
    collect(str(store), keep=keep)
    assert numbers(store) == left
    assert verify(str(store)).damages == []
    after = tree(store)
    assert {name: data for name, data in before.items() if name in after} == after
    assert set(before) - set(after) == {f"manifests/{n:06d}.json" for n in range(1, 5) if n not in left}


def test_what_goes_is_said_before_it_goes_and_a_dry_run_deletes_nothing(store: Path) -> None:
    before = tree(store)
    dry = CliRunner().invoke(main, ["gc", str(store), "--dry-run"])
    assert tree(store) == before
    assert "keeps generations: 4" in dry.output
    assert "deletes manifests of earlier generations: 3 files, 0.0 MB" in dry.output
    assert "3 files, 0.0 MB would be deleted" in dry.output
    assert "3 files, 0.0 MB to delete" in CliRunner().invoke(main, ["gc", str(store)]).output
    assert "0 files, 0.0 MB to delete" in CliRunner().invoke(main, ["gc", str(store)]).output


def test_a_layer_that_only_earlier_generations_name_goes_with_all_its_files(store: Path) -> None:
    (store / "references").mkdir()
    for name in ("toy", "later"):
        (store / "references" / f"{name}.safetensors").write_bytes(b"r")
    before = tree(store)
    begin_layer(store, shards=(0, 1, 2))
    writer = StoreWriter(LocalStorage(store))
    writer.attach()
    writer.seal()
    drop_layer(store, "latents/later")
    found = collect(str(store))
    names = set(tree(store))
    assert not any("later" in name for name in names)
    assert {"references/toy.safetensors", "latents/toy/c.0.0.0"} <= names
    assert next(iter(found.garbage.heaps[0].files)) == "latents/later/zarr.json"
    assert verify(str(store)).damages == []
    kept = {name for name in before if not name.startswith("manifest") and "later" not in name}
    assert {name for name in names if not name.startswith("manifest")} == kept


def test_what_is_begun_stays_unless_it_is_asked_for(store: Path) -> None:
    whole = tree(store)
    begin_layer(store)
    (store / "segments/000002").mkdir()
    (store / "segments/000002/rows.parquet").write_bytes(b"of a scan that was killed")
    begun = tree(store)
    result = CliRunner().invoke(main, ["gc", str(store), "--keep", "4"])
    assert "leaves layer latents/later (begun, not sealed): 3 files" in result.output
    assert "deletes segments/000002 (a scan that was killed): 1 files" in result.output
    assert tree(store) == {name: data for name, data in begun.items() if "000002/" not in name}
    collect(str(store), keep=4, unfinished=True)
    assert tree(store) == whole


def test_rows_that_are_begun_stay_unless_they_are_asked_for(store: Path) -> None:
    from tests.support.stores import arrays, tables

    whole = tree(store)
    writer = StoreWriter(LocalStorage(store))
    writer.attach()
    writer.add_segment(*tables(5, "b"), 5)
    layer = writer.state.layers["pixels"]
    writer.write_shard(layer, 3, arrays(layer, 4), [], {})
    begun = tree(store)
    collect(str(store), keep=4)
    assert tree(store) == begun
    collect(str(store), keep=4, unfinished=True)
    assert tree(store) == whole
    assert len(open_store(store)) == 10


def test_files_of_others_are_left_and_told(store: Path) -> None:
    (store / "notes.txt").write_text("mine")
    (store / "pixels/readme").write_text("mine")
    (store / "manifests/old.json").write_text("{}")
    (store / "slides").mkdir()
    result = CliRunner().invoke(main, ["gc", str(store), "--unfinished"])
    for name in ("notes.txt", "pixels/readme", "manifests/old.json", "slides/"):
        assert f"leaves {name}: none of a store's" in result.output
        assert (store / name).exists()


def test_a_link_in_a_forged_store_leads_to_no_deletion_outside(tmp_path: Path, store: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "000001.json").write_text("{}")
    shutil.rmtree(store / "manifests")
    (store / "manifests").symlink_to(outside)
    result = CliRunner().invoke(main, ["gc", str(store)])
    assert result.exit_code == 1
    assert (outside / "000001.json").exists()


def test_a_damaged_manifest_or_pin_stops_before_anything_goes(store: Path) -> None:
    (store / "manifests/000002.json").write_bytes(b"{}")
    with pytest.raises(DamageError, match="000002"):
        collect(str(store))
    (store / "manifests/000002.json").unlink()
    pin(LocalStorage(store), Path("/runs/a"), 1)
    (file,) = pins(LocalStorage(store))
    (store / file.file).write_bytes(b'{"host": "x"}')
    with pytest.raises(DamageError, match="does not say which generation"):
        collect(str(store))
    assert numbers(store) == [1, 3, 4]


def test_an_unsealed_store_or_one_that_is_being_built_is_left_alone(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path / "u", seal=False)
    with pytest.raises(NotSealedError):
        collect(str(tmp_path / "u"))
    monkeypatch.setattr("usjepa.cache.storage.claims._read", _moving())
    monkeypatch.setattr("usjepa.cache.storage.claims.TAKEOVER_S", 0.5)
    LocalStorage(store).create("claims/build.json", b"{}")
    with pytest.raises(ClaimedError, match="its counter moves"):
        collect(str(store))
    assert numbers(store) == [1, 2, 3, 4]


def _moving() -> Callable[[object, str], dict[str, object]]:
    """Return what reads a claim whose counter moves."""
    count = 0

    def read(storage: object, name: str) -> dict[str, object]:
        nonlocal count
        count += 1
        return {"id": "another", "host": "elsewhere", "count": count}

    return read


def _delete_and_die(store: str, calls: int) -> None:
    real, count = LocalStorage.delete, 0

    def delete(self: LocalStorage, name: str) -> None:
        nonlocal count
        count += not name.startswith("claims/")
        if count == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, name)

    LocalStorage.delete = delete  # type: ignore[method-assign]
    collect(store, unfinished=True)


@pytest.mark.parametrize("calls", [1, 2, 3, 5, 8, 11, 13, 14])
def test_killed_at_any_moment_it_leaves_a_store_that_verifies(store: Path, calls: int) -> None:
    begin_layer(store, shards=(0, 1, 2))
    writer = StoreWriter(LocalStorage(store))
    writer.attach()
    writer.seal()
    drop_layer(store, "latents/later")
    begin_layer(store, "latents/third")
    whole = store.parent / "whole"
    shutil.copytree(store, whole)
    collect(str(whole), unfinished=True)
    assert forked.run(_delete_and_die, str(store), calls) == -9
    assert verify(str(store)).damages == []
    collect(str(store), unfinished=True)
    assert tree(store) == tree(whole)


def test_a_generation_that_an_unfinished_run_needs_stays_until_the_run_has_ended(
    tmp_path: Path, phantom_store: Path
) -> None:
    root, run = tmp_path / "s", tmp_path / "runs/a"
    shutil.copytree(phantom_store, root, ignore=shutil.ignore_patterns("pins"))  # of other tests' runs
    train(str(root), str(run), recipe(), stop_after_steps=3)
    generations(root, 2, "latents/demo")
    result = CliRunner().invoke(main, ["gc", str(root)])
    assert f"needed by the run {run} (unfinished, generation 1)" in result.output.replace("\n", "")
    assert numbers(root) == [1, 3]
    train(str(root), str(run), recipe(EVERY_STEP))
    assert list(pins(LocalStorage(root))) == []
    collect(str(root))
    assert numbers(root) == [3]


def test_runs_that_could_not_note_themselves_are_found_where_they_lie(tmp_path: Path, phantom_store: Path) -> None:
    root, run = tmp_path / "s", tmp_path / "runs/deep/a"
    shutil.copytree(phantom_store, root, ignore=shutil.ignore_patterns("pins"))  # of other tests' runs
    train(str(root), str(run), recipe(), stop_after_steps=1)
    generations(root, 1, "latents/demo")
    shutil.rmtree(root / "pins")
    collect(str(root), runs=[str(tmp_path / "runs")])
    assert numbers(root) == [1, 2]
    for record in (run / "state").glob("step-*.json"):
        record.write_bytes(b"{")
    with pytest.raises(DamageError, match="no checkpoint tells"):
        collect(str(root), runs=[str(tmp_path / "runs")])
    with pytest.raises(UsageError, match="no such folder"):
        collect(str(root), runs=[str(tmp_path / "nowhere")])
    collect(str(root))
    assert numbers(root) == [2]


def test_notes_of_other_machines_count_until_they_are_forgotten(store: Path) -> None:
    pin(LocalStorage(store), Path("/runs/a"), 2)
    (note,) = pins(LocalStorage(store))
    body = json.loads((store / note.file).read_text())
    (store / note.file).write_text(json.dumps({**body, "host": "elsewhere"}))
    collect(str(store))
    assert numbers(store) == [2, 4]
    with pytest.raises(UsageError, match="noted: /runs/a"):
        collect(str(store), forget=["/runs/b"])
    collect(str(store), forget=["/runs/a"])
    assert numbers(store) == [4]
    assert not (store / "pins").exists()


def test_a_run_that_ends_while_the_notes_are_read_needs_nothing(tmp_path: Path) -> None:
    class Slow(LocalStorage):
        def read(self, name: str, most: int = READ_LIMIT) -> bytes:
            unpin(LocalStorage(tmp_path), Path("/runs/a"))
            return super().read(name, most)

    for run in ("a", "b"):
        pin(LocalStorage(tmp_path), Path("/runs", run), 1)
    assert [one.run for one in pins(Slow(tmp_path))] == ["/runs/b"]


def test_a_note_of_a_run_that_is_gone_from_this_machine_counts_no_more(tmp_path: Path, store: Path) -> None:
    pin(LocalStorage(store), tmp_path / "removed", 2)
    collect(str(store))
    assert numbers(store) == [4]
    assert not (store / "pins").exists()


def test_a_store_that_takes_no_note_is_trained_on_all_the_same(
    tmp_path: Path, phantom_store: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    from usjepa.cache.errors import WriteError

    root = tmp_path / "s"
    shutil.copytree(phantom_store, root, ignore=shutil.ignore_patterns("pins"))  # of other tests' runs
    real = LocalStorage.publish

    def publish(self: LocalStorage, name: str, *more: object) -> None:
        if name.startswith("pins/"):
            raise WriteError("read-only")
        real(self, name, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(LocalStorage, "publish", publish)
    train(str(root), str(tmp_path / "run"), recipe(), stop_after_steps=1)
    assert any("takes no note that this run needs generation 1" in line for line in said)


@pytest.mark.slow
def test_a_bucket_is_collected_too(tmp_path: Path, store: Path) -> None:
    with s3_behind_proxy("collected"):
        copy_store(str(store), "s3://collected/s")
        collect("s3://collected/s", keep=2)
        copy_store("s3://collected/s", str(tmp_path / "back"))
    assert numbers(tmp_path / "back") == [3, 4]
