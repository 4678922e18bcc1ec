"""A build goes on under other library versions only if they give the stored numbers again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.builds import small, tree
from usjepa.cache.building import build as build_module
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import IdentityError
from usjepa.cache.frames import rows as pixels_module
from usjepa.cache.frames.views import apply_view
from usjepa.cache.teacher.vit import ViT
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def half(tmp_path: Path, small_store: Path) -> Path:
    """Return a store whose last shard is not built."""
    root = tmp_path / "s"
    shutil.copytree(small_store, root)
    for name in ("pixels/c.2.0.0.0", "regions/c.2.0", "latents/demo/c.2.0.0", "manifest.json"):
        (root / name).unlink()
    shutil.rmtree(root / "manifests")
    return root


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install later versions of the libraries, as far as the build can tell."""
    monkeypatch.setattr(build_module, "pixel_soft", lambda: {"opencv-python-headless": "99.0"})
    monkeypatch.setattr(ViT, "soft", {"torch": "99.0", "device": "cpu"})


@pytest.mark.usefixtures("later")
def test_equal_numbers_are_recorded_as_such_and_the_build_goes_on(
    half: Path, small_store: Path, said: list[str]
) -> None:
    manifest = build(str(half), small(), BuildRequest(teacher="random"))
    reported = "\n".join(said)
    assert "8 rows of pixels made again, equal" in reported
    assert "8 rows of latents/demo computed again, relative error 0" in reported
    assert manifest is not None
    assert [first for first, _ in manifest.soft["latents/demo"]] == [0, 2]
    assert verify(str(half)).damages == []
    assert tree(half)["latents/demo/c.2.0.0"] == tree(small_store)["latents/demo/c.2.0.0"]


def _louder(factor: float) -> Any:
    real = ViT.__call__
    return lambda self, pixels: real(self, pixels) * factor


@pytest.mark.usefixtures("later")
def test_latents_that_differ_within_tolerance_go_on_and_beyond_it_are_refused(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(half)
    with monkeypatch.context() as patch:
        patch.setattr(ViT, "__call__", _louder(1.1))
        with pytest.raises(IdentityError, match=r"computed again differ by .* \(tolerance 0\.005\)"):
            build(str(half), small(), BuildRequest(teacher="random"))
    assert tree(half) == before
    monkeypatch.setattr(ViT, "__call__", _louder(1.0005))
    assert build(str(half), small(), BuildRequest(teacher="random")) is not None


@pytest.mark.usefixtures("later")
def test_pixels_that_come_out_differently_are_refused_and_the_row_named(
    half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = tree(half), apply_view

    def brighter(*args: Any) -> Any:
        image, region = real(*args)
        return (image // 2, region)

    monkeypatch.setattr(pixels_module, "apply_view", brighter)
    with pytest.raises(IdentityError, match=r"row \d+ cut again differs from the stored one by \d+ grey levels"):
        build(str(half), small(), BuildRequest(teacher="random"))
    assert tree(half) == before


def test_without_a_change_nothing_is_asked_again(half: Path, said: list[str]) -> None:
    build(str(half), small(), BuildRequest(teacher="random"))
    assert not [line for line in said if "again" in line]
