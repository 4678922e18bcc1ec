"""A layer of another precision is made from a stored one, says how near it is, and grows with the store."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.builds import small, tree
from tests.support.processes import forked
from tests.support.stores import arrays, layers, write_store
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.converting.convert import convert
from usjepa.cache.errors import IdentityError, NotSealedError, StoreError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.precision import channel_scale, quantise
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "s", 10, holes=((5, "torn"),))
    return tmp_path / "s"


def test_int8_is_what_the_quantiser_gives_and_near_the_original(store: Path) -> None:
    found = convert(str(store), "int8")
    opened = open_store(store)
    assert opened.latents == ["toy", "toy-int8"]
    original = opened.read(opened.rows, teacher="toy").latents.astype(np.float32)
    layer = opened.layers["latents/toy-int8"]
    assert layer.channel_scale == channel_scale(original)
    batch = opened.read(opened.rows, teacher="toy-int8")
    values, scales = quantise(original, layer, 0)
    np.testing.assert_array_equal(batch.latents, values)
    np.testing.assert_array_equal(batch.scales, scales)
    targets = batch.targets("cpu").numpy()
    error = np.linalg.norm(targets - original) / np.linalg.norm(original - original.mean(axis=(0, 1)))
    assert found.relative_error == pytest.approx(error, rel=1e-4)
    assert 0 < found.relative_error < found.tolerance
    assert found.cosine > 0.999 > 0.5 > found.control
    assert verify(str(store)).damages == []


def test_the_error_is_kept_in_the_manifest_and_shown(store: Path) -> None:
    found = convert(str(store), "int8")
    (entry,) = open_store(store).manifest.audits
    assert (entry["layer"], entry["against"], entry["rows"]) == ("latents/toy-int8", "latents/toy", 9)
    assert entry["relative_error"] == found.relative_error
    assert entry["passed"] is True
    assert "latents/toy-int8" in status_report(str(store))
    before = tree(store)
    convert(str(store), "int8")
    assert tree(store) == before


def test_fp32_becomes_fp16_and_nothing_becomes_larger(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 10, "float32")
    assert convert(str(tmp_path / "s"), "fp16", name="half").relative_error < 1e-3
    opened = open_store(tmp_path / "s")
    original = opened.read(opened.rows, teacher="toy").latents
    np.testing.assert_array_equal(opened.read(opened.rows, teacher="half").latents, original.astype(np.float16))
    with pytest.raises(UsageError, match="stored as float16: it can be converted to int8"):
        convert(str(tmp_path / "s"), "fp16", teacher="half")
    with pytest.raises(UsageError, match="stored as float32: it can be converted to fp16, int8"):
        convert(str(tmp_path / "s"), "fp32")


def test_other_layers_and_names_are_refused(store: Path) -> None:
    with pytest.raises(UsageError, match="not 'nobody'"):
        convert(str(store), "int8", teacher="nobody")
    with pytest.raises(IdentityError, match="latents/toy was built with other settings"):
        convert(str(store), "int8", name="toy")


def _convert_and_die(store: str, step: int) -> None:
    forked.die_at_durable_step(step)
    convert(store, "int8")


@pytest.mark.parametrize("step", [3, 20, 41, *(pytest.param(at, marks=pytest.mark.slow) for at in (8, 13, 27, 36))])
def test_a_conversion_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path, store: Path, step: int) -> None:
    shutil.copytree(store, tmp_path / "whole")
    convert(str(tmp_path / "whole"), "int8")
    assert forked.run(_convert_and_die, str(store), step) == -9
    convert(str(store), "int8")
    assert tree(store) == tree(tmp_path / "whole")


def test_a_store_that_grew_asks_for_the_conversion_again(tmp_path: Path, small_store: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(small_store, root)
    convert(str(root), "int8")
    scale = open_store(root).layers["latents/demo-int8"].channel_scale
    more = small("cache.phantom.patients=3")
    with pytest.raises(NotSealedError, match=r"latents/demo-int8 has 3 of \d+ shards. Run usjepa-cache convert"):
        build(str(root), more, BuildRequest(source="phantom", teacher="random"))
    convert(str(root), "int8")
    opened = open_store(root)
    assert len(opened) == 30
    assert opened.layers["latents/demo-int8"].channel_scale == scale
    assert verify(str(root)).damages == []


def test_a_shard_that_is_lost_is_made_again_with_the_same_bytes(store: Path) -> None:
    convert(str(store), "int8")
    before = tree(store)
    (store / "latents/toy-int8/c.1.0.0").unlink()
    convert(str(store), "int8")
    assert tree(store) == before


def test_an_error_beyond_the_precision_is_not_sealed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usjepa.cache.converting.convert.with_calibration", lambda layers, *sample: [
        replace(layer, channel_scale=(1e-3, *[1e3] * 7)) if layer.dtype == "int8" else layer for layer in layers
    ])  # fmt: skip
    with pytest.raises(StoreError, match="Nothing is sealed"):
        convert(str(store), "int8")
    assert open_store(store).latents == ["toy"]


def test_the_command_says_how_near_it_is(store: Path) -> None:
    result = CliRunner().invoke(main, ["convert", str(store), "--precision", "int8"])
    assert result.exit_code == 0
    assert "latents/toy-int8 against latents/toy: relative error" in result.output
    assert "sealed: generation 3, " in result.output


def test_of_several_teachers_one_is_named(store: Path) -> None:
    writer = StoreWriter(LocalStorage(store))
    writer.attach()
    layer = writer.add_layer(replace(layers()["latents/toy"], name="latents/other"))
    for shard in range(3):
        numbers = writer.state.rows_of_shard(shard)
        writer.write_shard(layer, shard, arrays(layer, len(numbers)), [(5, "torn")] if 5 in numbers else [], {})
    writer.seal()
    with pytest.raises(UsageError, match="--teacher one of other, toy"):
        convert(str(store), "int8")
    convert(str(store), "int8", teacher="other")
    assert "other-int8" in open_store(store).latents
