"""Training on several stores: the run that one store gives, known again by all of them, in their order."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from tests.cache.thinning.test_collect import generations
from tests.support.files.damage import flip
from tests.support.processes import forked
from tests.support.processes.flaky_s3 import s3_behind_proxy
from tests.support.runs import EVERY_STEP, STEPS, TINY_RUN, TINY_STORE, losses, numbers, recipe
from tests.support.several import cut
from tests.train.run.test_ranks import command, run_ranks, same_draws
from usjepa.cache import open_store, open_stores
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.converting.convert import convert
from usjepa.cache.copying.copy import copy_store
from usjepa.cache.errors import DamageError, IdentityError, WithdrawnError
from usjepa.cache.storage.pins import pins
from usjepa.cache.thinning.collect import collect
from usjepa.cache.thinning.remove import remove
from usjepa.cache.thinning.withdrawal import Choice
from usjepa.train.cli import main
from usjepa.train.record.trained_on import read_hashes
from usjepa.train.run.loop import train
from usjepa.train.run.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS, AT = 120, 51
"""Of the phantom store, and where it is cut: between the two views of a frame."""
SHORT = ("train.epochs=1", "train.warmup_epochs=0")
KINDS = {
    "regions": ("train.masks.regions=true", "train.target_norm=whitened", *SHORT),
    "pixels": ("train.objective=pixels", *SHORT),
    "pairs": ("train.objective=contrast", "train.contrast.positives=group", "train.contrast.hidden=32", *SHORT),
    "online": ("train.targets=online", *SHORT),
}


@pytest.fixture(scope="module")
def parts(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The phantom store cut in two; tests must not change them."""
    return [str(part) for part in cut(phantom_store, tmp_path_factory.mktemp("parts"), AT, ROWS)]


def in_child(stores: Sequence[str], run: Path, overrides: tuple[str, ...]) -> None:
    torch.set_num_threads(1)  # sums are split over threads, and a child may have others
    train(list(stores), str(run), recipe(*overrides), "cpu")


def killed(stores: Sequence[str], run: Path, at: int) -> None:
    forked.die_at_durable_step(at)
    in_child(stores, run, (EVERY_STEP,))


def same_run(one: Path, other: Path) -> None:
    for kind in ("step", "validation"):
        assert numbers(one, kind) == numbers(other, kind)
    mine, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(mine[name].equal(theirs[name]) for name in theirs)
    assert read_hashes(one) == read_hashes(other)


@pytest.fixture(scope="module")
def alone(phantom_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the whole store."""
    run = tmp_path_factory.mktemp("alone") / "run"
    assert forked.run(in_child, [str(phantom_store)], run, ()) == 0
    return run


def test_the_parts_of_a_store_give_bitwise_the_losses_and_weights_of_the_whole(
    parts: list[str], alone: Path, tmp_path: Path
) -> None:
    assert forked.run(in_child, parts, tmp_path / "run", ()) == 0
    same_run(tmp_path / "run", alone)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] if n > 1 else []) for n, kind in enumerate(KINDS)]
)
def test_they_do_so_whatever_is_read_of_them(phantom_store: Path, parts: list[str], tmp_path: Path, kind: str) -> None:
    train(str(phantom_store), str(tmp_path / "whole"), recipe(*KINDS[kind]), "cpu")
    train(parts, str(tmp_path / "parts"), recipe(*KINDS[kind]), "cpu")
    same_run(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
def test_several_int8_layers_of_three_parts_give_bitwise_the_run_of_the_whole(tmp_path: Path) -> None:
    blocks = ("cache.teacher.depth=2", "cache.teacher.blocks=[1, 2]", "cache.precision=int8")
    build(str(tmp_path / "s"), recipe(*blocks), BuildRequest(source="phantom", teacher="random"))
    three = [str(part) for part in cut(tmp_path / "s", tmp_path, 32, 33, ROWS)]
    both = recipe("train.targets=[demo.1, demo.2]", "train.target_norm=standardised", *SHORT)
    train(str(tmp_path / "s"), str(tmp_path / "whole"), both, "cpu")
    train(three, str(tmp_path / "parts"), both, "cpu")
    same_run(tmp_path / "parts", tmp_path / "whole")


def test_a_student_learns_from_int4_on_axes_much_as_from_what_it_was_made_of(
    phantom_store: Path, tmp_path: Path
) -> None:
    store = tmp_path / "s"
    shutil.copytree(phantom_store, store)
    convert(str(store), "int4", axes=96)
    made: dict[str, list[float]] = {}
    parts = [str(part) for part in cut(store, tmp_path, AT, ROWS)]
    for name, stores, layer in (
        ("whole", str(store), "demo"), ("small", str(store), "demo-int4-axes96"), ("parts", parts, "demo-int4-axes96"),
    ):  # fmt: skip
        chosen = recipe(f"train.teacher={layer}", "train.target_norm=none", *SHORT)
        train(stores, str(tmp_path / name), chosen, "cpu", stop_after_steps=2)
        made[name] = losses(tmp_path / name)
    assert made["small"] == pytest.approx(made["whole"], rel=0.1)
    assert made["small"] != made["whole"]
    assert made["parts"] == made["small"], "several stores of one layer read with what it keeps"


def test_a_dataset_is_drawn_up_to_its_cap_from_all_stores_together(parts: list[str]) -> None:
    settings = recipe("train.dataset_cap=16", "train.validation_fraction=0")
    one, both = make_plan(parts[0], settings, "cpu", None), make_plan(parts, settings, "cpu", None)
    assert one.order.length == both.order.length == 16
    drawn = open_stores(parts).part_of(both.store.rows[both.order.rows(0)])
    assert set(drawn.tolist()) == {0, 1}


def test_a_run_killed_and_resumed_gives_bitwise_that_of_the_whole_store(
    parts: list[str], alone: Path, tmp_path: Path
) -> None:
    assert forked.run(killed, parts, tmp_path / "run", 60) == -signal.SIGKILL
    assert 0 < len(losses(tmp_path / "run")) < STEPS
    assert forked.run(in_child, parts, tmp_path / "run", ()) == 0
    same_run(tmp_path / "run", alone)


def test_a_folder_and_a_bucket_give_bitwise_the_run_of_two_folders(parts: list[str], tmp_path: Path) -> None:
    train(parts, str(tmp_path / "folders"), recipe(), "cpu", stop_after_steps=2)
    with s3_behind_proxy("several"):
        copy_store(parts[1], "s3://several/part.zarr")
        train([parts[0], "s3://several/part.zarr"], str(tmp_path / "bucket"), recipe(), "cpu", stop_after_steps=2)
        (note,) = pins(open_store("s3://several/part.zarr").storage)
    assert note.run == str(tmp_path / "bucket")
    assert numbers(tmp_path / "bucket") == numbers(tmp_path / "folders")


@pytest.mark.slow
def test_two_ranks_draw_the_same_and_lose_the_same_within_1e_5(parts: list[str], alone: Path, tmp_path: Path) -> None:
    run_ranks(2, [*parts, *command(tmp_path, tmp_path / "run")[1:]], tmp_path)
    assert same_draws(tmp_path / "run", alone)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), atol=1e-5)


def call(*words: object) -> tuple[int, str]:
    settings = [part for one in (*TINY_STORE, *TINY_RUN) for part in ("--set", one)]
    done = CliRunner().invoke(main, [*map(str, words), "--pipeline", "demo", "--device", "cpu", *settings])
    return done.exit_code, done.output


def test_the_command_takes_stores_and_the_run_last(parts: list[str], tmp_path: Path) -> None:
    code, printed = call(*parts, tmp_path / "run", "--stop-after-steps", "2")
    assert code == 0, printed
    assert "2 stores as one: part-0.zarr (generation 1, 51 rows), part-1.zarr (generation 1, 69 rows)" in printed
    assert len(losses(tmp_path / "run")) == 2


def test_a_store_in_the_place_of_the_run_is_refused_and_not_written_to(parts: list[str], tmp_path: Path) -> None:
    store = shutil.copytree(parts[1], tmp_path / "b.zarr")
    before = sorted(store.rglob("*"))
    for stores in (parts[:1], [parts[0], str(tmp_path / "run")]):
        code, printed = call(*stores, store)
        assert code == 2
        assert "b.zarr: is a store. Give the folder of the run last, behind all stores." in printed
    assert sorted(store.rglob("*")) == before
    code, printed = call(parts[0], "s3://bucket/b.zarr")
    assert code == 2
    assert "RUN comes last" in printed


def test_the_record_the_card_and_the_configuration_name_the_stores_and_no_folder(
    parts: list[str], tmp_path: Path
) -> None:
    train(parts, str(tmp_path / "run"), recipe(*SHORT), "cpu")
    told = json.loads((tmp_path / "run" / "config.json").read_text())["usjepa"]
    stores = [open_store(part) for part in parts]
    assert told["store"]["stores"] == [
        {"name": f"part-{i}.zarr", "generation": 1, "digest": store.digest, "content": store.content_digest()}
        for i, store in enumerate(stores)
    ]
    assert told["identity"]["store"]["digests"] == [store.digest for store in stores]
    card = (tmp_path / "run" / "README.md").read_text()
    for number, store in enumerate(stores):
        assert f"| store {number + 1} of 2 | `part-{number}.zarr`, generation 1, digest `{store.digest}` |" in card
    for name in ("config.json", "README.md", "log.jsonl"):
        assert str(tmp_path) not in (tmp_path / "run" / name).read_text()


@pytest.fixture(scope="module")
def begun(parts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both parts that has begun; tests must not go on with it."""
    run = tmp_path_factory.mktemp("begun") / "run"
    train(parts, str(run), recipe(), "cpu", stop_after_steps=1)
    return run


@pytest.mark.parametrize(
    ("stores", "told"),
    [
        ("ba", ["given: {b}: number 2 of them", "given: {a}: number 1 of them"]),
        ("a", ["given: {a}: number 1 of them", "missing: 2. part-1.zarr (generation 1"]),
        ("b", ["given: {b}: number 2 of them", "missing: 1. part-0.zarr (generation 1"]),
        ("ac", ["given: {a}: number 1 of them", "given: {c}: none of them", "missing: 2. part-1.zarr"]),
        ("abc", ["given: {a}: number 1 of them", "given: {b}: number 2 of them", "given: {c}: none of them"]),
        ("c", ["given: {c}: none of them", "missing: 1. part-0.zarr", "missing: 2. part-1.zarr"]),
    ],
    ids=["another order", "the first alone", "the last alone", "another store", "one more", "another alone"],
)
def test_a_run_that_would_go_on_with_other_stores_is_refused_with_their_names(
    parts: list[str], begun: Path, phantom_store: Path, tmp_path: Path, stores: str, told: list[str]
) -> None:
    places = {"a": parts[0], "b": parts[1], "c": str(phantom_store)}
    run = shutil.copytree(begun, tmp_path / "run")
    with pytest.raises(IdentityError) as caught:
        train([places[letter] for letter in stores], str(run), recipe(), "cpu")
    for line in told:
        assert line.format(**places) in str(caught.value)
    assert "1. part-0.zarr (generation 1, digest " in str(caught.value)


def test_a_run_of_one_store_does_not_go_on_with_two(parts: list[str], tmp_path: Path) -> None:
    train(parts[0], str(tmp_path), recipe(), "cpu", stop_after_steps=1)
    with pytest.raises(IdentityError, match=r"part-1\.zarr: none of them"):
        train(parts, str(tmp_path), recipe(), "cpu")


def test_stores_that_moved_are_the_same_stores(parts: list[str], begun: Path, tmp_path: Path) -> None:
    run = shutil.copytree(begun, tmp_path / "run")
    moved = [str(shutil.copytree(part, tmp_path / f"moved-{i}")) for i, part in enumerate(parts)]
    train(moved, str(run), recipe(), "cpu", stop_after_steps=1)
    assert len(losses(run)) == 2


def phantoms(store: Path, patients: int) -> None:
    """Build a store of other phantoms than those of the parts, or grow it."""
    settings = recipe("cache.phantom.seed=5", f"cache.phantom.patients={patients}")
    build(str(store), settings, BuildRequest(source="phantom", teacher="random"))


@pytest.mark.slow
def test_a_store_that_grows_leaves_a_run_as_it_was_and_is_said_to_be_another_run(
    parts: list[str], tmp_path: Path, said: list[str]
) -> None:
    stores = [parts[0], str(tmp_path / "more.zarr")]
    phantoms(tmp_path / "more.zarr", 3)
    train(stores, str(tmp_path / "still"), recipe(*SHORT), "cpu")
    train(stores, str(tmp_path / "grows"), recipe(*SHORT), "cpu", stop_after_steps=2)
    phantoms(tmp_path / "more.zarr", 4)
    said.clear()
    train(stores, str(tmp_path / "grows"), recipe(*SHORT), "cpu")
    same_run(tmp_path / "grows", tmp_path / "still")
    (note,) = [line for line in said if "has changed since this run began" in line]
    assert "more.zarr: has changed since this run began on its generation 1" in note
    assert "To train on generation 2 (80 rows, not 60) is another run: give another RUN folder." in note
    new = make_plan(stores, recipe(), "cpu", None)
    assert len(new.store) == AT + 80


def test_damage_in_one_store_ends_the_training_with_its_name_and_its_row(parts: list[str], tmp_path: Path) -> None:
    broken = shutil.copytree(parts[1], tmp_path / "broken.zarr")
    for shard in (broken / "pixels").glob("c.*"):
        flip(shard, 100)
    with pytest.raises(DamageError, match=r"broken\.zarr/pixels/c\.\d.*: row \d+ is not what was built.*it is row"):
        train([parts[0], str(broken)], str(tmp_path / "run"), recipe(), "cpu")


def test_rows_in_messages_are_those_of_their_stores(parts: list[str], tmp_path: Path) -> None:
    from usjepa.train.run.opening import named_rows

    assert named_rows(open_stores(parts), [3, 51, 119]) == ["3 of part-0.zarr", "0 of part-1.zarr", "68 of part-1.zarr"]
    assert named_rows(open_store(parts[0]), [3]) == ["3"]


def test_stores_that_do_not_fit_are_refused_and_a_layer_that_is_not_read_does_not_matter(
    parts: list[str], tmp_path: Path
) -> None:
    other = recipe("cache.phantom.seed=5", "cache.teacher.seed=1")
    build(str(tmp_path / "o.zarr"), other, BuildRequest(source="phantom", teacher="random"))
    with pytest.raises(IdentityError, match=r"o\.zarr \(field: part-0\.zarr \| o\.zarr\):\n  latents/demo\.identity"):
        train([parts[0], str(tmp_path / "o.zarr")], str(tmp_path / "run"), recipe(), "cpu")
    assert not (tmp_path / "run").exists()
    train([parts[0], str(tmp_path / "o.zarr")], str(tmp_path / "run"), recipe(*KINDS["pixels"]), "cpu", 1)


def copies(parts: Sequence[str], folder: Path) -> list[str]:
    """Copy the parts, without the notes of runs that other tests left unfinished."""
    return [
        str(shutil.copytree(part, folder / f"{i}.zarr", ignore=shutil.ignore_patterns("pins")))
        for i, part in enumerate(parts)
    ]


def test_each_store_is_pinned_until_the_run_has_ended_and_gc_keeps_what_it_needs(
    parts: list[str], tmp_path: Path
) -> None:
    stores, run = copies(parts, tmp_path), tmp_path / "run"
    train(stores, str(run), recipe(*SHORT), "cpu", stop_after_steps=2)
    for store in stores:
        (note,) = pins(open_store(store).storage)
        assert (note.run, note.generation) == (str(run), 1)
    audit(stores[1])
    assert [manifest.generation for manifest in collect(stores[1]).kept] == [2, 1]
    train(stores, str(run), recipe(*SHORT), "cpu")
    assert not [note for store in stores for note in pins(open_store(store).storage)]
    assert [manifest.generation for manifest in collect(stores[1]).kept] == [2]


def audit(store: str) -> None:
    """Seal a generation that differs in an audit alone."""
    generations(Path(store), 1, "latents/demo")


@pytest.mark.parametrize("number", [0, 1])
def test_gc_and_remove_find_a_run_by_its_folder_whichever_of_its_stores_they_are_given(
    parts: list[str], tmp_path: Path, number: int
) -> None:
    stores, run = copies(parts, tmp_path), tmp_path / "runs" / "run"
    train(stores, str(run), recipe(), "cpu", stop_after_steps=1)
    for store in stores:
        shutil.rmtree(Path(store) / "pins")
    audit(stores[number])
    assert [one.folder for one in collect(stores[number], runs=[str(tmp_path / "runs")]).needed] == [str(run)]
    group = str(open_store(stores[number]).table.group[0])
    found = remove(stores[number], Choice(groups=(group,)), [str(tmp_path / "runs")])
    assert [one.folder for one in found.runs] == [str(run)]
    with pytest.raises(WithdrawnError, match="were withdrawn in generation 3"):
        train(stores, str(run), recipe(), "cpu")
