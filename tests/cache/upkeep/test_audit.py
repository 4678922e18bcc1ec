"""An audit finds a store whose latents are not what its teacher says, however the lie came about."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.builds import SMALL, small
from usjepa.cache.building import prepare as preparing
from usjepa.cache.building.build import build
from usjepa.cache.building.request import BuildRequest
from usjepa.cache.cli import main
from usjepa.cache.errors import IdentityError, UsageError
from usjepa.cache.reading.store import open_store
from usjepa.cache.store.writer import StoreWriter
from usjepa.cache.teacher.resolve import load_pass, load_teacher
from usjepa.cache.teacher.teacher import Alone
from usjepa.cache.teacher.vit import ViT, load_vit
from usjepa.cache.upkeep import audit as auditing
from usjepa.cache.upkeep.audit import _stratified_rows, audit
from usjepa.cache.upkeep.status import status_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from usjepa.cache.store.layers import Layer


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int4"])
def test_an_honest_store_passes_whatever_its_precision_and_batch_size(tmp_path: Path, precision: str) -> None:
    recipe = small(f"cache.precision={precision}")
    build(str(tmp_path / "s"), recipe, BuildRequest(teacher="random"))
    for batch_size in (1, 3, 64):
        asked = small(f"cache.precision={precision}", f"cache.teacher.batch_size={batch_size}")
        (found,) = audit(str(tmp_path / "s"), asked, "random", rows=12, record=False)
        assert found.passed, found
        assert found.cosine > 0.999
        assert found.control < 0.9


def _liar(change: Callable[[ViT], ViT]) -> Callable[..., Alone]:
    """Return a teacher that is changed after its identity was taken down."""

    def load(*args: Any, **kwargs: Any) -> Alone:
        teacher = load_teacher(*args, **kwargs)
        assert isinstance(teacher, ViT)
        return Alone(change(teacher))

    return load


def _other_checkpoint(teacher: ViT) -> ViT:
    other = small("cache.teacher.seed=99").cache
    assert other.teacher is not None
    return replace(teacher, model=load_vit(other.teacher, 32, teacher.device).model)


def _other_normalisation(teacher: ViT) -> ViT:
    return replace(teacher, input=replace(teacher.input, mean=(0.5,) * 3, std=(0.5,) * 3))


def _training_mode(teacher: ViT) -> ViT:
    for block in teacher.model.blocks:  # type: ignore[union-attr]
        block.mlp.drop1.p = 0.1
    teacher.model.train()
    return teacher


@pytest.mark.parametrize("lie", [_other_checkpoint, _other_normalisation, _training_mode])
def test_a_store_built_by_another_teacher_than_it_names_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Callable[[ViT], ViT]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "load_pass", _liar(lie))
        build(str(tmp_path / "s"), small(), BuildRequest(teacher="random"))
    (found,) = audit(str(tmp_path / "s"), small(), "random", rows=12)
    assert not found.passed
    assert found.relative_error > 10 * found.tolerance
    assert "DIFFERS from what the teacher computes" in str(found)


def test_rows_shuffled_before_writing_are_caught_and_look_like_the_control(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StoreWriter.write_shard

    def shuffle(writer: StoreWriter, layer: Layer, shard: int, rows: Any, *rest: Any) -> Any:
        rows = np.roll(rows, 1, axis=0) if "/" in layer.name else rows
        return real(writer, layer, shard, rows, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", shuffle)
        build(str(tmp_path / "s"), small(), BuildRequest(teacher="random"))
    (found,) = audit(str(tmp_path / "s"), small(), "random", rows=20)
    assert not found.passed
    assert abs(found.cosine - found.control) < 0.2


def test_two_rows_swapped_in_one_shard_are_caught_by_the_worst_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StoreWriter.write_shard

    def swap(writer: StoreWriter, layer: Layer, shard: int, rows: Any, *rest: Any) -> Any:
        if "/" in layer.name and writer.state.rows_of_shard(shard).start == 8:
            rows = rows.copy()
            rows[[0, 5]] = rows[[5, 0]]
        return real(writer, layer, shard, rows, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", swap)
        build(str(tmp_path / "s"), small(), BuildRequest(teacher="random"))
    (found,) = audit(str(tmp_path / "s"), small(), "random", rows=20)
    assert not found.passed
    assert found.worst_row in (8, 13)


def test_another_checkpoint_than_the_store_names_is_refused_by_identity(tmp_path: Path) -> None:
    build(str(tmp_path / "s"), small(), BuildRequest(teacher="random"))
    with pytest.raises(IdentityError, match=r"teacher\.weights"):
        audit(str(tmp_path / "s"), small("cache.teacher.seed=3"), "random")
    with pytest.raises(UsageError, match="no latents of 'else'"):
        audit(str(tmp_path / "s"), small("cache.teacher.name=else"), "random")


def test_the_result_is_kept_in_the_manifest_once_and_shown(tmp_path: Path) -> None:
    build(str(tmp_path / "s"), small(), BuildRequest(teacher="random"))
    (found,) = audit(str(tmp_path / "s"), small(), "random", rows=8)
    audit(str(tmp_path / "s"), small(), "random", rows=8)
    store = open_store(tmp_path / "s")
    assert store.generation == 2
    assert store.manifest.audits == (found.record(),)
    assert "audit of latents/demo: passed, 8 rows" in status_report(str(tmp_path / "s"))


@pytest.mark.slow
def test_a_compiled_teachers_latents_are_compared_with_the_eager_models_and_the_tolerance_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("cache.teacher.compile=true", "cache.teacher.depth=1")
    build(str(tmp_path / "s"), recipe, BuildRequest(teacher="random"))
    (found,) = audit(str(tmp_path / "s"), recipe, "random", rows=8)
    assert found.passed
    assert found.eager is not None
    assert found.eager < 1e-4
    assert f"not compiled, the model differs by {found.eager:.2g} (tolerance 0.005)" in str(found)
    assert open_store(tmp_path / "s").manifest.audits == (found.record(),)
    real = load_pass

    def other(settings: Any, size: int, device: Any) -> Any:
        return real(settings if settings.compile else settings.model_copy(update={"seed": 3}), size, device)

    monkeypatch.setattr(auditing, "load_pass", other)
    (found,) = audit(str(tmp_path / "s"), recipe, "random", rows=8, record=False)
    assert not found.passed


def test_the_sample_deals_rows_evenly_over_dataset_shard_and_view(tmp_path: Path) -> None:
    build(str(tmp_path / "s"), small())
    store = open_store(tmp_path / "s")
    strata = {(int(row) // 8, int(view)) for row, view in zip(store.rows, store.table.view, strict=True)}
    rows = _stratified_rows(store, len(strata))
    assert {(int(row) // 8, int(store.table.view[np.searchsorted(store.rows, row)])) for row in rows} == strata
    assert len(set(_stratified_rows(store, 1000))) == len(store)
    np.testing.assert_array_equal(_stratified_rows(store, 7), _stratified_rows(store, 7))


def test_the_commands_end_with_0_2_or_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, sets = str(tmp_path / "s"), [part for item in SMALL for part in ("--set", item)]

    def cli(*args: str) -> int:
        return CliRunner().invoke(main, args).exit_code

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "load_pass", _liar(_other_normalisation))
        build(store, small(), BuildRequest(teacher="random"))
    assert cli("audit", store, "--pipeline", "demo", *sets, "--teacher", "random") == 3
    assert cli("audit", store, "--teacher", "random") == 2
    assert cli("diff", store, "--pipeline", "demo", *sets, "--teacher", "random") == 0
    other = CliRunner().invoke(main, ["diff", store, "--pipeline", "demo", *sets, "--set", "cache.views.count=3"])
    assert other.exit_code == 2
    assert "identity.views.count: 2 | 3" in other.output
