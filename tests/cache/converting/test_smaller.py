"""Layers on axes and in int4 are made from stored ones, say what they keep, live as others do, and are trained from."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.builds import small, tree
from tests.support.processes import forked
from tests.support.stores import write_store
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.converting.convert import convert
from usjepa.cache.converting.export import export
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.copying.selection import Selection
from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.precision import quantise
from usjepa.cache.upkeep.stats import stats
from usjepa.cache.upkeep.status import status_report
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from usjepa.cache.coding.form import LatentPrecision


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "s", 10, holes=((5, "torn"),))
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("precision", "axes", "name"),
    [
        ("int4", None, "toy-int4"),
        ("int4", 6, "toy-int4-axes6"),
        ("int8", 5, "toy-int8-axes5"),
        ("fp16", 3, "toy-fp16-axes3"),
    ],
)
def test_it_is_what_the_quantiser_gives_and_tells_its_error_and_what_it_keeps(
    store: Path, precision: LatentPrecision, axes: int | None, name: str
) -> None:
    found = convert(str(store), precision, axes=axes)
    opened = open_store(store)
    assert opened.latents == ["toy", name]
    original = opened.read(opened.rows, teacher="toy").latents.astype(np.float32)
    layer = opened.layers[f"latents/{name}"]
    batch = opened.read(opened.rows, teacher=name)
    values, scales = quantise(original, layer, 0)
    np.testing.assert_array_equal(batch.latents, values)
    if scales is not None:
        np.testing.assert_array_equal(batch.scales, scales)
    targets = batch.targets("cpu").numpy()
    assert targets.shape == original.shape
    centred = original - original.mean(axis=(0, 1))
    assert found.relative_error == pytest.approx(np.linalg.norm(targets - original) / np.linalg.norm(centred), rel=1e-3)
    assert found.passed
    (entry,) = opened.manifest.audits
    assert entry["relative_error"] == found.relative_error
    assert ("kept" in entry) == (axes is not None)
    if axes is not None:
        kept = np.linalg.svd(centred.reshape(-1, 8), compute_uv=False) ** 2
        assert entry["kept"] == pytest.approx(kept[:axes].sum() / kept.sum(), abs=5e-3)
        assert f"keeps {100 * entry['kept']:.2f} % of the variance" in status_report(str(store))
    assert verify(str(store)).damages == []
    assert stats(str(store), teacher=name).moments["a"].tokens == 36
    before = tree(store)
    convert(str(store), precision, axes=axes)
    assert tree(store) == before


def test_what_makes_no_sense_is_refused(store: Path) -> None:
    with pytest.raises(UsageError, match=r"8 channels, so there are no 9 axes"):
        convert(str(store), "int8", axes=9)
    with pytest.raises(UsageError, match="stored as float16: on axes it can be converted to fp16, int8, int4"):
        convert(str(store), "fp32", axes=4)
    convert(str(store), "int4", axes=4, name="tiny")
    with pytest.raises(UsageError, match="stored as int4 on 4 axes: it can be converted to nothing smaller"):
        convert(str(store), "int4", teacher="tiny")
    with pytest.raises(IdentityError, match=r"identity\.axes: 4 \| 6") as caught:
        convert(str(store), "int4", teacher="toy", axes=6, name="tiny")
    assert len(str(caught.value)) < 1500, "axes are not printed"


def _convert_and_die(store: str, step: int) -> None:
    forked.die_at_durable_step(step)
    convert(store, "int4", axes=6)


@pytest.mark.parametrize("step", [3, 22])
def test_a_conversion_that_is_killed_goes_on_to_the_same_bytes(tmp_path: Path, store: Path, step: int) -> None:
    shutil.copytree(store, tmp_path / "whole")
    convert(str(tmp_path / "whole"), "int4", axes=6)
    assert forked.run(_convert_and_die, str(store), step) == -9
    assert verify(str(store)).damages == [], "the format may run ahead of the manifest"
    convert(str(store), "int4", axes=6)
    assert tree(store) == tree(tmp_path / "whole")


def test_a_copy_and_an_export_take_along_what_leads_back(tmp_path: Path, store: Path) -> None:
    convert(str(store), "int4", axes=6)
    source = open_store(store)
    rows = [0, 4, 9]
    wanted = source.read(rows, teacher="toy-int4-axes6").targets().numpy()
    copy_store(str(store), str(tmp_path / "copy"), Selection(layers=("toy-int4-axes6",)))
    copied = open_store(tmp_path / "copy")
    np.testing.assert_array_equal(copied.read(rows).targets().numpy(), wanted)
    copy_store(str(store), str(tmp_path / "old"), Selection(layers=("toy",)))
    formats = [json.loads((tmp_path / f"{name}/zarr.json").read_text())["attributes"]["usjepa"]["format"]["major"]
               for name in ("copy", "old")]  # fmt: skip
    assert formats == [2, 1], "a copy without such layers is read by older versions"
    index = export(str(store), str(tmp_path / "plain"), "npy", ["latents/toy-int4-axes6"])
    layer = source.layers["latents/toy-int4-axes6"]
    assert layer.coding is not None
    assert index["layers"][layer.name]["coding"] == layer.coding.to_json()


def test_the_command_makes_it_and_a_store_that_grew_asks_for_it_again(tmp_path: Path, small_store: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(small_store, root)
    command = ["convert", str(root), "--precision", "int4", "--axes", "144"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "latents/demo-int4-axes144 against latents/demo: keeps " in result.output
    assert "sealed: generation 3, " in result.output
    more = small("cache.phantom.patients=3")
    with pytest.raises(Exception, match=r"convert STORE --precision int4 --axes 144 --name demo-int4-axes144 again"):
        build(str(root), more, BuildRequest(source="phantom", teacher="random"))
    assert CliRunner().invoke(main, command).exit_code == 0
    assert len(open_store(root)) == 30


def test_a_build_on_axes_gives_what_a_conversion_of_the_same_latents_gives(tmp_path: Path, small_store: Path) -> None:
    form = ("cache.precision=int4", "cache.axes=100")
    build(str(tmp_path / "s"), small(*form), BuildRequest(teacher="random"))
    built = open_store(tmp_path / "s")
    layer = built.layers["latents/demo"]
    assert (layer.shape, layer.dtype, layer.latent_shape) == ((4, 50), "uint8", (4, 192))
    assert layer.coding is not None
    assert layer.coding.sample_rows == 20
    original = open_store(small_store).read(built.rows).latents
    values, scales = quantise(original, layer, 0)
    stored = built.read(built.rows)
    assert (stored.latents == values).mean() > 0.99, "the device sums products in an order of its own"
    assert stored.scales is not None
    assert scales is not None
    np.testing.assert_allclose(stored.scales, scales, rtol=1e-4)
    with pytest.raises(IdentityError, match=r"identity\.axes: 100 \| null"):
        build(str(tmp_path / "s"), small("cache.precision=int4"), BuildRequest(teacher="random"))
    shutil.copytree(small_store, tmp_path / "c")
    found = convert(str(tmp_path / "c"), "int4", axes=100)
    targets = open_store(tmp_path / "c").read(built.rows, teacher="demo-int4-axes100").targets().numpy()
    spread = np.linalg.norm(original - original.mean(axis=(0, 1)))
    assert np.linalg.norm(stored.targets().numpy() - targets) / spread < 0.05
    assert found.relative_error == pytest.approx(np.linalg.norm(targets - original) / spread, rel=1e-3)
