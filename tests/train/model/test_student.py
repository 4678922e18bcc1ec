"""The student sees what it may see, whatever is padded, and starts from the seed alone."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from usjepa.cache.errors import UsageError
from usjepa.cache.recipes.train import StudentSettings
from usjepa.train.model.initial import sincos_positions
from usjepa.train.model.student import Student

SIZE, PATCH, T = 32, 8, 16


def student(architecture: str = "test_vit", channels: Literal[1, 3] = 3, seed: int = 0) -> Student:
    settings = StudentSettings(architecture=architecture, patch_size=PATCH, channels=channels)
    return Student(settings, SIZE, seed).eval()


def images(count: int = 3, channels: int = 1) -> torch.Tensor:
    return torch.rand(count, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "architecture", ["test_vit", "test_vit2", "vit_tiny_patch16_224", "vit_wee_patch16_reg1_gap_256"]
)
def test_with_everything_visible_the_tokens_are_those_of_plain_timm(architecture: str) -> None:
    model = student(architecture)
    everything = torch.arange(T).expand(3, -1)
    with torch.no_grad():
        whole = model.encode(images())
        grey = (
            images().expand(-1, 3, -1, -1) - torch.tensor((0.485, 0.456, 0.406)).reshape(1, 3, 1, 1)
        ) / torch.tensor((0.229, 0.224, 0.225)).reshape(1, 3, 1, 1)
        torch.testing.assert_close(whole, model.vit.forward_features(grey), rtol=0, atol=0)
        torch.testing.assert_close(model(images(), everything), whole[:, model.prefix :], rtol=0, atol=1e-5)


def test_masked_patches_change_no_bit() -> None:
    model, context = student(), torch.tensor([[0, 3, 5, 10, 15]] * 3)
    hidden = torch.tensor([i for i in range(T) if i not in context[0].tolist()])
    pixels, other = images(), images()
    for patch in hidden.tolist():
        top, left = patch // 4 * PATCH, patch % 4 * PATCH
        other[:, :, top : top + PATCH, left : left + PATCH] = 0.123
    with torch.no_grad():
        assert torch.equal(model(pixels, context), model(other, context))


def test_padding_changes_no_number() -> None:
    model = student()
    lengths = [16, 9, 4]
    context, valid = torch.zeros(3, 16, dtype=torch.int64), torch.zeros(3, 16, dtype=torch.bool)
    for image, length in enumerate(lengths):
        context[image, :length] = torch.arange(T - length, T)
        valid[image, :length] = True
    padded_elsewhere = torch.where(valid, context, torch.tensor(7))
    with torch.no_grad():
        together = model(images(), context, valid)
        # What the padding points at leaves no bit behind; computed alone and unpadded differs by rounding only.
        assert torch.equal(model(images(), padded_elsewhere, valid)[valid], together[valid])
        for image, length in enumerate(lengths):
            alone = model(images()[image : image + 1], context[image : image + 1, :length])[0]
            torch.testing.assert_close(together[image, :length], alone, rtol=0, atol=1e-5)


def test_padding_gets_no_gradient() -> None:
    model = student()
    context = torch.tensor([[1, 2, 3, 0, 0]])
    valid = torch.tensor([[True, True, True, False, False]])
    pixels = images(1).requires_grad_()
    (model(pixels, context, valid)[valid] ** 2).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad[:, :, :PATCH, :PATCH].abs().max() == 0
    assert pixels.grad[:, :, :PATCH, PATCH : 2 * PATCH].abs().max() > 0


def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    first = student().state_dict()
    before = torch.get_rng_state()
    torch.manual_seed(2)
    again = student().state_dict()
    other = student(seed=1).state_dict()
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["vit.blocks.0.attn.qkv.weight"], other["vit.blocks.0.attn.qkv.weight"])


def test_positions_are_distinct_row_major_sines_and_cosines() -> None:
    positions = sincos_positions(32, (4, 5))
    assert positions.shape == (20, 32)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.1
    column, row = positions[:, :16].reshape(4, 5, 16), positions[:, 16:].reshape(4, 5, 16)
    assert torch.equal(column[0], column[3])
    assert torch.equal(row[:, 0], row[:, 4])
    assert torch.allclose(column[0, :, 0], torch.sin(torch.arange(5.0)))
    assert torch.allclose(row[:, 0, 8], torch.cos(torch.arange(4.0)))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"architecture": "vit_bese_patch16_224"}, "timm has no such model"),
        ({"architecture": "resnet18"}, "resnet18"),
        ({"architecture": "vit_tiny_patch16_224", "patch_size": 7}, "do not divide"),
    ],
)
def test_an_encoder_that_cannot_be_a_student_is_refused_by_name(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Student(StudentSettings(**settings), SIZE, 0)


def test_colour_for_a_one_channel_student_is_refused() -> None:
    with pytest.raises(UsageError, match=r"train\.student\.channels=3"):
        student(channels=1).encode(images(channels=3))
