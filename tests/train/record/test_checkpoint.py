"""Checkpoints: whole or not there, the last two kept, damage told, never a silent start over."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from usjepa.cache.errors import TrainingError
from usjepa.train.record.checkpoint import Checkpoints, RunProgress

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def progress(step: int) -> RunProgress:
    return RunProgress(
        step, step // 10, {"train": {"lr": 1e-4}}, {"generation": 1, "digest": "d"}, None, {"torch": "x"}
    )


def tensors(step: int) -> dict[str, torch.Tensor]:
    return {"model.w": torch.full((3, 5), float(step)), "optimizer.step.w": torch.tensor(float(step))}


@pytest.fixture
def kept(tmp_path: Path, said: list[str]) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "state")
    for step in (10, 20, 30):
        checkpoints.save(tensors(step), progress(step))
    return checkpoints


def reopened(kept: Checkpoints, said: list[str]) -> Checkpoints:
    return Checkpoints(kept.folder)


def newest(checkpoints: Checkpoints) -> tuple[RunProgress, dict[str, torch.Tensor]]:
    """Return the newest whole checkpoint, which must be there."""
    found = checkpoints.newest(begun=True)
    assert found is not None
    return found


def test_what_is_read_back_is_what_was_saved(kept: Checkpoints, said: list[str]) -> None:
    found, state = newest(reopened(kept, said))
    assert found == progress(30)
    assert all(torch.equal(state[name], value) for name, value in tensors(30).items())
    assert not said


def test_two_checkpoints_are_kept_as_safetensors_and_json(kept: Checkpoints) -> None:
    names = sorted(path.name for path in kept.folder.iterdir())
    assert names == [f"step-000000{step}.{kind}" for step in (20, 30) for kind in ("json", "safetensors")]
    assert load_file(kept.folder / names[1])["model.w"][0, 0] == 20
    assert json.loads((kept.folder / names[0]).read_text())["progress"]["step"] == 20


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, empty, flip, remove])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before_and_this_is_said(
    kept: Checkpoints, said: list[str], damage: Callable[[Path], None], kind: str
) -> None:
    damage(kept.folder / f"step-00000030.{kind}")
    checkpoints = reopened(kept, said)
    found, state = newest(checkpoints)
    assert (found.step, float(state["model.w"][0, 0])) == (20, 20.0)
    if (damage, kind) != (remove, "json"):
        assert "step-00000030" in said[0]
    checkpoints.save(tensors(25), progress(25))
    assert {path.stem for path in kept.folder.iterdir()} == {"step-00000020", "step-00000025"}


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_run_without_a_whole_checkpoint_stops_and_never_starts_over(
    kept: Checkpoints, said: list[str], kind: str
) -> None:
    for path in kept.folder.glob(f"*.{kind}"):
        cut(path)
    with pytest.raises(TrainingError, match="none of its 2 checkpoints can be read"):
        reopened(kept, said).newest(begun=False)


def test_a_run_that_has_begun_and_lost_its_checkpoints_stops(tmp_path: Path, said: list[str]) -> None:
    checkpoints = Checkpoints(tmp_path / "state")
    assert checkpoints.newest(begun=False) is None
    with pytest.raises(TrainingError, match="the run has begun"):
        checkpoints.newest(begun=True)


def test_a_checkpoint_of_a_newer_format_is_refused_by_its_number(
    kept: Checkpoints, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usjepa.train.record.checkpoint._FORMAT", 2)
    kept.save(tensors(40), progress(40))
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="has checkpoint format 2"):
        reopened(kept, said).newest(begun=True)


def test_a_save_that_dies_at_any_durable_step_leaves_a_whole_checkpoint(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(BaseException):
        pass

    real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}
    died, seen = 0, set()
    for at in range(1, 40):
        checkpoints = Checkpoints(tmp_path / str(at))
        checkpoints.save(tensors(10), progress(10))
        checkpoints.save(tensors(20), progress(20))
        count = 0

        def dying(name: str, at: int = at) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == at:
                    raise DiedError
                return real[name](*args, **kwargs)

            return call

        for name in real:
            monkeypatch.setattr(os, name, dying(name))
        try:
            checkpoints.save(tensors(30), progress(30))
        except DiedError:
            died += 1
        finally:
            monkeypatch.undo()
        found, state = newest(reopened(checkpoints, said))
        assert float(state["model.w"][0, 0]) == found.step
        seen.add(found.step)
    assert died >= 7
    assert seen == {20, 30}
    assert not said


def test_the_best_encoder_stays_while_a_kept_checkpoint_names_it(kept: Checkpoints, said: list[str]) -> None:
    best = kept.save_best({"w": torch.ones(2)}, 0.5, 30, 2)
    kept.save(tensors(40), replace(progress(40), best=best))
    kept.save(tensors(50), replace(progress(50), best=best))
    assert torch.equal(kept.load_best(best)["w"], torch.ones(2))
    better = kept.save_best({"w": torch.zeros(2)}, 0.4, 60, 5)
    for step in (60, 70):
        kept.save(tensors(step), replace(progress(step), best=better))
    assert [path.name for path in kept.folder.glob("best-*")] == [better.file]
    assert newest(reopened(kept, said))[0].best == better
    flip(kept.folder / better.file)
    with pytest.raises(TrainingError, match="lowest validation loss is lost"):
        kept.load_best(better)
