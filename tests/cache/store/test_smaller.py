"""Latents on axes and in int4: near what they were, refused where they can't be stored, readable by a stranger."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from tests.cache.coding.test_rotation import matrix
from tests.support.stores import write_coded_store
from usjepa.cache.coding.form import Form
from usjepa.cache.coding.nibbles import unpack
from usjepa.cache.errors import FormatError
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.calibration import with_calibration
from usjepa.cache.store.precision import LatentError, dequantise, nibble_divisor, quantise
from usjepa.cache.teacher.layers import layers_of
from usjepa.cache.teacher.quantiser import DeviceQuantiser
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from usjepa.cache.store.layers import Layer

DOCS = Path(__file__).parents[3] / "docs"
FORMS = [Form("int4"), Form("int4", 20), Form("int4", 7), Form("int8", 20), Form("fp16", 20), Form("fp32", 24)]
Latents = NDArray[np.float32]


def vit_like(rows: int = 30, dim: int = 24, seed: int = 0) -> Latents:
    """Channels that go together, two of them massive and nearly constant, some tokens ten times as long as others."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).standard_normal((dim, dim)) * np.exp(-np.arange(dim) / 8)[:, None]
    latents = rng.standard_normal((rows, 9, dim)) @ mixing
    latents[:, ::4] *= 10
    latents[..., [2, 5]] = 50 + latents[..., [2, 5]] / 5
    return np.asarray(latents, np.float32)


def layer_of(form: Form, sample: Latents) -> Layer:
    layers = layers_of("x", sample.shape[1:], form, 4, form.identity())
    return with_calibration(layers, sample, np.arange(len(sample)))[-1]


def read_back(latents: Latents, layer: Layer) -> Latents:
    values, scales = quantise(latents, layer, 0)
    return dequantise(values, scales, layer.channel_scale, layer.coding)


def error(latents: Latents, layer: Layer) -> float:
    centred = latents - latents.mean(axis=(0, 1))
    return float(np.linalg.norm(read_back(latents, layer) - latents) / np.linalg.norm(centred))


def test_fewer_axes_and_fewer_bits_are_further_away_and_the_layer_says_how_far() -> None:
    sample, others = vit_like(40), vit_like(40, seed=1)
    by: dict[tuple[str, int], float] = {}
    for precision in ("fp16", "int8", "int4"):
        for axes in (24, 16, 8, 4):
            layer = layer_of(Form(precision, axes), sample)
            by[precision, axes] = error(others, layer)
            assert layer.coding is not None
            assert layer.coding.error == pytest.approx(by[precision, axes], rel=0.35)
    for precision in ("fp16", "int8", "int4"):
        found = [by[precision, axes] for axes in (24, 16, 8, 4)]
        assert found == sorted(found)
        assert found[0] < found[-1]
    for axes in (24, 16, 8, 4):
        assert by["fp16", axes] <= by["int8", axes] * 1.001 <= by["int4", axes] * 1.001
    assert error(others, layer_of(Form("int4"), sample)) < 0.13


def test_the_rotation_shares_what_stands_out_in_a_channel() -> None:
    latents = np.random.default_rng(0).standard_t(3, (40, 9, 192)).astype(np.float32)
    layer = layer_of(Form("int4"), latents)
    even = latents / latents.std(axis=(0, 1))
    step = np.abs(even).max(axis=2, keepdims=True) / np.float32(nibble_divisor(192))
    unrotated = np.rint(even / step).clip(-7, 7) * step
    assert error(latents, layer) < 0.75 * np.linalg.norm(unrotated - even) / np.linalg.norm(even)


def test_channels_that_never_change_come_back_almost_exactly_beside_those_that_do() -> None:
    latents = vit_like()
    latents[..., 9] = -3.5
    back = read_back(latents, layer_of(Form("int4"), latents))
    spread = float(np.median(latents.std(axis=(0, 1))))
    assert np.abs(back[..., 9] + 3.5).mean() < 0.03 * spread
    constant = np.full((6, 9, 24), 2.25, np.float32)
    for form in FORMS:
        layer = layer_of(form, constant)
        np.testing.assert_array_equal(read_back(constant, layer), constant)
        assert layer.coding is not None
        assert (layer.coding.kept, layer.coding.error) == (1.0, 0.0)


@pytest.mark.parametrize("packed", [True, False])
@given(
    latents=arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=6),
        # Neither smaller: where a channel's spread is far below its largest value, latents are refused.
        elements=st.integers(-(10**9), 10**9).map(lambda thousandths: float(np.float32(thousandths / 1000))),
    )
)
@settings(max_examples=60, deadline=None)
def test_it_is_what_a_few_lines_of_numpy_make_whatever_the_latents(packed: bool, latents: Latents) -> None:
    """Encoded and decoded once more in float64, with a matrix for the rotation."""
    layer = layer_of(Form("int4" if packed else "int8", None if packed else latents.shape[2]), latents)
    coding = layer.coding
    assert coding is not None
    values, scales = quantise(latents, layer, 0)
    assert scales is not None
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    turn = matrix(coding.coded_width) if packed else np.eye(coding.coded_width)
    basis = np.eye(coding.width) if coding.basis is None else coding.basis.astype(np.float64)
    channels = np.array(layer.channel_scale)
    exact = ((latents.astype(np.float64) - coding.mean) @ basis.T / channels) @ turn
    levels = 7 if packed else 127
    codes = values.astype(np.int64)
    if packed:
        codes = np.stack([codes & 15, codes >> 4], -1).reshape(*values.shape[:2], -1) - 8
    codes = codes[..., : coding.coded_width]
    wanted = exact / scales[..., None].astype(np.float64)
    largest = np.maximum(np.abs(latents).max(axis=2, keepdims=True), np.abs(coding.mean).max())  # what is subtracted
    rounding = 1e-4 + 1e-5 * largest / np.abs(channels).min() / scales[..., None]
    assert (np.abs(codes - wanted.clip(-levels, levels)) <= 0.5 + rounding).all()
    back = ((codes * scales[..., None].astype(np.float64)) @ turn.T * channels) @ basis + coding.mean
    size = 1e-5 * max(1.0, float(np.abs(latents).max()))
    np.testing.assert_allclose(dequantise(values, scales, layer.channel_scale, coding), back, atol=size, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_device_stores_what_numpy_stores(form: Form) -> None:
    latents = vit_like()
    layer = layer_of(form, latents[:20])
    values, _ = quantise(latents, layer, 0)
    stored = DeviceQuantiser(layer, torch.device("cpu")).quantise(torch.from_numpy(latents))
    assert stored.fits_B.all()
    assert stored.values_BTD.dtype == getattr(torch, layer.dtype)
    found = stored.values_BTD.numpy()
    if form.axes is None:
        assert found.tobytes() == values.tobytes()
        return
    # Sums of products, in another order: here and there a value lies on the next level.
    one, other = found.astype(np.float32), values.astype(np.float32)
    if form.packed:
        one, other = (unpack(x.astype(np.uint8), 2 * x.shape[-1]) for x in (found, values))
    if form.scaled:
        assert np.abs(one - other).max() <= 1
        assert (one == other).mean() > 0.99
    else:
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-3 * np.abs(other).max())


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("value", "said"), [(np.nan, "gave nan in token 2, channel 3"), (1e31, "is above 1e\\+30")])
def test_what_can_not_be_stored_is_refused_with_its_row(form: Form, value: float, said: str) -> None:
    latents = vit_like(6)
    layer = layer_of(form, latents)
    latents[4, 2, 3] = value
    with pytest.raises(LatentError, match=rf"row 44: .*{said}"):
        quantise(latents, layer, 40)
    quantiser = DeviceQuantiser(layer, torch.device("cpu"))
    assert quantiser.quantise(torch.from_numpy(latents)).fits_B.tolist() == [True] * 4 + [False, True]
    with pytest.raises(LatentError, match=rf"row 44: .*{said}"):
        quantiser.refuse(torch.from_numpy(latents), 40)
    with pytest.raises(LatentError, match=rf"row 54: .*{said}"):
        with_calibration(layers_of("x", (9, 24), form, 4, form.identity()), latents, np.arange(50, 56))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_lines_of_the_format_page_decode_each_form_as_printed(tmp_path: Path, form: Form) -> None:
    write_coded_store(tmp_path / "s", 6, form)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "store-format.md").read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "def decode_coded" in block]
    functions = block.split("\n\n\n")
    assert all(len(function.strip().splitlines()) <= 15 for function in functions)
    names: dict[str, Any] = {}
    for each in blocks:
        exec(each, names)
    store = open_store(tmp_path / "s")
    for row in (0, 3, 5):
        by_stranger = names["decode_coded"](tmp_path / "s", "toy", row)
        np.testing.assert_allclose(by_stranger, store.read([row]).targets()[0].numpy(), atol=1e-4, rtol=1e-4)


def test_zarr_libraries_read_the_stored_bytes_of_every_form(tmp_path: Path) -> None:
    import tensorstore

    for form in FORMS[:4]:
        root = tmp_path / form.suffix
        content = write_coded_store(root, 6, form)
        assert verify(str(root)).damages == []
        store = open_store(root)
        for name, wanted in content.items():
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(root / name)}}
            by_tensorstore = tensorstore.open(spec, read=True).result()[:6].read().result()
            by_zarr = np.asarray(zarr.open_array(str(root / name), mode="r")[:6])
            ours = np.asarray(store.zarr_array(name)[:6]), store.dask_array(name).compute()
            for found in (by_zarr, by_tensorstore, *ours):
                assert np.asarray(found).tobytes() == wanted.tobytes()


def test_an_older_version_refuses_such_a_store_by_its_format(tmp_path: Path) -> None:
    import json

    from usjepa.cache.store import layers

    write_coded_store(tmp_path / "s", 6, Form("int4"))
    root = json.loads((tmp_path / "s/zarr.json").read_text())["attributes"]["usjepa"]["format"]
    assert root == json.loads((tmp_path / "s/manifest.json").read_text())["format"] == {"major": 2, "minor": 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "FORMAT_MAJOR", 1)
        with pytest.raises(FormatError, match=r"store format 2\.0 is newer than format 1 .* Install a newer usjepa"):
            open_store(tmp_path / "s")


@pytest.mark.parametrize(
    "change",
    [{"shape": (9, 11)}, {"dtype": "int8"}, {"channel_scale": ()}, {"name": "scales/x"}],
    ids=lambda change: next(iter(change)),
)
def test_a_layer_whose_rows_do_not_fit_its_coding_is_refused(change: dict[str, Any]) -> None:
    from dataclasses import replace

    with pytest.raises(FormatError, match=r"do not fit their coding|not plausible"):
        replace(layer_of(Form("int4"), vit_like(4)), **change)
