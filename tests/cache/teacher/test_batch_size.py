"""A batch size is found without dying of memory, on a pretended GPU: what fits, what is worth it, what is kept."""

from __future__ import annotations

import json
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from usjepa.cache.building import latent_job
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.errors import TeacherError
from usjepa.cache.recipes.cache import TeacherSettings
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.teacher import batch_size
from usjepa.cache.teacher.batch_size import _find_batch_size, choose_batch_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from usjepa.cache.teacher.teacher import Pass


def device(fits: int, saturates: int) -> tuple[Callable[[int], float], list[int]]:
    """Return a device whose memory takes `fits` images and whose speed grows up to `saturates` of them."""
    tried = []

    def rows_per_s(rows: int) -> float:
        tried.append(rows)
        if rows > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return float(min(rows, saturates))

    return rows_per_s, tried


@pytest.mark.parametrize(
    ("fits", "saturates", "expected"),
    [(10_000, 10_000, 1024), (10_000, 100, 128), (300, 10_000, 128), (5, 10_000, 2), (1, 1, 1)],
    ids=["grows to the end", "no faster beyond", "out of memory at 512", "at 8", "one fits"],
)
def test_the_size_found_fits_with_room_to_spare_and_is_worth_its_memory(
    fits: int, saturates: int, expected: int
) -> None:
    rows_per_s, tried = device(fits, saturates)
    recovered = []
    assert _find_batch_size(rows_per_s, lambda: recovered.append(1)) == expected
    assert expected <= fits
    assert len(recovered) == sum(rows > fits for rows in tried) <= 1


def test_a_device_that_takes_no_image_at_all_is_an_error_and_not_a_crash() -> None:
    rows_per_s, _ = device(0, 1)
    with pytest.raises(TeacherError, match="not even one image fits"):
        _find_batch_size(rows_per_s, lambda: None)


def test_an_error_that_is_not_about_memory_is_not_swallowed() -> None:
    def rows_per_s(rows: int) -> float:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        _find_batch_size(rows_per_s, lambda: None)


def test_the_recipes_size_comes_first_then_the_one_the_store_was_begun_with() -> None:
    teacher: Any = SimpleNamespace(device=torch.device("cpu"))
    kept: list[dict[str, Any]] = [{"torch": "2"}, {"torch": "2", "batch_size": 96}]
    assert choose_batch_size(teacher, TeacherSettings(batch_size=7), 1, 32, kept) == (7, {})
    assert choose_batch_size(teacher, TeacherSettings(), 1, 32, kept) == (96, {"batch_size": 96})
    assert choose_batch_size(teacher, TeacherSettings(), 1, 32, []) == (32, {})


class _Gpu:
    """A pretended GPU whose memory takes the answers to 40 images."""

    device = torch.device("cpu")
    held = 0

    def __call__(self, pixels_BCSS: torch.Tensor) -> torch.Tensor:
        rows = len(pixels_BCSS)
        if self.held + rows > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        answer = torch.zeros(rows, 4, 192)
        self.held += rows
        weakref.finalize(answer, self.free, rows)
        return answer

    def free(self, rows: int) -> None:
        self.held -= rows


def test_a_size_that_was_found_is_kept_in_the_commits_and_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU that is pretended for the search alone; the build itself runs on the CPU."""
    recipe = load_recipe(
        "demo", ["cache.teacher.depth=1", "cache.phantom.patients=3", "cache.image_size=32", "cache.rows_per_shard=8"]
    )
    tried = []

    def search(rows_per_s: object, recover: object) -> int:
        tried.append(1)
        return 5

    def choose(
        teacher: object, settings: TeacherSettings, channels: int, size: int, kept: Iterable[Mapping[str, Any]]
    ) -> batch_size.Choice:
        cuda: Any = SimpleNamespace(device=torch.device("cuda"))
        return choose_batch_size(cuda, settings.model_copy(update={"batch_size": None}), channels, size, kept)

    monkeypatch.setattr(batch_size, "_find_batch_size", search)
    monkeypatch.setattr(latent_job, "choose_batch_size", choose)
    store = str(tmp_path / "s")
    build(store, recipe, BuildRequest(source="phantom", teacher="random"))
    shard = next((tmp_path / "s/latents").glob("*/c.0.*"))
    commit = tmp_path / "s/commits/latents" / shard.parent.name / "000000.json"
    assert json.loads(commit.read_text())["soft"]["batch_size"] == 5
    before = shard.read_bytes()
    shard.unlink()
    commit.unlink()
    build(store, recipe, BuildRequest(source="phantom", teacher="random"))
    assert shard.read_bytes() == before
    assert tried == [1]


def test_a_trial_holds_two_answers_as_a_build_does() -> None:
    teacher = _Gpu()
    trial = batch_size._trial(cast("Pass", teacher), 1, 32)
    assert trial(20) > 0
    assert teacher.held == 0
    with pytest.raises(torch.OutOfMemoryError):
        trial(21)  # one answer would fit
