"""Several blocks of one model are stored from one pass, each as if it had been built alone."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from tests.support.builds import SMALL, small, tree
from tests.support.processes import forked
from usjepa.cache.building.build import build, seal
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.errors import IdentityError, RecipeError, TeacherError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.teacher import vit
from usjepa.cache.teacher.resolve import load_pass
from usjepa.cache.teacher.vit import ViT
from usjepa.cache.upkeep.diff import diff
from usjepa.cache.upkeep.repair import repair
from usjepa.cache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from usjepa.cache.recipes.recipe import Recipe

DEPTHS = ("cache.teacher.depth=4", "cache.teacher.block=null")
THREE = "cache.teacher.blocks=[4, 1, 2]"
NAMES = ("demo.1", "demo.2", "demo.4")
TEACHER = BuildRequest(teacher="random")


def deep(*more: str) -> Recipe:
    return small(*DEPTHS, *more)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with three blocks of one model; never changed."""
    root = tmp_path_factory.mktemp("depths") / "s"
    build(str(root), deep(THREE), TEACHER)
    return root


def latents(root: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(root).items() if name.startswith(("latents/", "scales/", "commits/"))}


def test_each_block_has_the_rows_and_the_teacher_that_it_has_when_it_is_built_alone(
    together: Path, tmp_path: Path
) -> None:
    store = open_store(together)
    assert store.latents == sorted(NAMES)
    for block in (1, 2, 4):
        root = tmp_path / str(block)
        build(str(root), deep(f"cache.teacher.block={block}"), TEACHER)
        alone = open_store(root)
        assert alone.identity["latents/demo"] == store.identity[f"latents/demo.{block}"]
        one, other = (s.read(s.rows, teacher=name) for s, name in ((alone, "demo"), (store, f"demo.{block}")))
        assert one.latents.tobytes() == other.latents.tobytes()


def test_the_last_of_all_blocks_has_the_values_of_a_teacher_without_the_setting(together: Path, tmp_path: Path) -> None:
    build(str(tmp_path / "s"), deep(), TEACHER)
    plain, store = open_store(tmp_path / "s"), open_store(together)
    wanted = plain.read(plain.rows).latents.tobytes()
    assert store.read(store.rows, teacher="demo.4").latents.tobytes() == wanted
    assert plain.identity["latents/demo"]["teacher"]["block"] is None
    assert store.identity["latents/demo.4"]["teacher"]["block"] == 4


def test_a_shard_costs_one_pass_and_no_block_behind_the_deepest_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    real = ViT.depths

    def depths(self: ViT, x_BCSS: torch.Tensor, blocks: Sequence[int]) -> list[torch.Tensor]:
        asked.append(list(blocks))
        return real(self, x_BCSS, blocks)

    monkeypatch.setattr(ViT, "depths", depths)
    build(str(tmp_path / "s"), deep(THREE), TEACHER)
    # One image is tried before the scan; batches of 4 fill shards of 8, 8 and 4 rows.
    assert asked == [[1, 2, 4]] * (1 + 2 + 2 + 1)


def test_a_block_joins_later_from_stored_pixels_and_only_it_is_computed(
    together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    build(str(root), deep("cache.teacher.blocks=[4]"), TEACHER)
    before = tree(root)
    asked: list[list[int]] = []
    real = vit._intermediates

    def intermediates(
        model: torch.nn.Module, x_BCSS: torch.Tensor, blocks: Sequence[int], norm: bool, form: str
    ) -> list[torch.Tensor]:
        asked.append(list(blocks))
        return real(model, x_BCSS, blocks, norm, form)

    monkeypatch.setattr(vit, "_intermediates", intermediates)
    build(str(root), deep(THREE, "cache.phantom.patients=2", "cache.source=null"), TEACHER)
    assert asked[1:] == [[1, 2]] * 5  # after one image that tries the teacher
    assert latents(root) == latents(together)
    kept = {name: data for name, data in before.items() if name.startswith(("latents/demo.4", "pixels", "regions"))}
    assert kept.items() <= tree(root).items()


@pytest.mark.parametrize(
    ("shared", "precision"), [("parts", "fp16"), pytest.param("dask", "int8", marks=pytest.mark.slow)]
)
def test_parts_and_a_cluster_give_the_bytes_of_a_single_build(tmp_path: Path, shared: str, precision: str) -> None:
    recipe = (THREE, f"cache.precision={precision}")
    build(str(tmp_path / "whole"), deep(*recipe), TEACHER)
    assert forked.run(_share_out, str(tmp_path / "s"), recipe, shared) == 0
    assert tree(tmp_path / "s") == tree(tmp_path / "whole")


def _share_out(root: str, recipe: tuple[str, ...], shared: str) -> None:
    if shared == "dask":
        build(root, deep(*recipe), BuildRequest(teacher="random", dask="local:2"))
        return
    for part in ("2/2", "1/2"):
        build(root, deep(*recipe), BuildRequest(teacher="random", part=part))
    seal(root)


def _die(root: str, step: int, precision: str) -> None:
    forked.die_at_durable_step(step)
    build(root, deep(THREE, f"cache.precision={precision}"), TEACHER)


def _is_whole_again(tmp_path: Path, precision: str, steps: Iterable[int]) -> None:
    """Kill a build at each of some durable steps, and go on with it; ends where a build has no further step."""
    whole, wanted = tmp_path / "whole", deep(THREE, f"cache.precision={precision}")
    build(str(whole), wanted, TEACHER)
    for step in steps:
        root = tmp_path / str(step)
        ended = forked.run(_die, str(root), step, precision)
        build(str(root), wanted, TEACHER)
        assert tree(root) == tree(whole), f"killed at durable step {step}"
        if ended == 0:
            return
        assert ended == -signal.SIGKILL


@pytest.mark.parametrize(("precision", "step"), [pytest.param("fp32", 75, marks=pytest.mark.slow), ("int8", 101)])
def test_a_build_that_is_killed_ends_in_the_same_bytes(tmp_path: Path, precision: str, step: int) -> None:
    _is_whole_again(tmp_path, precision, [step])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_so_does_one_that_is_killed_at_any_step(tmp_path: Path, precision: str) -> None:
    _is_whole_again(tmp_path, precision, range(1, 1000, 5))


def test_each_layer_is_listed_described_audited_and_compared(together: Path, tmp_path: Path) -> None:
    def cli(*args: str) -> str:
        done = CliRunner().invoke(main, args, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    root = tmp_path / "s"
    build(str(root), deep(THREE), TEACHER)
    asked = [part for item in (*SMALL, *DEPTHS, THREE) for part in ("--set", item)]
    status = cli("status", str(root))
    audited = cli("audit", str(root), "--pipeline", "demo", *asked, "--teacher", "random", "--rows", "8")
    compared = cli("diff", str(root), "--pipeline", "demo", *asked, "--teacher", "random")
    for name in NAMES:
        assert f"layer latents/{name}: float32 [4 x 192], 3 of 3 shards written" in status
        assert f"latents/{name}: ok. 8 rows" in audited
        assert f"layer latents/{name}: the same" in compared
        assert "phantom" in cli("stats", str(root), "--teacher", name)
    assert open_store(root).generation == 2
    assert len(open_store(root).manifest.audits) == 3
    one = cli("audit", str(root), "--pipeline", "demo", *asked[:-2], "--set", "cache.teacher.blocks=[2]",
              "--teacher", "random", "--rows", "8", "--no-record")  # fmt: skip
    assert one.startswith("latents/demo.2: ok")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("blocks", ["[4, 1, 2]", "[2]"])
def test_a_damaged_block_is_repaired_to_its_bytes_and_the_others_are_left(
    tmp_path: Path, precision: str, blocks: str
) -> None:
    root, asked = tmp_path / "s", f"cache.precision={precision}"
    build(str(root), deep(THREE, asked), TEACHER)
    before = latents(root)
    shard = next((root / "latents/demo.2").glob("c.1.*"))
    data = bytearray(shard.read_bytes())
    data[100] ^= 255
    shard.write_bytes(data)
    (damage,) = verify(str(root)).damages
    assert damage.layer == "latents/demo.2"
    report = repair(str(root), deep(f"cache.teacher.blocks={blocks}", asked), teacher="random")
    assert not report.left
    assert {line.split(":")[0].partition("/")[2] for line in report.mended} == {"demo.2, shard 1"}
    assert latents(root) == before
    assert not verify(str(root)).damages


def test_a_repair_without_the_damaged_block_says_which_teacher_is_needed(tmp_path: Path) -> None:
    root = tmp_path / "s"
    build(str(root), deep(THREE), TEACHER)
    shard = next((root / "latents/demo.2").glob("c.1.*"))
    shard.write_bytes(b"x")
    report = repair(str(root), deep("cache.teacher.blocks=[1]"), teacher="random")
    assert "must be computed by the teacher 'demo.2' again" in report.left[0]


def test_a_block_of_another_model_is_refused_field_by_field(together: Path) -> None:
    with pytest.raises(IdentityError, match=r"latents/demo\.1[\s\S]*weights"):
        build(str(together), deep(THREE, "cache.teacher.seed=3"), TEACHER)
    found = diff(str(together), deep("cache.teacher.blocks=[2, 3]"), "random")
    assert found.hard == 0
    assert "layer latents/demo.3: not in the store yet" in found.lines


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("cache.teacher.blocks=[2, 2]",), "must name one block or more, each once"),
        (("cache.teacher.blocks=[]",), "must name one block or more"),
        (("cache.teacher.blocks=[0]",), "greater than or equal to 1"),
        (("cache.teacher.blocks=[2]", "cache.teacher.block=2"), r"leave out block \(2\)"),
        (("cache.teacher.blocks=2",), "valid array"),
    ],
)
def test_blocks_that_say_nothing_or_two_things_are_refused(settings: tuple[str, ...], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        small(*settings)


def test_a_block_behind_the_last_is_refused_before_anything_is_scanned(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cache\.teacher\.blocks=5: .* has 4 blocks"):
        build(str(tmp_path / "s"), deep("cache.teacher.blocks=[1, 5]"), TEACHER)
    assert not (tmp_path / "s").exists()


def test_a_reference_may_hold_some_of_the_blocks_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    settings = deep(THREE).cache.teacher
    assert settings is not None
    run, pixels = load_pass(settings, 32, "cpu"), torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    one, two, _ = (latents_BTD.contiguous() for latents_BTD in run(pixels))
    file = tmp_path / "r.safetensors"
    save_file({"pixels": pixels, "tokens.1": one, "tokens.2": two}, file)
    build(str(tmp_path / "s"), deep(THREE), BuildRequest(teacher="random", reference=str(file)))
    assert (tmp_path / "s/references/demo.safetensors").read_bytes() == file.read_bytes()
    save_file({"pixels": pixels, "tokens.1": one, "tokens.2": one + 0}, file)
    with pytest.raises(TeacherError, match=r"teacher demo\.2 gives other tokens"):
        build(str(tmp_path / "t"), deep(THREE), BuildRequest(teacher="random", reference=str(file)))
    save_file({"pixels": pixels, "tokens": one}, file)
    with pytest.raises(UsageError, match=r"none of tokens\.1, tokens\.2, tokens\.4"):
        build(str(tmp_path / "t"), deep(THREE), BuildRequest(teacher="random", reference=str(file)))
