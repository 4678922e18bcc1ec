"""Latents come from the teacher's device as they are stored: the bits that NumPy makes, the same refusals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.precision import LatentError, channel_scale, quantise
from usjepa.cache.teacher import computing
from usjepa.cache.teacher.computing import LatentComputer, compute_latents
from usjepa.cache.teacher.quantiser import DeviceQuantiser
from usjepa.cache.teacher.resolve import load_teacher
from usjepa.cache.teacher.teacher import Alone

if TYPE_CHECKING:
    from usjepa.cache.teacher.teacher import Pass, Teacher

TINY = TeacherSettings(name="t", architecture="vit_tiny_patch16_224", patch_size=16, depth=1)
DTYPES = ["float32", "float16", "int8"]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")),
]
T, D = 4, 192
Latents = NDArray[np.float32]
EXIST = np.ones(7, bool)
"""None of up to seven rows is a hole."""


def layer_of(dtype: str, channels: tuple[float, ...] = (1.0,) * D, shape: tuple[int, int] = (T, D)) -> Layer:
    return Layer("latents/t", dtype, shape, 64, {}, channels if dtype == "int8" else ())


def by_device(latents: Latents, layer: Layer, device: str) -> list[NDArray[Any]]:
    stored = DeviceQuantiser(layer, torch.device(device)).quantise(torch.from_numpy(latents).to(device))
    found = [stored.values_BTD, stored.scales_BT]
    return [stored.fits_B.cpu().numpy(), *(tensor.cpu().numpy() for tensor in found if tensor is not None)]


def check_same(latents: Latents, layer: Layer, device: str) -> None:
    """The device stores what NumPy stores, row by row, and refuses the rows that NumPy refuses."""
    fits, *found = by_device(latents, layer, device)
    for row in range(len(latents)):
        try:
            with np.errstate(invalid="ignore"):
                wanted = [array for array in quantise(latents[row : row + 1], layer, 0) if array is not None]
        except LatentError:
            assert not fits[row]
            continue
        if not np.isfinite(latents[row]).all():
            assert not fits[row], "NumPy leaves fp32 to `check_finite`"
            continue
        assert fits[row]
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype
            assert one[row : row + 1].tobytes() == other.tobytes()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@given(latents=arrays(np.float32, (3, 2, 5), elements=st.floats(width=32)))
@example(latents=np.full((3, 2, 5), 65519.996, np.float32))
@example(latents=np.full((3, 2, 5), 1e-45, np.float32))
@settings(max_examples=200)
def test_the_device_stores_the_bits_that_numpy_stores_whatever_the_latents(
    device: str, dtype: str, latents: Latents
) -> None:
    finite = np.where(np.isfinite(latents), latents, 0)
    check_same(latents, layer_of(dtype, channel_scale(finite), (2, 5)), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_so_it_does_with_a_million_values_of_a_vit_like_spread(device: str, dtype: str) -> None:
    latents = np.random.default_rng(0).standard_normal((8, 196, 768)).astype(np.float32)
    latents[..., [3, 77]] = 50 + latents[..., [3, 77]] / 2
    latents[:, ::7] *= np.float32(1e-6)
    check_same(latents, layer_of(dtype, channel_scale(latents), (196, 768)), device)


def into(layer: Layer, rows: int) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {layer.name: np.zeros((rows, *layer.shape), layer.dtype)}
    if layer.dtype == "int8":
        found["scales/t"] = np.zeros((rows, layer.shape[0]), np.float32)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_a_shard_holds_what_the_teacher_says_of_each_of_its_rows(dtype: str, batch_size: int) -> None:
    teacher = load_teacher(TINY, 32)
    pixels = np.random.default_rng(0).integers(0, 255, (7, 1, 32, 32), np.uint8)
    said = compute_latents(teacher, pixels, np.arange(7), batch_size)
    layer = layer_of(dtype, channel_scale(said))
    found = into(layer, 7)
    LatentComputer(Alone(teacher), [layer], batch_size).compute(pixels, EXIST, 0, found).wait()
    wanted = [array for array in quantise(said, layer, 0) if array is not None]
    for one, other in zip(found.values(), wanted, strict=True):
        assert one.tobytes() == other.tobytes()


class _Spoiled:
    """A teacher one of whose latents can't be stored, of the fifth image."""

    def __init__(self, teacher: Teacher, value: float) -> None:
        self.name, self.grid, self.dim, self.device = teacher.name, teacher.grid, teacher.dim, teacher.device
        self.teacher, self.value, self.asked = teacher, value, 0

    def __call__(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        latents_BTD = self.teacher(pixels_BCSS)
        place = 4 - self.asked
        self.asked += len(latents_BTD)
        if 0 <= place < len(latents_BTD):
            latents_BTD[place, 2, 9] = self.value
        return latents_BTD


def spoiled(value: float) -> Teacher:
    return cast("Teacher", _Spoiled(load_teacher(TINY, 32), value))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("dtype", "value", "said"),
    [
        ("float32", np.nan, "the teacher gave nan in token 2, channel 9, which is not finite"),
        ("float16", -np.inf, "the teacher gave -inf in token 2, channel 9, which is not finite"),
        ("float16", 1e5, "a latent of 100000 does not fit fp16"),
        ("int8", np.inf, "the teacher gave inf in token 2, channel 9, which is not finite"),
        ("int8", 3e38, "1e38 times"),
    ],
)
def test_what_can_not_be_stored_is_named_by_row_and_value_in_whichever_batch(
    dtype: str, value: float, said: str, batch_size: int
) -> None:
    pixels = np.zeros((7, 1, 32, 32), np.uint8)
    layer = layer_of(dtype, (1e-3,) * D)
    with pytest.raises(LatentError, match=rf"row 104: .*{said}"):
        LatentComputer(Alone(spoiled(value)), [layer], batch_size).compute(pixels, EXIST, 100, into(layer, 7)).wait()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_hole_is_refused_nothing_and_changes_no_bit_of_the_rows_beside_it(dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (7, 1, 32, 32), np.uint8)
    layer, exists = layer_of(dtype), EXIST.copy()
    exists[4] = False
    found, wanted = into(layer, 7), into(layer, 7)
    LatentComputer(Alone(spoiled(np.nan)), [layer], 3).compute(pixels, exists, 100, found).wait()
    LatentComputer(Alone(load_teacher(TINY, 32)), [layer], 3).compute(pixels, EXIST, 100, wanted).wait()
    for name, array in found.items():
        assert array[exists].tobytes() == wanted[name][exists].tobytes()


def test_a_row_that_can_not_be_stored_is_named_though_a_hole_comes_before_it() -> None:
    layer, exists = layer_of("float16"), np.array([False] * 4 + [True] * 3)
    computer = LatentComputer(Alone(spoiled(np.nan)), [layer], 7)
    pending = computer.compute(np.zeros((7, 1, 32, 32), np.uint8), exists, 100, into(layer, 7))
    with pytest.raises(LatentError, match="row 104: the teacher gave nan"):
        pending.wait()


def test_the_teacher_is_not_run_over_a_batch_of_holes_alone() -> None:
    teacher, layer = spoiled(0.0), layer_of("float16")
    exists = np.array([False, False, False, True, True, True, False])
    LatentComputer(Alone(teacher), [layer], 3).compute(
        np.zeros((7, 1, 32, 32), np.uint8), exists, 0, into(layer, 7)
    ).wait()
    assert cast("_Spoiled", teacher).asked == 3


def test_a_refused_batch_is_refused_by_whoever_waits_and_by_who_asks_on() -> None:
    pixels, layer = np.zeros((7, 1, 32, 32), np.uint8), layer_of("float16")
    computer = LatentComputer(Alone(spoiled(np.nan)), [layer], 7)
    pending = computer.compute(pixels, EXIST, 0, into(layer, 7))
    for _ in range(2):
        with pytest.raises(LatentError, match="row 4"):
            pending.wait()
    # Beside the one that nobody waited for: two may be in flight.
    computer.compute(pixels, EXIST, 7, into(layer, 7))
    with pytest.raises(LatentError, match="row 4"):
        computer.compute(pixels, EXIST, 14, into(layer, 7))


def test_a_device_that_refuses_what_the_processor_stores_is_not_believed() -> None:
    form = DeviceQuantiser(layer_of("float16"), torch.device("cpu"))
    with pytest.raises(LatentError, match=r"row 3: .*the device's memory or its driver is at fault"):
        form.refuse(torch.zeros(2, T, D), 3)


def test_a_device_that_failed_while_it_was_waited_for_is_not_taken_for_latents_by_the_next_who_waits() -> None:
    class Failed:
        def synchronize(self) -> None:
            raise RuntimeError("CUDA error: unspecified launch failure")

    layer = layer_of("float16")
    pending = LatentComputer(Alone(load_teacher(TINY, 32)), [layer], 4).compute(
        np.zeros((4, 1, 32, 32), np.uint8), EXIST[:4], 0, into(layer, 4)
    )
    pending._batches[0]._arrived = Failed()  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="launch failure"):
            pending.wait()


def test_two_batches_are_under_way_from_shard_to_shard_and_the_oldest_is_waited_for_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[tuple[str, int]] = []
    real_init, real_receive = computing._Batch.__init__, computing._Batch.receive

    def init(batch: Any, run: Pass, wanted: Any, pixels: Any, exists: Any, first_row: int, quantisers: Any) -> None:
        events.append(("asked", first_row))
        real_init(batch, run, wanted, pixels, exists, first_row, quantisers)

    def receive(batch: Any) -> None:
        events.append(("received", batch._first_row))
        real_receive(batch)

    monkeypatch.setattr(computing._Batch, "__init__", init)
    monkeypatch.setattr(computing._Batch, "receive", receive)
    layer, pixels = layer_of("float16"), np.zeros((4, 1, 32, 32), np.uint8)
    computer = LatentComputer(Alone(load_teacher(TINY, 32)), [layer], 2)
    first = computer.compute(pixels, EXIST[:4], 0, into(layer, 4))
    assert events == [("asked", 0), ("asked", 2)]
    computer.compute(pixels, EXIST[:4], 4, into(layer, 4))
    assert events[2:] == [("received", 0), ("asked", 4), ("received", 2), ("asked", 6)]
    first.wait()
    assert events[6:] == [("received", 0), ("received", 2)]
