"""The demo recipe's first losses are pinned: a change of rows, masks, model, schedule or loss shows here.

`python -m tests.train.run.test_golden_losses` wrote the file. Write it again only when a change is meant to change
training, and say so in the changelog. Rows, masks, rates are exact; losses may differ in the last digits between kinds
of CPU.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.stores import tables
from usjepa.cache.recipes.recipe import load_recipe
from usjepa.cache.storage.local import LocalStorage
from usjepa.cache.store.layers import Layer
from usjepa.cache.store.writer import StoreWriter
from usjepa.train.record.log import read_log
from usjepa.train.run.loop import train

GOLDEN = Path(__file__).parents[2] / "golden" / "demo-losses.json"
SIZE, TOKENS, DIM, ROWS = 112, 49, 24, 120
STEPS = 6
RELATIVE = 1e-3
"""Between kinds of CPU the sums of a step differ by 1e-6; six steps of AdamW make more of that."""


def made_store(root: Path, rows: int = ROWS) -> Path:
    """Write a store whose every byte is a formula of small integers: the same on any machine."""
    writer = StoreWriter(LocalStorage(root))
    writer.create_or_open(32)
    writer.add_segment(*tables(rows), rows)
    row, down, across = np.ogrid[:rows, :SIZE, :SIZE]
    pixels = (down * (row % 7 + 1) + across * (row % 5 + 2) + row * 3) % 256
    token, channel = np.ogrid[:TOKENS, :DIM]
    latents = ((token * 37 + channel * 11 + np.arange(rows)[:, None, None] * 5) % 200 - 100) / 64
    whole = np.full((rows, SIZE * SIZE // 32), 255, np.uint8)
    layers = [
        (Layer("pixels", "uint8", (1, SIZE, SIZE), 32, {"golden": 1}), pixels[:, None].astype(np.uint8)),
        (Layer("regions", "uint8", (SIZE * SIZE // 32,), 32, {"golden": 1}), whole),
        (Layer("latents/golden", "float16", (TOKENS, DIM), 32, {"golden": 1}), latents.astype(np.float16)),
    ]
    for layer, content in layers:
        writer.add_layer(layer)
        for shard in range(writer.state.shard_count):
            numbers = writer.state.rows_of_shard(shard)
            writer.write_shard(layer, shard, content[numbers.start : numbers.stop], [], {})
    writer.seal()
    return root


def first_steps(folder: Path, recipe: str) -> list[dict[str, Any]]:
    """What the log tells of the recipe's first steps, times aside."""
    store = made_store(folder / "store.zarr")
    train(str(store), str(folder / recipe), load_recipe(recipe), "cpu", stop_after_steps=STEPS)
    kept = ("step", "epoch", "images", "batch", "lr", "wd", "loss")
    lines = [line for line in read_log(folder / recipe / "log.jsonl") if line["kind"] == "step"]
    return [{name: value for name, value in line.items() if name in kept} for line in lines]


@pytest.mark.parametrize("recipe", ["demo", "demo-teacher"])
def test_the_demo_recipes_first_losses_are_those_of_the_golden_file(tmp_path: Path, recipe: str) -> None:
    golden, found = json.loads(GOLDEN.read_text())[recipe], first_steps(tmp_path, recipe)
    assert len(found) == len(golden) == STEPS
    for mine, theirs in zip(found, golden, strict=True):
        loss, expected = mine.pop("loss"), theirs.pop("loss")
        rates = {name: (mine.pop(name), theirs.pop(name)) for name in ("lr", "wd")}
        assert mine == theirs
        assert all(a == pytest.approx(b, rel=1e-12) for a, b in rates.values())
        assert loss == pytest.approx(expected, rel=RELATIVE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        steps = {name: first_steps(Path(temporary) / name, name) for name in ("demo", "demo-teacher")}
    GOLDEN.write_text(json.dumps(steps, indent=1) + "\n")
