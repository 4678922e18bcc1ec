"""Encoders kept while a run trains: whole at any kill, the same when resumed, loaded in every documented way."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import timm
import torch

from tests.support.processes import forked
from tests.support.runs import numbers, recipe
from usjepa.cache.errors import UsageError, WriteError
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.storage import durable
from usjepa.cache.teacher.exported import check_exported
from usjepa.evaluate.encoders.finished_run import open_run, run_recipe
from usjepa.train.record.export import load_encoder
from usjepa.train.record.front_matter import FrontMatter
from usjepa.train.record.publishing import write_folder
from usjepa.train.run.loop import train

if TYPE_CHECKING:
    from pathlib import Path

KEPT = ("train.keep_encoders=[1]", "train.keep_every=2")


def in_child(store: Path, run: Path, *overrides: str) -> None:
    torch.set_num_threads(1)
    train(str(store), str(run), recipe(*KEPT, *overrides), "cpu")


def killed(store: Path, run: Path, at: int) -> None:
    forked.die_at_durable_step(at)
    in_child(store, run)


@pytest.fixture(scope="module")
def run(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept") / "run"
    assert forked.run(in_child, phantom_store, folder) == 0
    return folder


def encoders(run: Path) -> dict[str, bytes]:
    """The weights of each kept encoder, which must be whole."""
    found = {}
    for folder in sorted((run / "encoders").glob("[!.]*")):
        content = check_exported(folder, json.loads((folder / "config.json").read_bytes())["files"])
        assert content["usjepa"]["kept"]["name"] == folder.name
        found[folder.name] = (folder / "model.safetensors").read_bytes()
    return found


def test_encoders_of_the_named_epochs_and_of_every_second_are_kept_and_differ(run: Path) -> None:
    kept = encoders(run)
    assert list(kept) == ["epoch-0001", "epoch-0002"]
    assert kept["epoch-0001"] != kept["epoch-0002"]


def test_a_kept_encoder_loads_by_timm_by_evaluate_as_a_teacher_and_for_the_hub(run: Path, tmp_path: Path) -> None:
    folder = run / "encoders" / "epoch-0002"
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours = load_encoder(folder)[0]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(model(images), ours(images))
    found = open_run(folder)
    assert found.name == "run-epoch-0002"
    assert found.sources
    assert run_recipe(folder) == run_recipe(run)
    card = (folder / "README.md").read_text()
    assert "the last step of epoch 2" in card
    assert "lowest" not in card
    assert len(write_folder(folder, tmp_path / "hub", FrontMatter("mit"))) == 5


def test_what_is_kept_changes_no_loss_and_no_export(run: Path, phantom_store: Path, tmp_path: Path) -> None:
    assert forked.run(plain, phantom_store, tmp_path / "run") == 0
    assert numbers(tmp_path / "run") == numbers(run)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert not (tmp_path / "run" / "encoders").exists()


def plain(store: Path, run: Path) -> None:
    torch.set_num_threads(1)
    train(str(store), str(run), recipe(), "cpu")


OF_AN_ENCODER = range(33, 58)
"""Durable steps between the checkpoint of the first epoch and the next, all but the last few of a kept encoder."""
QUICK = (48, 53)
"""Its weights have no name yet; its folder has none."""


@pytest.mark.parametrize(
    "at", [at if at in QUICK else pytest.param(at, marks=pytest.mark.slow) for at in OF_AN_ENCODER]
)
def test_a_run_killed_while_it_keeps_an_encoder_leaves_whole_ones_and_ends_with_the_same(
    run: Path, phantom_store: Path, tmp_path: Path, at: int
) -> None:
    assert forked.run(killed, phantom_store, tmp_path / "run", at) == -9
    assert encoders(tmp_path / "run").items() <= encoders(run).items()
    assert forked.run(in_child, phantom_store, tmp_path / "run") == 0
    assert encoders(tmp_path / "run") == encoders(run)
    assert sorted(path.name for path in (tmp_path / "run" / "encoders").iterdir()) == ["epoch-0001", "epoch-0002"]


def test_a_kept_encoder_of_another_past_or_with_a_flipped_bit_is_written_again_where_the_run_stands(
    run: Path, phantom_store: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    train(str(phantom_store), str(copy), recipe("train.keep_every=3"), "cpu")  # asked for when it was finished
    last = copy / "encoders" / "epoch-0003"
    whole = (last / "model.safetensors").read_bytes()
    (last / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (last / "README.md").write_text("edited")
    train(str(phantom_store), str(copy), recipe("train.keep_every=3"), "cpu")
    assert (last / "model.safetensors").read_bytes() == whole
    (last / "README.md").write_text("edited")
    train(str(phantom_store), str(copy), recipe("train.keep_every=3"), "cpu")
    assert (last / "README.md").read_text() == "edited"


def test_epochs_that_are_past_are_said_not_to_be_kept(phantom_store: Path, tmp_path: Path, said: list[str]) -> None:
    train(str(phantom_store), str(tmp_path / "run"), recipe(), "cpu", stop_after_steps=12)
    train(str(phantom_store), str(tmp_path / "run"), recipe("train.keep_every=1"), "cpu", stop_after_steps=1)
    assert any("the encoders of epochs 1, 2 are not kept: the run is past them" in line for line in said)


def test_an_epoch_that_never_comes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"keep_encoders.* must name epochs from 1 to 3"):
        recipe("train.keep_encoders=[1, 4]")
    with pytest.raises(UsageError, match=r"keep_every.* keeps none of 3 epochs"):
        recipe("train.keep_every=4")
    with pytest.raises(UsageError, match=r"keep_encoders"):
        load_recipe("demo", ("train.keep_encoders=[0]",))


def test_a_disk_full_of_kept_encoders_ends_with_a_message_and_the_run_goes_on_from_there(
    run: Path, phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.write_all

    def full(handle: int, view: memoryview) -> None:
        if "encoders" in os.readlink(f"/proc/self/fd/{handle}") and view.nbytes > 100_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle, view)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "write_all", full)
        with pytest.raises(WriteError, match=r"no room for [\d,]+ bytes .*free some space and run the same command"):
            train(str(phantom_store), str(tmp_path / "run"), recipe(*KEPT), "cpu")
    assert list((tmp_path / "run" / "encoders").iterdir()) == []
    assert forked.run(in_child, phantom_store, tmp_path / "run") == 0
    assert list(encoders(tmp_path / "run")) == list(encoders(run))


def test_too_little_room_for_all_that_is_kept_is_said_before_the_first_step(
    phantom_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    train(str(phantom_store), str(tmp_path / "run"), recipe(*KEPT), "cpu", stop_after_steps=1)
    assert any("2 encoders are still to be kept, 1 MB each, and 0.0 GB are free" in line for line in said)
