"""A store as a plain torch Dataset: the store's own bytes, whoever reads them and however often."""

from __future__ import annotations

import os
import pickle
import re
import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.conftest import ROOT
from tests.support.files.damage import flip
from tests.support.processes import forked
from tests.support.processes.commands import run_python
from tests.support.processes.forked import in_own_process
from tests.support.several import cut
from usjepa.cache.errors import DamageError, UsageError
from usjepa.cache.frames.cells import patch_validity
from usjepa.cache.reading.store import open_store
from usjepa.cache.recipes.train import TrainSettings
from usjepa.train import StoreDataset, load_encoder

if TYPE_CHECKING:
    from pathlib import Path


def test_an_item_is_the_stores_row_as_tensors(phantom_store: Path) -> None:
    data = StoreDataset(phantom_store, part="all")
    store = open_store(phantom_store)
    assert len(data) == len(store)
    read = store.read([int(store.rows[7])])
    item = data[7]
    assert int(item["row"]) == int(store.rows[7])
    assert item["pixels"].dtype == torch.uint8
    assert np.array_equal(item["pixels"].numpy(), read.pixels[0])
    assert item["latents"].dtype == torch.float32
    assert torch.equal(item["latents"], read.targets()[0])
    assert np.array_equal(item["valid"].numpy(), patch_validity(read.regions, store.size, 8)[0])


def test_parts_are_those_that_training_would_use(phantom_store: Path) -> None:
    settings = TrainSettings(validation_fraction=0.4)
    train, held = (StoreDataset(phantom_store, part, settings=settings) for part in ("train", "validation"))
    table = train.store.table
    of_train, of_held = (set(table.group[data.positions]) for data in (train, held))
    assert of_train
    assert of_held
    assert not of_train & of_held
    assert set(table.split[np.r_[train.positions, held.positions]]) & {"test"} == set()
    assert set(table.view[held.positions]) == {0}
    assert set(table.view[train.positions]) == {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
@in_own_process
def test_workers_of_every_start_method_read_the_same(phantom_store: Path, method: str) -> None:
    data = StoreDataset(phantom_store, part="all")
    expected = torch.stack([data[i]["latents"] for i in range(len(data))])  # the store is open when workers start
    loader = DataLoader(data, batch_size=25, num_workers=2, multiprocessing_context=method)
    batches = list(loader)
    assert torch.equal(torch.cat([batch["latents"] for batch in batches]), expected)
    assert torch.cat([batch["row"] for batch in batches]).tolist() == data.store.rows.tolist()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
@in_own_process
def test_workers_of_several_stores_read_what_those_of_the_whole_read(
    phantom_store: Path, tmp_path: Path, method: str
) -> None:
    whole = StoreDataset(phantom_store)
    parts = StoreDataset(cut(phantom_store, tmp_path, 51, 120))
    expected = whole.__getitems__(range(len(whole)))
    loader = DataLoader(parts, batch_size=25, num_workers=2, multiprocessing_context=method)
    found = list(loader)
    for name in ("row", "pixels", "latents", "valid"):
        assert torch.equal(torch.cat([batch[name] for batch in found]), torch.stack([item[name] for item in expected]))


def test_a_batch_is_read_by_one_call(phantom_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = StoreDataset(phantom_store, part="all")
    asked: list[int] = []
    read = data.store.read
    monkeypatch.setattr(data.store, "read", lambda rows, **named: (asked.append(len(rows)), read(rows, **named))[1])
    batch = next(iter(DataLoader(data, batch_size=24, shuffle=True)))
    assert asked == [24]
    assert batch["pixels"].shape == (24, 1, 32, 32)


def test_a_pickled_dataset_is_small_and_reads_the_same(phantom_store: Path) -> None:
    data = StoreDataset(phantom_store)
    before = data[3]["latents"]
    packed = pickle.dumps(data)
    assert len(packed) < 100_000, "no rows, handles or tables travel to a worker"
    assert torch.equal(pickle.loads(packed)[3]["latents"], before)


@in_own_process
@pytest.mark.slow
def test_damage_is_raised_in_the_worker_and_reaches_the_loop(phantom_store: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "store.zarr"
    shutil.copytree(phantom_store, copy)
    shard = next(path for path in sorted((copy / "latents").rglob("*")) if path.is_file() and path.name[0] == "c")
    flip(shard, 1000)
    loader = DataLoader(StoreDataset(copy, part="all"), batch_size=16, num_workers=1)
    with pytest.raises(DamageError, match="row 0 "):
        list(loader)


def test_wrong_use_is_told(phantom_store: Path) -> None:
    with pytest.raises(UsageError, match="part='test'"):
        StoreDataset(phantom_store, part="test")
    with pytest.raises(UsageError, match="no latents of 'urfm'"):
        StoreDataset(phantom_store, teacher="urfm")
    with pytest.raises(IndexError):
        StoreDataset(phantom_store)[10_000]


@pytest.mark.slow
def test_the_loop_of_the_tutorial_trains_as_printed_and_its_encoder_loads(phantom_store: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "tutorials" / "your-training-loop.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_loop.py").write_text(code)
    done = run_python("my_loop.py", phantom_store, "mine", 4, cwd=tmp_path)
    losses = [float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    model, config = load_encoder(tmp_path / "mine")
    assert (config.architecture, config.model_args["img_size"]) == ("vit_tiny_patch16_224", 32)
    assert not model.training


@pytest.mark.slow
def test_the_example_under_accelerate_runs_in_forty_lines(phantom_store: Path) -> None:
    example = ROOT / "docs" / "examples" / "accelerate_loop.py"
    assert len(example.read_text().splitlines()) <= 40
    done = run_python(example, phantom_store, 2, env={"ACCELERATE_USE_CPU": "true"})
    losses = [float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("step")]
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)


def _lose_a_worker(store: Path) -> None:
    """Torch's handler of SIGCHLD raises wherever the main thread is just then: let it end the process."""
    batches: Any = iter(DataLoader(StoreDataset(store, part="all"), batch_size=2, num_workers=1, timeout=60))
    next(batches)
    os.kill(batches._workers[0].pid, signal.SIGKILL)
    list(batches)


def test_a_worker_killed_in_the_middle_is_told_and_nothing_hangs(phantom_store: Path, tmp_path: Path) -> None:
    assert forked.run(_lose_a_worker, phantom_store, stderr=tmp_path / "stderr") == 1
    # Torch's own error; where the worker died while handing a tensor over, the broken pipe's.
    told = r"RuntimeError: DataLoader worker \(pid.* (killed|exited)|ConnectionResetError|BrokenPipeError|EOFError"
    assert re.search(told, (tmp_path / "stderr").read_text())
