"""Stored precision: what fits is kept closely, what does not is refused by name, and a stranger can decode it."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from tests.support.stores import write_store
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.coding.form import Form
from usjepa.cache.errors import TeacherError
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.precision import LatentError, bytes_per_row, channel_scale, quantise, to_targets
from usjepa.cache.teacher.vit import ViT

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[3] / "docs"
ANY_FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
Latents = NDArray[np.float32]


def to_float16(latents: Latents, first_row: int) -> NDArray[np.float16]:
    stored, _ = quantise(latents, Layer("latents/x", "float16", latents.shape[1:], 4, {}), first_row)
    return stored.astype(np.float16, copy=False)


def to_int8(
    latents: Latents, channels: tuple[float, ...], first_row: int = 0
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    stored, scales = quantise(latents, Layer("latents/x", "int8", latents.shape[1:], 4, {}, channels), first_row)
    assert scales is not None
    return stored.astype(np.int8, copy=False), scales


def decoded(latents: Latents, channels: tuple[float, ...]) -> Latents:
    quantised, scales = to_int8(latents, channels)
    return np.asarray(to_targets(quantised, scales, channels, "cpu").numpy())


def cosines(exact: Latents, coded: Latents) -> NDArray[np.float64]:
    """Cosine of each token after standardising each channel over the sample."""
    a, b = (x.reshape(-1, x.shape[-1]).astype(np.float64) for x in (exact, coded))
    mean, std = a.mean(axis=0), a.std(axis=0)
    a, b = (a - mean) / std, (b - mean) / std
    found: NDArray[np.float64] = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return found


def vit_like(kind: str, dim: int, rows: int = 72) -> Latents:
    x = np.random.default_rng(0).standard_normal((rows, 36, dim)).astype(np.float32)
    if kind == "two channels 50x the rest":
        x[..., [3, 77]] *= 50
    if kind == "two channels 50x the rest and nearly constant":
        x[..., [3, 77]] = 50 + x[..., [3, 77]] / 2
    if kind == "every channel off centre":
        x += 2 * np.random.default_rng(1).standard_normal(dim).astype(np.float32)
    return x


@pytest.mark.parametrize("dim", [192, 768])
@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "two channels 50x the rest",
        "two channels 50x the rest and nearly constant",
        "every channel off centre",
    ],
)
def test_int8_keeps_a_standardised_cosine_of_0_999_also_with_massive_channels(kind: str, dim: int) -> None:
    latents = vit_like(kind, dim)
    coded = decoded(latents, channel_scale(latents[:64]))
    assert cosines(latents, coded).mean() >= 0.999
    assert cosines(latents[64:], coded[64:]).mean() >= 0.999, "rows that the calibration has not seen"
    control = np.roll(coded.reshape(-1, dim), 1, axis=0).reshape(coded.shape)
    assert abs(cosines(latents, control).mean()) < 0.1, "the measure tells unrelated tokens apart"


def test_without_the_channel_scale_massive_channels_would_cost_the_others_their_precision() -> None:
    latents = vit_like("two channels 50x the rest", 192)
    assert cosines(latents, decoded(latents, (1.0,) * 192)).mean() < 0.998


@given(arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=6), elements=ANY_FLOAT32))
@settings(max_examples=100)
def test_int8_errs_by_half_a_step_at_most_whatever_the_latents(latents: Latents) -> None:
    channels = channel_scale(latents)
    quantised, scales = to_int8(latents, channels)
    assert quantised.min() >= -127
    assert (scales > 0).all()
    assert np.isfinite(scales).all()
    step = scales[:, :, None].astype(np.float64) * np.asarray(channels)
    wrong = np.abs(quantised * step - latents.astype(np.float64))
    # A token below 2**-126 of its channels' scales has scale 1 and is stored as zero: wrong by what it was.
    lost = (np.abs(latents / np.asarray(channels, np.float32)).max(axis=2) < 128 * 2.0**-126)[:, :, None]
    assert (wrong <= np.where(lost, np.abs(latents), 0.5001 * step)).all()


@given(arrays(np.float32, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=ANY_FLOAT32))
@settings(max_examples=60)
def test_fp16_rounds_to_nearest_or_refuses(latents: Latents) -> None:
    if np.abs(latents).max() > 65504:
        with pytest.raises(LatentError, match="does not fit fp16"):
            to_float16(latents, 0)
        return
    kept = to_float16(latents, 0)
    assert np.isfinite(kept).all()
    assert (np.abs(kept.astype(np.float64) - latents) <= np.maximum(np.abs(latents) * 2.0**-11, 2.0**-25)).all()


def test_an_all_zero_token_has_scale_1_and_stays_zero() -> None:
    latents = np.zeros((2, 3, 4), np.float32)
    latents[1, 2] = [1, -2, 3, 0]
    quantised, scales = to_int8(latents, channel_scale(latents))
    assert scales.dtype == np.float32
    assert scales[0].tolist() == [1, 1, 1]
    assert not quantised[0].any()
    assert np.abs(quantised[1, 2]).max() == 127


def test_quantising_uses_the_scale_that_is_stored() -> None:
    latents = vit_like("plain", 16, rows=4)
    channels = channel_scale(latents)
    quantised, scales = to_int8(latents, channels)
    again = np.rint(latents / np.asarray(channels, np.float32) / scales[:, :, None]).clip(-127, 127)
    assert (again == quantised).all()
    assert channels == tuple(float(np.float32(c)) for c in channels), "float32 in memory is float32 in the layer"


@pytest.mark.parametrize("store", [to_float16, lambda x, row: to_int8(x, (1.0,) * 5, row)], ids=["fp16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_row_place_and_value(
    store: Callable[[NDArray[np.float32], int], object], value: float
) -> None:
    latents = np.ones((3, 4, 5), np.float32)
    latents[1, 2, 3] = value
    with pytest.raises(LatentError, match=rf"row 41: the teacher gave {value} in token 2, channel 3"):
        store(latents, 40)


def test_int8_refuses_what_its_scale_can_not_divide() -> None:
    latents = np.full((1, 1, 2), 3e38, np.float32)
    with pytest.raises(LatentError, match=r"row 7: .*1e38 times"):
        to_int8(latents, (1e-3, 1e-3), 7)


@pytest.mark.parametrize(("tokens", "dim"), [(196, 192), (196, 768), (256, 1408)])
def test_int8_takes_at_most_0_52_of_the_bytes_of_fp16(tokens: int, dim: int) -> None:
    half, whole = bytes_per_row(Form("int8"), tokens, dim), bytes_per_row(Form("fp16"), tokens, dim)
    assert half <= 0.52 * whole
    layers = [
        Layer("latents/x", "int8", (tokens, dim), 64, {}, (1.0,) * dim),
        Layer("scales/x", "float32", (tokens,), 64, {}),
    ]
    assert (
        sum(layer.layout.slot_nbytes for layer in layers)
        <= 0.52 * Layer("latents/x", "float16", (tokens, dim), 64, {}).layout.slot_nbytes
    ), "with checksums and alignment"


def test_decoding_gives_the_same_bits_in_numpy_and_torch() -> None:
    latents = vit_like("two channels 50x the rest", 96, rows=8)
    channels = channel_scale(latents)
    quantised, scales = to_int8(latents, channels)
    by_numpy = quantised.astype(np.float32) * scales[:, :, None] * np.asarray(channels, np.float32)
    assert (to_targets(quantised, scales, channels, "cpu").numpy() == by_numpy).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_decoding_gives_the_same_bits_on_a_gpu() -> None:
    latents = vit_like("two channels 50x the rest", 96, rows=8)
    channels = channel_scale(latents)
    quantised, scales = to_int8(latents, channels)
    on_cpu, on_gpu = (to_targets(quantised, scales, channels, device).cpu() for device in ("cpu", "cuda"))
    assert torch.equal(on_cpu, on_gpu)


def test_the_lines_of_the_format_page_decode_int8_as_printed(tmp_path: Path) -> None:
    write_store(tmp_path / "s", 6, "int8")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "store-format.md").read_text(), re.DOTALL)
    (decode,) = [block for block in blocks if "def decode_int8" in block]
    assert len(decode.splitlines()) <= 10
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    store = open_store(tmp_path / "s")
    for row in (0, 3, 5):
        by_stranger = names["decode_int8"](tmp_path / "s", "toy", row)  # type: ignore[operator]
        np.testing.assert_array_equal(by_stranger, store.read([row]).targets()[0].numpy())


@pytest.mark.parametrize(("value", "said"), [(7e4, "a latent of 70000 does not fit fp16"), (np.nan, "gave nan")])
def test_a_build_refuses_such_a_latent_naming_file_frame_and_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, said: str
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b", "c"):
        picture = np.full((40, 40), 255 if name == "b" else 90, np.uint8)
        picture[:10] = 30
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), picture)
    real = ViT.__call__

    def spoilt(teacher: ViT, pixels: torch.Tensor) -> torch.Tensor:
        latents = real(teacher, pixels)
        brightest = pixels.float().mean(dim=(1, 2, 3)).argmax()
        if len(pixels) > 1:  # not the one image that a teacher is tried on before the scan
            latents[brightest, 1, 2] = value
        return latents

    monkeypatch.setattr(ViT, "__call__", spoilt)
    recipe = load_recipe(
        "demo", ("cache.image_size=32", "cache.teacher.patch_size=16", "cache.views.count=1", "cache.precision=fp16")
    )
    with pytest.raises(TeacherError, match=rf"row \d: .*{said}.* It shows [abc]\.png, frame 0, view 0"):
        build(str(tmp_path / "s"), recipe, BuildRequest(source=str(tmp_path / "in"), teacher="random"))


def test_the_refusal_crosses_processes_whole() -> None:
    error = pickle.loads(pickle.dumps(LatentError(3, "too large")))
    assert (error.row, str(error)) == (3, "row 3: too large")
