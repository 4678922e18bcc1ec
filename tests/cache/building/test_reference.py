"""A teacher that gives other tokens than its authors' code is refused before anything is scanned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from tests.support.authors import Plan, tokens, weights
from tests.support.builds import SMALL
from usjepa.cache.cli import main
from usjepa.cache.reading.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

PLAN = Plan(width=48, heads=12, size=32)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A checkpoint, and tokens that its authors' code gave for three images."""
    w = weights(PLAN)
    torch.save(w, tmp_path / "w.pth")
    pixels = torch.randint(0, 256, (3, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    given = (pixels / 255.0 - mean.reshape(1, 3, 1, 1)) / std.reshape(1, 3, 1, 1)
    save_file({"pixels": pixels, "tokens": tokens(PLAN, w, given).contiguous()}, tmp_path / "r.safetensors")
    return tmp_path


def build(lab: Path, *more: str, teacher: str = "tinyusfm={}", reference: str = "r.safetensors") -> Result:
    sets = [part for one in (*SMALL, "cache.teacher.image_size=32") for part in ("--set", one)]
    named = ("--teacher", teacher.format(lab / "w.pth"), "--reference", str(lab / reference))
    return CliRunner().invoke(main, ["build", str(lab / "s.zarr"), "--pipeline", "demo", *named, *sets, *more])


def test_a_teacher_that_agrees_is_built_and_its_reference_is_kept(lab: Path) -> None:
    done = build(lab)
    assert done.exit_code == 0, done.output
    assert "latents/tinyusfm" in open_store(str(lab / "s.zarr")).layers
    kept = load_file(lab / "s.zarr/references/tinyusfm.safetensors")
    assert torch.equal(kept["tokens"], load_file(lab / "r.safetensors")["tokens"])
    assert CliRunner().invoke(main, ["verify", str(lab / "s.zarr")]).exit_code == 0
    assert build(lab).exit_code == 0


@pytest.mark.parametrize("wrong", ["cache.teacher.mean=[0.5, 0.5, 0.5]", "cache.teacher.args={num_heads: 4}"])
def test_one_that_differs_is_refused_and_no_store_is_begun(lab: Path, wrong: str) -> None:
    done = build(lab, "--set", wrong)
    assert done.exit_code == 1
    assert "gives other tokens than its authors' code: smallest cosine" in done.output
    assert not (lab / "s.zarr").exists()


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("none.safetensors", "no such file"),
        ("w.pth", "no safetensors file with `pixels` and `tokens`"),
        ("short.safetensors", "wanted are pixels"),
        ("other.safetensors", "are they patch tokens alone"),
        ("longer.safetensors", "lengths apart by 50% (wanted: a cosine of 0.999, lengths within 5%)"),
        ("none of them.safetensors", "of one image or more"),
        ("whole numbers.safetensors", "torch.int32; wanted are"),
    ],
)
def test_a_reference_that_can_not_be_compared_is_named(lab: Path, file: str, told: str) -> None:
    held = load_file(lab / "r.safetensors")
    save_file({**held, "pixels": held["pixels"][:, :, :16].contiguous()}, lab / "short.safetensors")
    save_file({**held, "tokens": held["tokens"][:, 1:].contiguous()}, lab / "other.safetensors")
    save_file({**held, "tokens": held["tokens"] * 2}, lab / "longer.safetensors")
    save_file({name: tensor[:0] for name, tensor in held.items()}, lab / "none of them.safetensors")
    save_file({**held, "tokens": held["tokens"].int()}, lab / "whole numbers.safetensors")
    done = build(lab, reference=file)
    assert done.exit_code in (1, 2)
    assert told.lower() in " ".join(done.output.split()).lower()
